-- Accounts and their sessions. Tokens are stored hashed; a session is a family of refresh tokens, of which
-- only the newest is good (design §5).
CREATE TYPE user_role AS ENUM ('user', 'admin');

CREATE TABLE users (
    id                uuid PRIMARY KEY,
    email             citext NOT NULL CONSTRAINT users_email_key UNIQUE CHECK (length(email) BETWEEN 3 AND 254),
    email_verified_at timestamptz,
    password_hash     text,
    full_name         text NOT NULL CHECK (length(full_name) BETWEEN 1 AND 200),
    role              user_role NOT NULL DEFAULT 'user',
    is_active         boolean NOT NULL DEFAULT true,
    time_zone         text NOT NULL,
    day_start         time NOT NULL DEFAULT '09:00',
    version           integer NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
);

CREATE TABLE refresh_tokens (
    id                  uuid PRIMARY KEY,
    family_id           uuid NOT NULL,
    user_id             uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash          bytea NOT NULL CONSTRAINT refresh_tokens_token_hash_key UNIQUE,
    issued_at           timestamptz NOT NULL,
    expires_at          timestamptz NOT NULL,
    absolute_expires_at timestamptz NOT NULL,
    rotated_at          timestamptz,
    reused_at           timestamptz,
    revoked_at          timestamptz,
    user_agent          text,
    ip_hash             bytea
);

CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id) WHERE revoked_at IS NULL;
-- Read by every API process each second: the sessions revoked while their access tokens still live.
CREATE INDEX refresh_tokens_revoked ON refresh_tokens (revoked_at) WHERE revoked_at IS NOT NULL;

COMMENT ON COLUMN refresh_tokens.reused_at IS 'The one further use that is allowed within seconds of a rotation (two tabs, a lost answer)';
