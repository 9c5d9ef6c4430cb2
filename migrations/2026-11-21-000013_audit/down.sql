DROP TABLE audit_horizon, audit_seals, audit_events;
DROP FUNCTION audit_is_append_only;
