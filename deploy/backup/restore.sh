#!/usr/bin/env bash
# Restores a backup into an empty database:
#   restore.sh FILE
#
# Stop API, workers and schedulers first, and start them afterwards. What was pending when the backup was made is pending
# again, and runs; Redis is filled anew, whatever it holds.
#
#   RESTORE_DATABASE_URL   or RESTORE_DATABASE_URL_FILE: the empty database, as its owner; both roles have to exist
#   BACKUP_KEY_FILE        the passphrase
set -euo pipefail
umask 077

fail() {
    echo "restore: $*" >&2
    exit 1
}

file=${1:-}
[[ -n $file ]] || fail "usage: restore.sh FILE"
[[ -s $file ]] || fail "$file is empty or not there"
key=${BACKUP_KEY_FILE:?BACKUP_KEY_FILE names no file with a passphrase}
[[ -s $key ]] || fail "$key is empty or not there: it has to hold the passphrase of the backup"
[[ -n ${RESTORE_DATABASE_URL:-} ]] || RESTORE_DATABASE_URL=$(cat "${RESTORE_DATABASE_URL_FILE:?no RESTORE_DATABASE_URL}")

# The password goes through the environment: arguments are seen by everybody on the machine.
if [[ $RESTORE_DATABASE_URL =~ ^([a-z]+://[^:/@]*):([^@]*)@(.*)$ ]]; then
    printf -v PGPASSWORD '%b' "${BASH_REMATCH[2]//%/\\x}"
    export PGPASSWORD
    RESTORE_DATABASE_URL=${BASH_REMATCH[1]}@${BASH_REMATCH[3]}
fi

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
trap 'gpgconf --kill gpg-agent || :; rm -rf "$GNUPGHOME"' EXIT

sql() {
    psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --dbname="$RESTORE_DATABASE_URL" "$@"
}

tables=$(sql --command "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
((tables == 0)) || fail "the database has $tables tables already; restore into an empty one (CREATE DATABASE tasktracker OWNER tasktracker_owner)"

decrypt() {
    gpg --batch --quiet --no-options --pinentry-mode loopback --passphrase-file "$key" --decrypt "$file"
}

# All or nothing. GnuPG says only at the end whether a file was tampered with, which is too late for a pipe.
decrypt >/dev/null || fail "the backup is damaged, or the passphrase is another one; nothing was changed"
decrypt |
    pg_restore --dbname="$RESTORE_DATABASE_URL" --exit-on-error --single-transaction ||
    fail "the backup could not be restored; see above"

sql <<'SQL'
BEGIN;
-- Who held these is gone. That was no fault of theirs: no attempt is charged, and no crash.
UPDATE jobs SET state = 'ready', attempt = greatest(attempt - 1, 0), alive_until = NULL, pushed_at = NULL
WHERE state = 'running';
-- Redis holds another time than the ledger, or nothing: a queue without an expected epoch is compared as a whole.
UPDATE queues SET epoch = NULL;
COMMIT;
-- The catalogues are not the owner's, and it would be told so for each.
SET client_min_messages = error;
ANALYZE;
SQL
echo "restore: $file; $(sql --command "SELECT count(*) FROM jobs WHERE finished_at IS NULL") jobs are pending"
