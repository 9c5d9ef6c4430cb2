-- The audit trail: who did what, and when. It stands apart from what it is about, so that it outlives it; rows are only
-- ever added, and a job seals them in batches, so that a change behind our back shows.
CREATE TABLE audit_events (
    -- First, so that a transaction has its number before it takes a `seq`: sealing relies on that.
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          uuid NOT NULL,
    happened_at timestamptz NOT NULL,
    actor_id    uuid,
    actor_label text NOT NULL CHECK (length(actor_label) <= 320),
    event_type  text NOT NULL,
    entity_type text NOT NULL,
    entity_id   uuid,
    task_id     uuid,
    ip_hash     bytea,
    request_id  text,
    details     jsonb
);
CREATE INDEX audit_events_task ON audit_events (task_id, seq) WHERE task_id IS NOT NULL;
CREATE INDEX audit_events_actor ON audit_events (actor_id, seq) WHERE actor_id IS NOT NULL;
-- What belongs to a task is found by its task.
CREATE INDEX audit_events_entity ON audit_events (entity_id, seq) WHERE task_id IS NULL AND entity_id IS NOT NULL;

COMMENT ON COLUMN audit_events.actor_label IS 'What the actor was called then: an address, or system';
COMMENT ON COLUMN audit_events.ip_hash IS 'A keyed hash of the client''s address: the same address has the same one';

CREATE TABLE audit_seals (
    to_seq      bigint PRIMARY KEY,
    from_seq    bigint NOT NULL,
    row_count   integer NOT NULL,
    sha256      bytea NOT NULL CHECK (length(sha256) = 32),
    prev_sha256 bytea NOT NULL CHECK (length(prev_sha256) = 32),
    sealed_at   timestamptz NOT NULL,
    CHECK (from_seq <= to_seq AND row_count > 0)
);

-- How far the next round may seal: rows up to `seq`, once no transaction is open that began before `xid`.
CREATE TABLE audit_horizon (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq      bigint NOT NULL,
    xid      xid8 NOT NULL
);
INSERT INTO audit_horizon (seq, xid) VALUES (0, '0');

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
REVOKE UPDATE, DELETE, TRUNCATE ON audit_events, audit_seals FROM tasktracker_app;
