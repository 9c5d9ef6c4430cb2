//! Housekeeping: what goes, what stays, and that it may run twice.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::{
    db::RunQueryDsl as _,
    jobs::{ArchiveCompleted, PruneHistory, PurgeArchived},
};

use super::*;
use crate::testing::Bench;

const NOW: &str = "2031-01-31T12:00:00Z";

async fn run_twice<J: crate::job::Run + Clone>(bench: &Bench, job: J) {
    for _ in 0..2 {
        job.clone().run(&bench.context).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_a_month_ago_is_archived_and_reminds_no_more() {
    let bench = Bench::at(NOW).await;
    let ann = bench.user("ann@example.com").await;
    let (old, recent) = (bench.task(ann, "Old").await, bench.task(ann, "Recent").await);
    let fire = bench.fire(ann, old, "2031-02-01T00:00:00Z").await;
    let done =
        |id, at: &str| format!("UPDATE tasks SET status = 'done', completed_at = '{at}' WHERE id = '{id}'");
    bench.run(&done(old, "2031-01-01T11:59:59Z")).await;
    bench.run(&done(recent, "2031-01-01T12:00:01Z")).await;
    // More than a batch.
    bench
        .run(&format!(
            "INSERT INTO tasks (id, owner_id, created_by, title, status, completed_at, created_at, updated_at)
             SELECT gen_random_uuid(), '{ann}', '{ann}', 'x', 'done', '2030-01-01Z', now(), now() FROM generate_series(1, 1500)"
        ))
        .await;

    run_twice(&bench, ArchiveCompleted {}).await;
    assert_eq!(bench.count("tasks WHERE archived_at = '2031-01-31T12:00:00Z' AND version = 2").await, 1501);
    assert_eq!(bench.count(&format!("tasks WHERE archived_at IS NULL AND id = '{recent}'")).await, 1);
    assert_eq!(bench.fire_row(fire).await.stands(), ("cancelled", Some("task_archived")));
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_tasks_are_deleted_only_if_the_operator_wants_that() {
    let mut bench = Bench::at(NOW).await;
    let ann = bench.user("ann@example.com").await;
    for (title, archived) in [("Old", "2030-12-31T00:00:00Z"), ("Recent", "2031-01-30T00:00:00Z")] {
        let task = bench.task(ann, title).await;
        bench.fire(ann, task, "2030-12-01T00:00:00Z").await;
        bench.run(&format!("UPDATE tasks SET archived_at = '{archived}' WHERE id = '{task}'")).await;
    }
    assert!(matches!(PurgeArchived {}.run(&bench.context).await, Err(JobError::Cancel(_))));
    assert_eq!(bench.count("tasks").await, 2);
    bench.context.settings.purge_archived_after_days = Some(30);
    run_twice(&bench, PurgeArchived {}).await;
    assert_eq!(bench.count("tasks WHERE title = 'Recent'").await, 1);
    assert_eq!((bench.count("tasks").await, bench.count("reminder_fires").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_kept_for_its_time() {
    let bench = Bench::at(NOW).await;
    let ann = bench.user("ann@example.com").await;

    // Ids of these days: 40 days, 8 days and 1 day before now.
    for (days, state) in [(40, "done"), (40, "dead"), (40, "ready"), (8, "done"), (8, "dead"), (1, "done")] {
        let id = id_of(&bench, days);
        let finished = if state == "ready" {
            "NULL".to_owned()
        } else {
            format!("'{NOW}'::timestamptz - interval '{days} days'")
        };
        bench
            .run(&format!(
                "INSERT INTO jobs (id, kind, queue, lane, args, state, run_at, max_attempts, created_at, finished_at)
                 VALUES ('{id}', 'probe', 'mail', '{state}{days}', '{{}}', '{state}', now(), 5, now(), {finished})"
            ))
            .await;
    }

    // A fire that was sent long ago: of a task that is done, of one that is not, and an earlier plan of that one.
    let (done, open) = (bench.task(ann, "Done").await, bench.task(ann, "Open").await);
    bench.run(&format!("UPDATE tasks SET status = 'done', completed_at = now() WHERE id = '{done}'")).await;
    for task in [done, open] {
        let fire = bench.fire(ann, task, "2030-10-01T00:00:00Z").await;
        let id = id_of(&bench, 150);
        bench
            .run(&format!("UPDATE reminder_fires SET id = '{id}', state = 'sent' WHERE id = '{fire}'"))
            .await;
    }
    bench
        .run(&format!(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, plan_no, fire_at, planned_for, state, created_at)
             SELECT '{}', reminder_id, task_id, user_id, 2, fire_at, fire_at, 'sent', created_at
             FROM reminder_fires WHERE task_id = '{open}'",
            id_of(&bench, 140)
        ))
        .await;

    let trash = bench.task(ann, "Trash").await;
    bench.run(&format!("UPDATE tasks SET deleted_at = '2030-12-31T00:00:00Z' WHERE id = '{trash}'")).await;
    let trash = bench.task(ann, "Recent trash").await;
    bench.run(&format!("UPDATE tasks SET deleted_at = '2031-01-30T00:00:00Z' WHERE id = '{trash}'")).await;
    for (hash, expires) in [("a", "2031-01-30T00:00:00Z"), ("b", "2031-02-05T00:00:00Z")] {
        bench
            .run(&format!(
                "INSERT INTO refresh_tokens (id, family_id, user_id, token_hash, issued_at, expires_at, absolute_expires_at)
                 VALUES ('{}', gen_random_uuid(), '{ann}', '{hash}', now(), '{expires}', '{expires}')",
                id_of(&bench, 2)
            ))
            .await;
        bench
            .run(&format!(
                "INSERT INTO idempotency_keys (principal, method, path, key, body_sha256, status, response_headers, response_body, created_at, expires_at)
                 VALUES ('{ann}', 'POST', '/', '{hash}', '', 201, '{{}}', '', now(), '{expires}')"
            ))
            .await;
    }

    // What happened, and what was delivered of it: 31 days and one day ago.
    bench
        .run(&format!(
            "INSERT INTO webhook_endpoints (id, owner_id, url, events, secret_enc, created_at, updated_at)
             VALUES (gen_random_uuid(), '{ann}', 'https://example.com', '{{}}', '', now(), now())"
        ))
        .await;
    for days in [31, 1] {
        let (id, made) = (id_of(&bench, days), format!("'{NOW}'::timestamptz - interval '{days} days'"));
        bench
            .run(&format!(
                "INSERT INTO events (id, event_type, data, created_at) VALUES ('{id}', 'x', '{{}}', {made})"
            ))
            .await;
        bench
            .run(&format!(
                "INSERT INTO webhook_deliveries (id, endpoint_id, event_id, event_type, created_at)
                 SELECT '{id}', e.id, '{id}', 'x', {made} FROM webhook_endpoints e"
            ))
            .await;
    }

    run_twice(&bench, PruneHistory {}).await;
    for table in ["events", "webhook_deliveries"] {
        assert_eq!(bench.count(table).await, 1, "{table}");
        assert_eq!(bench.count(&format!("{table} WHERE created_at < '2031-01-30'")).await, 0, "{table}");
    }
    let mut conn = bench.db().conn().await.unwrap();
    #[derive(diesel::QueryableByName)]
    struct Lane {
        #[diesel(sql_type = diesel::sql_types::Text)]
        lane: String,
    }
    let lanes: Vec<Lane> =
        diesel::sql_query("SELECT lane FROM jobs ORDER BY lane").load(&mut conn).await.unwrap();
    let lanes: Vec<&str> = lanes.iter().map(|row| row.lane.as_str()).collect();
    assert_eq!(lanes, ["dead8", "done1", "ready40"]);
    assert_eq!(bench.count("reminder_fires WHERE plan_no = 2").await, 1);
    assert_eq!(bench.count("reminder_fires").await, 1);
    assert_eq!(bench.count("tasks WHERE title LIKE '%rash'").await, 1);
    assert_eq!((bench.count("refresh_tokens").await, bench.count("idempotency_keys").await), (1, 1));
}

/// An id made so many days ago.
fn id_of(bench: &Bench, days: i64) -> uuid::Uuid {
    let floor = common::ids::floor(bench.clock.instant() - chrono::Duration::days(days));
    uuid::Uuid::from_u128(floor.as_u128() | (uuid::Uuid::new_v4().as_u128() >> 48))
}
