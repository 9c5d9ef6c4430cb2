DROP TABLE task_tags;
DROP TABLE tags;
DROP TABLE tasks;
DROP TABLE projects;
DROP TYPE due_kind;
DROP TYPE task_priority;
DROP TYPE task_status;
