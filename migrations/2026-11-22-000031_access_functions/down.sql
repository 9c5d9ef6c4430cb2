DROP FUNCTION people_of(uuid);
DROP FUNCTION projects_of(uuid);
