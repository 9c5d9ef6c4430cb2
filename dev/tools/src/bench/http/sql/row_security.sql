-- A second wall: what the finders leave out, PostgreSQL leaves out too. Only for measuring what it costs (docs/adr/0009).
CREATE FUNCTION viewer() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('tasktracker.viewer', true), '')::uuid;

CREATE POLICY wall ON tasks USING (owner_id = viewer() OR assignee_id = viewer()
    OR project_id = ANY (ARRAY(SELECT a.project_id FROM project_access a WHERE a.user_id = viewer())));
CREATE POLICY wall ON task_tags USING (EXISTS (SELECT FROM tasks WHERE tasks.id = task_tags.task_id));
CREATE POLICY wall ON tags USING (owner_id = viewer()
    OR project_id = ANY (ARRAY(SELECT a.project_id FROM project_access a WHERE a.user_id = viewer())));
-- The least that could be: whoever changes a task plans the reminders of others, too, and would have to get round this.
CREATE POLICY wall ON reminders USING (user_id = viewer());
CREATE POLICY wall ON reminder_fires USING (user_id = viewer());
CREATE POLICY written ON audit_events FOR INSERT WITH CHECK (actor_id = viewer());
