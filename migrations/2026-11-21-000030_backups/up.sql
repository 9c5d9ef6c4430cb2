-- Backups that were made, for the alert on their age. Whoever makes one writes a row when it is complete; a restored
-- database knows of those before its own.
CREATE TABLE backups (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    finished_at timestamptz NOT NULL,
    size_bytes  bigint NOT NULL CHECK (size_bytes > 0),
    file        text NOT NULL
);
CREATE INDEX backups_finished_at ON backups (finished_at);
