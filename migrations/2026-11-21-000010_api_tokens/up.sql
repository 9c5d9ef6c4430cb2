-- What a person keeps in their account beside a password: tokens for programs, a change of address that both addresses
-- hear of, and a deletion that can be taken back for a week.
CREATE TABLE api_tokens (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    prefix       text NOT NULL,
    token_hash   bytea NOT NULL CONSTRAINT api_tokens_token_hash_key UNIQUE,
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0),
    project_id   uuid REFERENCES projects ON DELETE CASCADE,
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    created_at   timestamptz NOT NULL
);
CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_project ON api_tokens (project_id) WHERE project_id IS NOT NULL;

COMMENT ON COLUMN api_tokens.prefix IS 'The beginning of the token, by which its owner knows it again';
COMMENT ON COLUMN api_tokens.project_id IS 'Null: no restriction. A token whose project is deleted goes with it, so that it is never worth more than before';
COMMENT ON COLUMN api_tokens.last_used_at IS 'To the hour: written once in an hour at most';

ALTER TABLE one_time_tokens ADD COLUMN previous_email citext;
COMMENT ON COLUMN one_time_tokens.previous_email IS 'Of a change of address: what the account had when it was asked for. It is good for that account only while it still has it';

ALTER TABLE users ADD COLUMN deletion_requested_at timestamptz;
CREATE INDEX users_deletion ON users (deletion_requested_at) WHERE deletion_requested_at IS NOT NULL;
COMMENT ON COLUMN users.deletion_requested_at IS 'The account is deleted seven days later; logging in takes it back';
