-- What a person wants to be told and when, the daily summaries that follow from it, and what must not be sent any
-- more (semantics §7, §10).
CREATE TYPE mail_kind AS ENUM ('reminder', 'daily_summary', 'weekly_report', 'webhook_notice', 'security');
CREATE TYPE digest_state AS ENUM ('planned', 'sending', 'sent', 'skipped', 'skipped_empty', 'skipped_late', 'unknown', 'failed');
CREATE TYPE suppression_reason AS ENUM ('unsubscribe', 'bounce', 'admin');

CREATE TABLE user_notification_prefs (
    user_id               uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    reminders_email       boolean NOT NULL DEFAULT true,
    digest_enabled        boolean NOT NULL DEFAULT true,
    digest_time           time NOT NULL DEFAULT '08:00',
    digest_days           smallint NOT NULL DEFAULT 127 CHECK (digest_days BETWEEN 0 AND 127),
    digest_lookahead_days smallint NOT NULL DEFAULT 0 CHECK (digest_lookahead_days BETWEEN 0 AND 14),
    digest_include_nodate boolean NOT NULL DEFAULT false,
    digest_skip_empty     boolean NOT NULL DEFAULT true,
    paused_until          timestamptz,
    next_digest_at        timestamptz,
    version               integer NOT NULL DEFAULT 1,
    updated_at            timestamptz NOT NULL
);
CREATE INDEX user_notification_prefs_due ON user_notification_prefs (next_digest_at) WHERE next_digest_at IS NOT NULL;

COMMENT ON COLUMN user_notification_prefs.digest_days IS 'Bit 0 is Monday … bit 6 is Sunday';
COMMENT ON COLUMN user_notification_prefs.next_digest_at IS 'Computed in code, with our time-zone database; null: no summary is wanted';

-- Accounts that were there before get their row from the scheduler, which knows the time zones.

CREATE TABLE digest_runs (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    local_date   date NOT NULL,
    requested    boolean NOT NULL DEFAULT false,
    scheduled_at timestamptz NOT NULL,
    state        digest_state NOT NULL DEFAULT 'planned',
    reason       text,
    item_count   integer,
    job_id       uuid,
    message_id   text,
    smtp_reply   text CHECK (length(smtp_reply) <= 500),
    sent_at      timestamptz,
    late_by_s    integer,
    request_id   text,
    traceparent  text,
    created_at   timestamptz NOT NULL
);
-- At most one summary per person and local day, whatever restarts, replicas or clocks do. What somebody asks for
-- by hand comes beside it.
CREATE UNIQUE INDEX digest_runs_once ON digest_runs (user_id, local_date) WHERE NOT requested;
CREATE INDEX digest_runs_user ON digest_runs (user_id, id);
CREATE INDEX digest_runs_open ON digest_runs (id) WHERE state IN ('planned', 'sending');

CREATE TABLE mail_suppressions (
    id           uuid PRIMARY KEY,
    user_id      uuid REFERENCES users ON DELETE CASCADE,
    address_hash bytea NOT NULL,
    kind         mail_kind,
    reason       suppression_reason NOT NULL,
    detail       text CHECK (length(detail) <= 500),
    created_at   timestamptz NOT NULL,
    CONSTRAINT mail_suppressions_once UNIQUE NULLS NOT DISTINCT (address_hash, kind)
);
CREATE INDEX mail_suppressions_user ON mail_suppressions (user_id) WHERE user_id IS NOT NULL;

COMMENT ON COLUMN mail_suppressions.kind IS 'Null: every kind but security mail';

-- Addresses that answered with a permanent error (5xx): the second one suppresses.
CREATE TABLE mail_bounces (
    address_hash bytea PRIMARY KEY,
    bounces      integer NOT NULL DEFAULT 1,
    last_reply   text CHECK (length(last_reply) <= 500),
    last_at      timestamptz NOT NULL
);

-- What has left for a person on a day (UTC): MAIL_PER_USER_PER_DAY is held against it.
CREATE TABLE mail_counts (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    day     date NOT NULL,
    sent    integer NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day)
);

-- Signed links of mails that were used: each action works once (semantics §10).
CREATE TABLE mail_actions (
    token_id uuid PRIMARY KEY,
    user_id  uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    task_id  uuid NOT NULL,
    action   text NOT NULL,
    used_at  timestamptz NOT NULL
);
CREATE INDEX mail_actions_user ON mail_actions (user_id);
