-- The role stays: it belongs to the server, and other databases may use it.
DROP EXTENSION IF EXISTS citext;
REVOKE SELECT ON __diesel_schema_migrations FROM tasktracker_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT, INSERT, UPDATE, DELETE ON TABLES FROM tasktracker_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE USAGE ON SEQUENCES FROM tasktracker_app;
REVOKE USAGE ON SCHEMA public FROM tasktracker_app;
