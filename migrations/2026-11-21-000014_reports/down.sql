DROP TABLE reports;
DROP TYPE report_group;
