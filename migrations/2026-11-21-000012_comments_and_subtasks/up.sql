-- What people say about a task, tasks inside tasks, their order by hand, words to find them by, and tags that a
-- project's people share.
CREATE TABLE comments (
    id         uuid PRIMARY KEY,
    task_id    uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    author_id  uuid REFERENCES users ON DELETE SET NULL,
    body       text NOT NULL CHECK (octet_length(body) <= 32768),
    edited_at  timestamptz,
    deleted_at timestamptz,
    version    integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL
);
-- The thread, the oldest first (ids are in time order).
CREATE INDEX comments_task ON comments (task_id, id);
CREATE INDEX comments_author ON comments (author_id) WHERE author_id IS NOT NULL;

ALTER TABLE tasks
    ADD COLUMN parent_id uuid REFERENCES tasks ON DELETE SET NULL CHECK (parent_id <> id),
    ADD COLUMN position double precision NOT NULL DEFAULT 0,
    ADD COLUMN search tsvector NOT NULL
        GENERATED ALWAYS AS (to_tsvector('simple', title || ' ' || coalesce(description, ''))) STORED;
CREATE INDEX tasks_search ON tasks USING gin (search);
CREATE INDEX tasks_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;

ALTER TABLE tags
    ALTER COLUMN owner_id DROP NOT NULL,
    ADD COLUMN project_id uuid REFERENCES projects ON DELETE CASCADE,
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    ADD CONSTRAINT tags_project_id_name_key UNIQUE (project_id, name_key),
    ADD CONSTRAINT tags_scope CHECK (num_nonnulls(owner_id, project_id) = 1);

COMMENT ON COLUMN comments.deleted_at IS 'The row stays, so that the thread can be followed; the body is emptied';
COMMENT ON COLUMN tasks.position IS 'Among the tasks of the same place: seconds since 1970 at first, so that what is new comes last';
COMMENT ON COLUMN tags.owner_id IS 'Whose word it is, on tasks that are in no project; else project_id';
