-- Webhooks after Standard Webhooks. A change writes one event and one fan_out_event job; the deliveries follow from
-- those, so that a request never waits for the number of its subscribers. Events name things by plain uuids: what
-- happened stays true when the thing is gone.
CREATE TYPE endpoint_state AS ENUM ('active', 'paused', 'auto_disabled', 'gone');
CREATE TYPE delivery_state AS ENUM ('pending', 'in_flight', 'succeeded', 'failed', 'exhausted', 'cancelled');

CREATE TABLE webhook_endpoints (
    id                    uuid PRIMARY KEY,
    owner_id              uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    project_id            uuid REFERENCES projects ON DELETE CASCADE,
    url                   text NOT NULL CHECK (length(url) <= 2048),
    description           text CHECK (length(description) <= 500),
    events                text[] NOT NULL,
    secret_enc            bytea NOT NULL,
    previous_secret_enc   bytea,
    previous_secret_until timestamptz,
    state                 endpoint_state NOT NULL DEFAULT 'active',
    failure_streak        integer NOT NULL DEFAULT 0,
    first_failure_at      timestamptz,
    last_success_at       timestamptz,
    retry_at              timestamptz,
    version               integer NOT NULL DEFAULT 1,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL
);
CREATE INDEX webhook_endpoints_owner ON webhook_endpoints (owner_id);
CREATE INDEX webhook_endpoints_project ON webhook_endpoints (project_id) WHERE project_id IS NOT NULL;

COMMENT ON COLUMN webhook_endpoints.secret_enc IS 'Sealed with a key of SECRET_KEYS (purpose at-rest)';
COMMENT ON COLUMN webhook_endpoints.first_failure_at IS 'Start of the present streak of failures; five days without a success disable';
COMMENT ON COLUMN webhook_endpoints.retry_at IS 'The circuit is open until then: no delivery of this endpoint is tried, but one at that time';

CREATE TABLE events (
    id          uuid PRIMARY KEY,
    seq         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT events_seq_key UNIQUE,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    event_type  text NOT NULL,
    actor_id    uuid,
    owner_id    uuid,
    assignee_id uuid,
    project_id  uuid,
    task_id     uuid,
    data        jsonb NOT NULL,
    changes     jsonb,
    request_id  text,
    traceparent text,
    created_at  timestamptz NOT NULL
);

COMMENT ON COLUMN events.seq IS 'Rises, with gaps; a receiver uses it to discard older states';

CREATE TABLE webhook_deliveries (
    id               uuid PRIMARY KEY,
    endpoint_id      uuid NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    event_id         uuid NOT NULL,
    event_type       text NOT NULL,
    task_id          uuid,
    state            delivery_state NOT NULL DEFAULT 'pending',
    attempts         integer NOT NULL DEFAULT 0,
    job_id           uuid,
    redelivery_of    uuid,
    response_status  smallint,
    response_ms      integer,
    response_body    text CHECK (octet_length(response_body) <= 16384),
    error            text CHECK (length(error) <= 500),
    last_attempt_at  timestamptz,
    finished_at      timestamptz,
    request_id       text,
    traceparent      text,
    created_at       timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX webhook_deliveries_once ON webhook_deliveries (endpoint_id, event_id) WHERE redelivery_of IS NULL;
-- Whether a delivery was repeated.
CREATE INDEX webhook_deliveries_again ON webhook_deliveries (endpoint_id, event_id) WHERE redelivery_of IS NOT NULL;
-- The log, newest first (ids are in time order).
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, id);
-- What is not settled: how much an endpoint has to wait for, and what is cancelled when it is gone. The predicate names
-- finished_at and not the state, so that a failed attempt is a HOT update.
CREATE INDEX webhook_deliveries_open ON webhook_deliveries (endpoint_id, id) WHERE finished_at IS NULL;

COMMENT ON COLUMN webhook_deliveries.event_id IS 'Also the webhook-id that receivers see, the same on every retry';
