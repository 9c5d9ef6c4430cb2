-- The ledger (design §2.1): what is owed, committed together with the data that needs it. Redis only decides
-- who works on it next. Half-filled pages and just two indexes keep a claim a heap-only update: an index on
-- a column that changes (`state` above all) costs a quarter of the throughput.
CREATE TYPE job_state AS ENUM ('ready', 'running', 'done', 'dead', 'cancelled');

CREATE TABLE jobs (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL,
    queue        text NOT NULL,
    lane         text NOT NULL,
    args         jsonb NOT NULL,
    state        job_state NOT NULL DEFAULT 'ready',
    priority     smallint NOT NULL DEFAULT 1 CHECK (priority BETWEEN 0 AND 3),
    run_at       timestamptz NOT NULL,
    attempt      smallint NOT NULL DEFAULT 0,
    fence        integer NOT NULL DEFAULT 0,
    crashes      smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL CHECK (max_attempts > 0),
    alive_until  timestamptz,
    pushed_at    timestamptz,
    unique_key   text,
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz,
    worker       text,
    errors       jsonb NOT NULL DEFAULT '[]',
    request_id   text,
    traceparent  text,
    CHECK ((finished_at IS NULL) = (state IN ('ready', 'running')))
) WITH (fillfactor = 50);

CREATE INDEX jobs_unfinished ON jobs (run_at) WHERE finished_at IS NULL;
CREATE UNIQUE INDEX jobs_unique_key ON jobs (unique_key) WHERE unique_key IS NOT NULL;

COMMENT ON COLUMN jobs.lane IS 'Whose work it is (a user, a webhook endpoint): queues are fair between lanes';
COMMENT ON COLUMN jobs.attempt IS 'Tries charged; a snooze or a release gives one back';
COMMENT ON COLUMN jobs.fence IS 'Claims ever made; only rises, so a late finish of an earlier claim is refused';
COMMENT ON COLUMN jobs.crashes IS 'Times that a worker died holding it; three make it dead';
COMMENT ON COLUMN jobs.errors IS 'The last ten: [{at, attempt, worker, text}], each text at most 4 KiB';

-- Pause lives here, where every worker reads it each second. `epoch` is what Redis must hold for this queue;
-- if it does not, Redis lost its data and everything is pushed again.
CREATE TABLE queues (
    name      text PRIMARY KEY,
    paused_at timestamptz,
    paused_by text,
    reason    text,
    probe_at  timestamptz,
    epoch     uuid
);

-- The last slot of each cron schedule that became a job: where catching up starts.
CREATE TABLE scheduler_state (
    name         text PRIMARY KEY,
    last_slot_at timestamptz NOT NULL
);
