#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, once: what is there already stays. Keep a copy of the
# folder elsewhere: without backup_key no backup can be read, without secret_keys not what was sealed with it.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

# A secret is read by the user of the container (65532 in our image), who is nobody here.
write() {
    [ -s "secrets/$1" ] && return
    printf '%s' "$2" >"secrets/$1"
    echo "made deploy/secrets/$1"
}
random() {
    head -c 32 /dev/urandom | base64 | tr -d '+/=\n' | cut -c 1-40
}

write postgres_owner_password "$(random)"
write postgres_app_password "$(random)"
write redis_password "$(random)"
write grafana_password "$(random)"
write backup_key "$(random)"
write secret_keys "k1:$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
write database_url "postgres://tasktracker_app:$(cat secrets/postgres_app_password)@postgres/tasktracker"
write migrate_database_url "postgres://tasktracker_owner:$(cat secrets/postgres_owner_password)@postgres/tasktracker"
write redis_url "redis://:$(cat secrets/redis_password)@redis"
# Compose mounts these files as they are; the folder itself keeps others out.
chmod 644 secrets/*
echo "Grafana: user admin, password in deploy/secrets/grafana_password"
