#!/bin/sh
# Runs once, in an empty database: the role that the programs use. The owner is POSTGRES_USER; what each may do, the
# migrations say.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set password="$(cat /run/secrets/postgres_app_password)" <<'SQL'
CREATE ROLE tasktracker_app LOGIN PASSWORD :'password';
SQL
