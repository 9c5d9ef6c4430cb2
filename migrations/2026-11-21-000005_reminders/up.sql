-- Reminders are what a person asked for; fires are the deliveries that follow, one row each, planned in the
-- transaction that changes the task. A fire is never deleted by a change: "why was or wasn't this mail sent"
-- is answered here (semantics §4, §5).
CREATE TYPE reminder_kind AS ENUM ('relative', 'absolute');
CREATE TYPE channel AS ENUM ('email');
CREATE TYPE fire_state AS ENUM ('planned', 'deferred', 'queued', 'sending', 'sent', 'dead', 'cancelled', 'skipped');

CREATE TABLE reminders (
    id             uuid PRIMARY KEY,
    task_id        uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    kind           reminder_kind NOT NULL,
    offset_minutes integer,
    at_local       timestamp,
    at_zone        text,
    created_at     timestamptz NOT NULL,
    removed_at     timestamptz,
    CHECK (CASE kind
        WHEN 'relative' THEN offset_minutes IS NOT NULL AND at_local IS NULL AND at_zone IS NULL
        WHEN 'absolute' THEN offset_minutes IS NULL AND at_local IS NOT NULL AND at_zone IS NOT NULL END)
);
CREATE INDEX reminders_task ON reminders (task_id);
CREATE INDEX reminders_user ON reminders (user_id);
CREATE UNIQUE INDEX reminders_relative_key ON reminders (task_id, user_id, offset_minutes)
    WHERE kind = 'relative' AND removed_at IS NULL;
CREATE UNIQUE INDEX reminders_absolute_key ON reminders (task_id, user_id, at_local, at_zone)
    WHERE kind = 'absolute' AND removed_at IS NULL;

CREATE TABLE reminder_fires (
    id            uuid PRIMARY KEY,
    reminder_id   uuid NOT NULL REFERENCES reminders ON DELETE CASCADE,
    task_id       uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    user_id       uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    channel       channel NOT NULL DEFAULT 'email',
    occurrence_no integer NOT NULL DEFAULT 0,
    plan_no       integer NOT NULL DEFAULT 1,
    slot          integer NOT NULL DEFAULT 0,
    fire_at       timestamptz NOT NULL,
    planned_for   timestamptz NOT NULL,
    state         fire_state NOT NULL DEFAULT 'planned',
    reason        text,
    job_id        uuid,
    message_id    text,
    smtp_reply    text CHECK (length(smtp_reply) <= 500),
    sent_at       timestamptz,
    late_by_s     integer,
    missed_at     timestamptz,
    request_id    text,
    traceparent   text,
    created_at    timestamptz NOT NULL,
    CONSTRAINT reminder_fires_once UNIQUE (reminder_id, user_id, channel, occurrence_no, plan_no, slot)
);
CREATE INDEX reminder_fires_due ON reminder_fires (fire_at) WHERE state IN ('planned', 'deferred');
-- What a job takes when it runs, and what a person still gets.
CREATE INDEX reminder_fires_user ON reminder_fires (user_id, fire_at) WHERE state IN ('planned', 'deferred', 'queued', 'sending');
CREATE INDEX reminder_fires_task ON reminder_fires (task_id);
-- What the next daily summary lists.
CREATE INDEX reminder_fires_missed ON reminder_fires (user_id, missed_at) WHERE missed_at IS NOT NULL;
CREATE INDEX reminder_fires_job ON reminder_fires (job_id) WHERE job_id IS NOT NULL;

COMMENT ON COLUMN reminders.removed_at IS 'Removed reminders keep their fires, so that what was sent stays explained';
COMMENT ON COLUMN reminder_fires.plan_no IS 'Rises when a moved task has to remind again although the earlier plan was settled';
COMMENT ON COLUMN reminder_fires.planned_for IS 'The instant before any deferral';
COMMENT ON COLUMN reminder_fires.missed_at IS 'When it was found to be too late because nothing ran at its time (semantics §9)';
