-- Reports that take longer than an answer may: a job computes them piece by piece, and they are kept for a few days.
CREATE TYPE report_group AS ENUM ('day', 'week');

CREATE TABLE reports (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    first_day    date NOT NULL,
    last_day     date NOT NULL,
    grouped_by   report_group NOT NULL,
    time_zone    text NOT NULL,
    periods      integer NOT NULL CHECK (periods > 0),
    done_periods integer NOT NULL DEFAULT 0,
    lines        jsonb NOT NULL DEFAULT '[]',
    job_id       uuid,
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    CHECK (first_day <= last_day AND done_periods BETWEEN 0 AND periods)
);
CREATE INDEX reports_user ON reports (user_id, created_at);
