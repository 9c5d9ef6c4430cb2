-- All that making a task with a reminder has to read and write, in one statement: the person, the task, the reminder, its
-- fire, the audit trail, whoever subscribes. Ids begin with the time, as ours do.
WITH person AS (
    SELECT id, email, time_zone, day_start FROM users WHERE id = {person}
), task AS (
    INSERT INTO tasks (id, owner_id, created_by, title, description, priority, due_kind, due_date, due_at, position,
        created_at, updated_at)
    SELECT overlay(gen_random_uuid()::text PLACING lpad(to_hex(extract(epoch FROM now())::bigint), 8, '0') FROM 1 FOR 8)::uuid, id, id, 'Created ' || :n, 'The one on floor 3; it wants toner and a kind word.', 'high', 'date',
        '2031-05-06', '2031-05-06 21:59:59.999999+00', 1893456000.5, now(), now()
    FROM person RETURNING *
), reminder AS (
    INSERT INTO reminders (id, task_id, user_id, kind, offset_minutes, created_at)
    SELECT overlay(gen_random_uuid()::text PLACING lpad(to_hex(extract(epoch FROM now())::bigint), 8, '0') FROM 1 FOR 8)::uuid, id, owner_id, 'relative', -60, now() FROM task RETURNING id, task_id, user_id
), fire AS (
    INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, request_id, created_at)
    SELECT overlay(gen_random_uuid()::text PLACING lpad(to_hex(extract(epoch FROM now())::bigint), 8, '0') FROM 1 FOR 8)::uuid, id, task_id, user_id, '2031-05-05 06:00:00+00', '2031-05-05 06:00:00+00', 'bench-request-0123456789', now()
    FROM reminder
), audited AS (
    INSERT INTO audit_events (id, happened_at, actor_id, actor_label, event_type, entity_type, entity_id, task_id, ip_hash,
        request_id, details)
    SELECT gen_random_uuid(), now(), p.id, p.email, 'task.created', 'task', t.id, t.id,
        '\x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff', 'bench-request-0123456789',
        '{"title": "Created 12345678"}'
    FROM task t, person p
), event AS (
    INSERT INTO events (id, event_type, owner_id, task_id, data, created_at)
    SELECT gen_random_uuid(), 'task.created', t.owner_id, t.id, '{}', now() FROM task t
    WHERE EXISTS (SELECT FROM webhook_endpoints e WHERE e.owner_id = t.owner_id AND e.state IN ('active', 'paused'))
)
SELECT id, title, description, status, priority, due_kind, due_date, due_time, due_zone, due_at, project_id, parent_id, position,
    owner_id, assignee_id, completed_at, archived_at, deleted_at, version, created_at, updated_at FROM task;
