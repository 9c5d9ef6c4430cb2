-- Two roles from the first migration (design §4.10): the owner, who runs this file, owns the schema; the
-- application role reads and writes rows and nothing else. Whoever installs TaskTracker may have created
-- `tasktracker_app` with a password beforehand; without that it is made here and can log in by trust only.
DO $$
BEGIN
    CREATE ROLE tasktracker_app LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tasktracker_app') THEN
        RAISE EXCEPTION 'the role tasktracker_app is missing and may not be created by %', current_user
            USING HINT = 'As a superuser: CREATE ROLE tasktracker_app LOGIN PASSWORD ''…'';';
    END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO tasktracker_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO tasktracker_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO tasktracker_app;
-- So that a process can say "run the migrations" instead of failing at its first statement.
GRANT SELECT ON __diesel_schema_migrations TO tasktracker_app;

-- Addresses compare without regard to case.
CREATE EXTENSION IF NOT EXISTS citext;
