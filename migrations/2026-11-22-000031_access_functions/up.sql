-- Who sees which projects, as functions: a statement that asks in a subquery opens every table behind `project_access` each time,
-- also if the task is one's own and nobody asks. A function's body is prepared once per connection, and run when it is called.
CREATE FUNCTION projects_of(viewer uuid) RETURNS uuid[] LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
    RETURN ARRAY(SELECT DISTINCT a.project_id FROM project_access a WHERE a.user_id = viewer);
END $$;
CREATE FUNCTION people_of(project uuid) RETURNS uuid[] LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
    RETURN ARRAY(SELECT DISTINCT a.user_id FROM project_access a WHERE a.project_id = project);
END $$;

COMMENT ON FUNCTION projects_of IS 'The projects that a person sees';
COMMENT ON FUNCTION people_of IS 'Who sees a project; null for none';
