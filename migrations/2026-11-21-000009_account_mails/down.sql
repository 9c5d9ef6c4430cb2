ALTER TABLE jobs DROP COLUMN result;
DROP TABLE one_time_tokens;
DROP TYPE token_purpose;
