DROP INDEX users_deletion;
ALTER TABLE users DROP COLUMN deletion_requested_at;
ALTER TABLE one_time_tokens DROP COLUMN previous_email;
DROP TABLE api_tokens;
