-- Tasks, their tags, and the projects they may belong to. A due date has three kinds (semantics §2); what the
-- person meant is stored, `due_at` is the instant that follows from it.
CREATE TYPE task_status AS ENUM ('todo', 'in_progress', 'done', 'cancelled');
CREATE TYPE task_priority AS ENUM ('none', 'low', 'medium', 'high', 'urgent');
CREATE TYPE due_kind AS ENUM ('date', 'floating', 'zoned');

CREATE TABLE projects (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description text,
    owner_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    archived_at timestamptz,
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);
CREATE INDEX projects_owner ON projects (owner_id);

CREATE TABLE tasks (
    id            uuid PRIMARY KEY,
    project_id    uuid REFERENCES projects ON DELETE SET NULL,
    owner_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    assignee_id   uuid REFERENCES users ON DELETE SET NULL,
    created_by    uuid REFERENCES users ON DELETE SET NULL,
    title         text NOT NULL CHECK (length(title) BETWEEN 1 AND 500),
    description   text CHECK (octet_length(description) <= 65536),
    status        task_status NOT NULL DEFAULT 'todo',
    priority      task_priority NOT NULL DEFAULT 'none',
    due_kind      due_kind,
    due_date      date,
    due_time      time,
    due_zone      text,
    due_at        timestamptz,
    completed_at  timestamptz,
    cancelled_at  timestamptz,
    archived_at   timestamptz,
    deleted_at    timestamptz,
    occurrence_no integer NOT NULL DEFAULT 0,
    version       integer NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CHECK ((due_kind IS NULL) = (due_date IS NULL) AND (due_kind IS NULL) = (due_at IS NULL)),
    CHECK (CASE due_kind
        WHEN 'date' THEN due_time IS NULL AND due_zone IS NULL
        WHEN 'floating' THEN due_time IS NOT NULL AND due_zone IS NULL
        WHEN 'zoned' THEN due_time IS NOT NULL AND due_zone IS NOT NULL
        ELSE due_time IS NULL AND due_zone IS NULL END),
    CHECK ((status = 'done') = (completed_at IS NOT NULL)),
    CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL))
) WITH (fillfactor = 85);

-- The default list: what is open before what is closed, then by due date (so overdue comes first), by
-- priority, by age; of what one has, of what one does, and of a project.
CREATE INDEX tasks_list ON tasks (owner_id, (status IN ('done', 'cancelled')), (coalesce(due_at, 'infinity')), priority DESC, id);
CREATE INDEX tasks_assignee ON tasks (assignee_id, (status IN ('done', 'cancelled')), (coalesce(due_at, 'infinity')), priority DESC, id)
    WHERE assignee_id IS NOT NULL;
CREATE INDEX tasks_project ON tasks (project_id, (status IN ('done', 'cancelled')), (coalesce(due_at, 'infinity')), priority DESC, id)
    WHERE project_id IS NOT NULL;
CREATE INDEX tasks_created_by ON tasks (created_by);
CREATE INDEX tasks_completed ON tasks (completed_at) WHERE completed_at IS NOT NULL AND archived_at IS NULL;
CREATE INDEX tasks_archived ON tasks (archived_at) WHERE archived_at IS NOT NULL;
CREATE INDEX tasks_deleted ON tasks (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE tags (
    id         uuid PRIMARY KEY,
    owner_id   uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 50),
    name_key   text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT tags_owner_id_name_key UNIQUE (owner_id, name_key)
);

CREATE TABLE task_tags (
    task_id uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    tag_id  uuid NOT NULL REFERENCES tags ON DELETE CASCADE,
    PRIMARY KEY (task_id, tag_id)
);
CREATE INDEX task_tags_tag ON task_tags (tag_id);

COMMENT ON COLUMN tags.name_key IS 'The name in NFC and lower case: two tags differ only if their keys do';
