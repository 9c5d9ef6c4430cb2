use std::cell::Cell;

use chaos::cluster::{Cluster, Shape, Signal, secs, until};
use chrono::TimeDelta;
use common::{clock::Clock, db::RunQueryDsl as _};
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// What a next version's migration does in its first step (migrations/README.md): it adds.
const EXPAND: &[&str] = &[
    "ALTER TABLE tasks ADD COLUMN next_text text",
    "ALTER TABLE tasks ADD COLUMN next_number integer NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN next_text text",
    "ALTER TABLE reminder_fires ADD COLUMN next_text text",
    "ALTER TABLE users ADD COLUMN next_flag boolean NOT NULL DEFAULT false",
    "CREATE TABLE next_things (id uuid PRIMARY KEY, task_id uuid NOT NULL REFERENCES tasks ON DELETE CASCADE)",
    "INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000001')",
];

/// R34, as far as one version can show it: this build goes on, as the version before, while the migration of a next one adds
/// columns and tables under load and each of its processes is replaced. No request fails, every reminder is sent, and a job
/// of a kind that only the next version knows waits for it.
#[tokio::test]
async fn r34_the_version_before_goes_on_beside_the_next_ones_schema() {
    let mut cluster = Cluster::start(Shape { apis: 2, workers: 2, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    let other = cluster.apis[1].public();
    let done = CancellationToken::new();
    let rounds = Cell::new(0);
    let load = async {
        let (mut answers, mut reminders) = (0, 0);
        while !done.is_cancelled() {
            let at = Clock::Database.instant() + TimeDelta::seconds(1);
            let task = json!({ "title": "Go on", "reminders": [{ "kind": "absolute", "at": at }] });
            // Through the API that is not being replaced, as a balancer would send it.
            let created = ann.create_task(task).await;
            reminders += 1;
            let path = format!("/tasks/{}", created.body["id"].as_str().unwrap());
            for (method, path, body) in [
                (Method::PATCH, path.clone(), Some(json!({ "priority": "high" }))),
                (Method::GET, path.clone(), None),
                (Method::GET, "/tasks?limit=5".to_owned(), None),
            ] {
                let answer = ann.request(method, &path, body).await.unwrap();
                assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.body);
                answers += 1;
            }
            rounds.set(rounds.get() + 1);
            // Within what one person may ask in a minute.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        (answers, reminders)
    };
    let more_load = async |wanted: usize| {
        let end = rounds.get() + wanted;
        until("the load goes on", secs(30), async || match rounds.get() {
            now if now >= end => Ok(()),
            now => Err(format!("{now} of {end} rounds")),
        })
        .await;
    };
    let upgrade = async {
        let mut owner = cluster.owner().await;
        for statement in EXPAND {
            diesel::sql_query("SET lock_timeout = '10s'").execute(&mut owner).await.unwrap();
            diesel::sql_query(*statement).execute(&mut owner).await.unwrap();
            more_load(2).await;
        }
        let newer = "INSERT INTO jobs (id, kind, queue, lane, args, priority, run_at, max_attempts, created_at)
             VALUES ('01900000-0000-7000-8000-000000000001', 'next_kind', 'maintenance', 'system', '{}', 1, $1, 5, $1)";
        diesel::sql_query(newer)
            .bind::<diesel::sql_types::Timestamptz, _>(Clock::Database.instant())
            .execute(&mut owner)
            .await
            .unwrap();
        for process in [&cluster.workers[0], &cluster.schedulers[0], &cluster.apis[1]] {
            process.signal(Signal::TERM);
        }
        more_load(20).await;
        done.cancel();
    };
    let ((answers, reminders), ()) = tokio::join!(load, upgrade);
    for process in cluster.processes_mut() {
        if process.name() == "worker-1" || process.name() == "scheduler-1" || process.name() == "api-2" {
            process.wait_exit(secs(40)).await;
            process.restart();
            process.wait_ready().await;
        }
    }
    eprintln!("R34: {answers} requests beside the migration, none failed");
    assert!(answers > 20, "{answers}");
    let person = ann.through(other);
    assert!(person.request(Method::GET, "/tasks", None).await.unwrap().status.is_success());

    until("every reminder is sent", secs(60), async || {
        let sent = cluster.jobs("send_reminder").await.iter().filter(|job| job.finished_at.is_some()).count();
        let fires = cluster.sql("SELECT FROM reminder_fires WHERE state <> 'sent'").await;
        if fires == 0 && sent > 0 {
            Ok(())
        } else {
            Err(format!("{fires} of {reminders} fires are not sent"))
        }
    })
    .await;
    let parked = cluster.jobs("next_kind").await;
    assert!(parked.iter().all(|job| job.finished_at.is_none() && job.attempt == 0), "{parked:?}");
}
