-- Links that are mailed to people, good once and for a while. The token itself is signed, not stored: nothing in
-- this table opens an account.
CREATE TYPE token_purpose AS ENUM ('verify_email', 'reset_password', 'change_email', 'set_password');

CREATE TABLE one_time_tokens (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    purpose    token_purpose NOT NULL,
    email      citext NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX one_time_tokens_user ON one_time_tokens (user_id);

COMMENT ON COLUMN one_time_tokens.email IS 'The address that it was mailed to; a token for an address that has since changed is worth nothing';

-- What a job has to say to whoever waits for it: a mail test''s transcript, a report''s progress.
ALTER TABLE jobs ADD COLUMN result jsonb;
