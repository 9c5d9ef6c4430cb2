DROP TABLE comments;
DELETE FROM tags WHERE owner_id IS NULL;
ALTER TABLE tags
    DROP CONSTRAINT tags_scope,
    DROP COLUMN version,
    DROP COLUMN project_id,
    ALTER COLUMN owner_id SET NOT NULL;
COMMENT ON COLUMN tags.owner_id IS NULL;
ALTER TABLE tasks DROP COLUMN parent_id, DROP COLUMN position, DROP COLUMN search;
