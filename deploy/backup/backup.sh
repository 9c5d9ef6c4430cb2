#!/usr/bin/env bash
# Backs the database up:
#   backup.sh once    now
#   backup.sh daily   every day at BACKUP_AT, for ever; also at the start, if the newest is older than a day
#
# A backup is pg_dump's custom format (one consistent snapshot; readers and writers go on), encrypted by GnuPG. GnuPG
# because it authenticates what it encrypts (`openssl enc` does not), is in the image of PostgreSQL already, and will be
# on whatever machine has to read this in ten years.
#
#   BACKUP_DATABASE_URL   or BACKUP_DATABASE_URL_FILE: the database, as its owner
#   BACKUP_KEY_FILE       the passphrase; keep a copy elsewhere, together with SECRET_KEYS
#   BACKUP_DIR            where to (/backups)
#   BACKUP_KEEP_DAYS      how long they are kept (14)
#   BACKUP_AT             when, in UTC (03:15)
set -euo pipefail
umask 077

fail() {
    echo "backup: $*" >&2
    exit 1
}

dir=${BACKUP_DIR:-/backups}
keep=${BACKUP_KEEP_DAYS:-14}
at=${BACKUP_AT:-03:15}
key=${BACKUP_KEY_FILE:?BACKUP_KEY_FILE names no file with a passphrase}
[[ -n ${BACKUP_DATABASE_URL:-} ]] || BACKUP_DATABASE_URL=$(cat "${BACKUP_DATABASE_URL_FILE:?no BACKUP_DATABASE_URL}")
[[ $keep =~ ^[1-9][0-9]*$ ]] || fail "BACKUP_KEEP_DAYS is '$keep': write a number of days"
[[ $at =~ ^([01][0-9]|2[0-3]):[0-5][0-9]$ ]] || fail "BACKUP_AT is '$at': write a time of day such as 03:15"
[[ -s $key ]] || fail "$key is empty or not there: it has to hold a passphrase"
[[ -w $dir ]] || fail "$dir cannot be written to"
for program in pg_dump pg_restore psql gpg; do
    command -v "$program" >/dev/null || fail "there is no program $program"
done

# The password goes through the environment: arguments are seen by everybody on the machine.
if [[ $BACKUP_DATABASE_URL =~ ^([a-z]+://[^:/@]*):([^@]*)@(.*)$ ]]; then
    printf -v PGPASSWORD '%b' "${BASH_REMATCH[2]//%/\\x}"
    export PGPASSWORD
    BACKUP_DATABASE_URL=${BASH_REMATCH[1]}@${BASH_REMATCH[3]}
fi

GNUPGHOME=$(mktemp -d)
export GNUPGHOME
unfinished=
trap 'gpgconf --kill gpg-agent || :; rm -rf "$GNUPGHOME" ${unfinished:+"$unfinished"}' EXIT

gpg_quietly() {
    gpg --batch --quiet --no-options --pinentry-mode loopback --passphrase-file "$key" "$@"
}

once() {
    local file size
    file=$dir/tasktracker-$(date -u +%Y%m%dT%H%M%SZ).dump.gpg
    unfinished=$file.unfinished
    pg_dump --format=custom --dbname="$BACKUP_DATABASE_URL" |
        gpg_quietly --symmetric --cipher-algo AES256 --compress-algo none --output "$unfinished" ||
        fail "the dump failed; see above"
    # Read to its end: a backup that cannot be decrypted is none.
    gpg_quietly --decrypt "$unfinished" | { pg_restore --list >/dev/null && cat >/dev/null; } ||
        fail "what was written cannot be read again"
    sync "$unfinished"
    mv "$unfinished" "$file"
    unfinished=
    size=$(wc -c <"$file")
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname="$BACKUP_DATABASE_URL" \
        --set file="$(basename "$file")" --set size="$size" <<'SQL'
INSERT INTO backups (finished_at, size_bytes, file) VALUES (now(), :size, :'file');
SQL
    # Only after a success: who cannot back up any more keeps the old ones.
    find "$dir" -maxdepth 1 -name 'tasktracker-*.dump.gpg' -mtime "+$keep" -delete
    find "$dir" -maxdepth 1 -name '*.unfinished' -mtime +1 -delete
    echo "backup: $file, $size bytes"
}

daily() {
    if [[ -z $(find "$dir" -maxdepth 1 -name 'tasktracker-*.dump.gpg' -mtime -1 -print -quit) ]]; then
        again
    fi
    while :; do
        local now next
        now=$(date -u +%s)
        next=$(date -u -d "today $at" +%s)
        ((next > now)) || next=$(date -u -d "tomorrow $at" +%s)
        # In the background, so that a signal is heard.
        sleep $((next - now)) &
        wait $!
        again
    done
}

# A failure is told, and tried again after ten minutes until it is a success: the alert counts from the last one.
again() {
    until (once); do
        sleep 600 &
        wait $!
    done
}

trap 'exit 0' TERM INT
case ${1:-} in
once) once ;;
daily) daily ;;
*) fail "usage: backup.sh once|daily" ;;
esac
