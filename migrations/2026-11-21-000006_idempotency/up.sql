-- Answers kept for 24 hours under the client's Idempotency-Key, written in the transaction of their effect:
-- a retry after a lost answer gets the same answer, and the effect happens once.
CREATE TABLE idempotency_keys (
    principal        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    method           text NOT NULL,
    path             text NOT NULL,
    key              text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    body_sha256      bytea NOT NULL,
    status           smallint NOT NULL,
    response_headers jsonb NOT NULL,
    response_body    bytea NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    PRIMARY KEY (principal, method, path, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
