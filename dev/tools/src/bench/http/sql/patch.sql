-- All that changing a title has to read and write, in one statement: the person, the task, the audit trail, whoever
-- subscribes to it; and the answer.
WITH person AS (
    SELECT id, email, time_zone, day_start FROM users WHERE id = {person}
), changed AS (
    UPDATE tasks SET title = 'Changed ' || :n, version = version + 1, updated_at = now()
    WHERE id = {task} AND owner_id = (SELECT id FROM person) RETURNING id, owner_id, version
), audited AS (
    INSERT INTO audit_events (id, happened_at, actor_id, actor_label, event_type, entity_type, entity_id, task_id, ip_hash,
        request_id, details)
    SELECT gen_random_uuid(), now(), p.id, p.email, 'task.updated', 'task', c.id, c.id,
        '\x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff', 'bench-request-0123456789',
        '{"title": ["Task 12345: look after the printer", "Changed 12345678"]}'
    FROM changed c, person p
), event AS (
    INSERT INTO events (id, event_type, owner_id, task_id, data, created_at)
    SELECT gen_random_uuid(), 'task.updated', c.owner_id, c.id, '{}', now() FROM changed c
    WHERE EXISTS (SELECT FROM webhook_endpoints e WHERE e.owner_id = c.owner_id AND e.state IN ('active', 'paused'))
)
