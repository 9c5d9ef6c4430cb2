DROP VIEW project_access;
DROP TABLE project_members;
DROP INDEX projects_archived;
ALTER TABLE projects DROP COLUMN team_id, DROP COLUMN archive_done_after_days;
DROP TABLE team_members, teams;
DROP TYPE member_role;
COMMENT ON COLUMN projects.owner_id IS NULL;
