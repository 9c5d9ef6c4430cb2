DROP TABLE scheduler_state;
DROP TABLE queues;
DROP TABLE jobs;
DROP TYPE job_state;
