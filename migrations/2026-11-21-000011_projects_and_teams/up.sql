-- Who works on what together. A project belongs to its owner, who can invite people to it or give it to a team; each
-- has a role there. Who sees a task follows from these rows alone (common/src/access.rs).
CREATE TYPE member_role AS ENUM ('viewer', 'editor', 'owner');

CREATE TABLE teams (
    id         uuid PRIMARY KEY,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    version    integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE team_members (
    team_id    uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role       member_role NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX team_members_user ON team_members (user_id);

ALTER TABLE projects
    ADD COLUMN team_id uuid REFERENCES teams ON DELETE SET NULL,
    ADD COLUMN archive_done_after_days integer CHECK (archive_done_after_days BETWEEN 1 AND 3650);
CREATE INDEX projects_team ON projects (team_id) WHERE team_id IS NOT NULL;
-- Whose tasks the lists leave out.
CREATE INDEX projects_archived ON projects (id) WHERE archived_at IS NOT NULL;

CREATE TABLE project_members (
    project_id uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role       member_role NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX project_members_user ON project_members (user_id);

-- Who may see a project, once for each way in; the highest role counts.
CREATE VIEW project_access (project_id, user_id, role, team_id) WITH (security_invoker = true) AS
    SELECT id, owner_id, 'owner'::member_role, NULL::uuid FROM projects
    UNION ALL SELECT project_id, user_id, role, NULL FROM project_members
    UNION ALL SELECT p.id, m.user_id, m.role, m.team_id FROM team_members m JOIN projects p ON p.team_id = m.team_id;

COMMENT ON COLUMN projects.owner_id IS 'Always has the role owner, so that there is one: it has no row in project_members';
COMMENT ON COLUMN projects.archive_done_after_days IS 'Days after which finished tasks are put away; null for what the installation says';
