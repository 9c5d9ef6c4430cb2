use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use chaos::cluster::{Cluster, Program, Shape, Signal, secs, until};
use chrono::TimeDelta;
use common::clock::Clock;
use diesel_async::SimpleAsyncConnection as _;
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

/// R34: the version before goes on under load while the next one's migration is done, and beside the next one's processes. No
/// request fails, every reminder is sent, and a job of a kind that only the next version knows waits for it.
///
/// The version before is that of `TEST_OLDER_PROGRAMS`, whose schema is without the newest migration (`.ci/run versions`); else this
/// build is both, and a migration is made up.
#[tokio::test]
async fn r34_the_version_before_goes_on_beside_the_next_one() {
    let older = std::env::var_os("TEST_OLDER_PROGRAMS").map(PathBuf::from);
    let shape = Shape { apis: 2, workers: 2, programs: older.clone(), ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let mut owner = cluster.owner().await;
    if older.is_some() {
        owner.batch_execute(&newest("down.sql")).await.unwrap();
        owner.batch_execute(FORGET_NEWEST).await.unwrap();
    }
    let one = cluster.person("ann").await;
    let (other, both) = (one.through(cluster.apis[1].public()), Cell::new(false));
    let (done, rounds) = (CancellationToken::new(), Cell::new(0));
    let load = async {
        let mut answers = 0;
        while !done.is_cancelled() {
            // The API that is being replaced gets nothing, as by a balancer.
            let ann = if both.get() && rounds.get() % 2 == 0 { &other } else { &one };
            let at = Clock::Database.instant() + TimeDelta::seconds(1);
            let task = json!({ "title": "Go on", "reminders": [{ "kind": "absolute", "at": at }] });
            let created = ann.create_task(task).await;
            let path = format!("/tasks/{}", created.body["id"].as_str().unwrap());
            for (ann, method, path, body) in [
                (&one, Method::PATCH, path.clone(), Some(json!({ "priority": "high" }))),
                (ann, Method::GET, path.clone(), None),
                (ann, Method::PATCH, path.clone(), Some(json!({ "title": "Go on, and on" }))),
                (&one, Method::GET, path.clone(), None),
                (ann, Method::GET, "/tasks?limit=5".to_owned(), None),
            ] {
                let answer = ann.request(method, &path, body).await.unwrap();
                assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.body);
                answers += 1;
            }
            rounds.set(rounds.get() + 1);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        answers
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
        more_load(5).await;
        if older.is_some() {
            migrate(&cluster).await;
        } else {
            for statement in EXPAND {
                owner.batch_execute("SET lock_timeout = '10s'").await.unwrap();
                owner.batch_execute(statement).await.unwrap();
                more_load(2).await;
            }
        }
        more_load(5).await;
        let newer = format!(
            "INSERT INTO jobs (id, kind, queue, lane, args, priority, run_at, max_attempts, created_at)
             VALUES ('01900000-0000-7000-8000-000000000001', 'next_kind', 'maintenance', 'system', '{{}}', 1, '{0}', 5, '{0}')",
            Clock::Database.instant()
        );
        owner.batch_execute(&newer).await.unwrap();
        let Cluster { apis, workers, schedulers, .. } = &mut cluster;
        for process in [&mut workers[0], &mut schedulers[0], &mut apis[1]] {
            process.signal(Signal::TERM);
            process.wait_exit(secs(40)).await;
            process.upgrade();
            process.restart();
            process.wait_ready().await;
            more_load(5).await;
        }
        both.set(true);
        more_load(40).await;
        done.cancel();
    };
    let (answers, ()) = tokio::join!(load, upgrade);
    eprintln!("R34: {answers} requests beside the migration, none failed");
    assert!(answers > 20, "{answers}");

    until("every reminder is sent", secs(60), async || {
        let sent = cluster.jobs("send_reminder").await.iter().filter(|job| job.finished_at.is_some()).count();
        let fires = cluster.sql("SELECT FROM reminder_fires WHERE state <> 'sent'").await;
        if fires == 0 && sent > 0 {
            Ok(())
        } else {
            Err(format!("{fires} of {} fires are not sent", rounds.get()))
        }
    })
    .await;
    let parked = cluster.jobs("next_kind").await;
    assert_eq!(parked.len(), 1);
    assert!(parked.iter().all(|job| job.finished_at.is_none() && job.attempt == 0), "{parked:?}");
}

const FORGET_NEWEST: &str = "DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)";

/// A file of the newest migration.
fn newest(file: &str) -> String {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let folders = std::fs::read_dir(migrations).unwrap().map(|entry| entry.unwrap().path());
    let newest = folders.filter(|path| path.is_dir()).max().unwrap();
    std::fs::read_to_string(newest.join(file)).unwrap()
}

/// As a deployment does it, by this build.
async fn migrate(cluster: &Cluster) {
    let mut migrate = tokio::process::Command::new(Program::Api.binary());
    migrate.arg("migrate").env("MIGRATE_DATABASE_URL", cluster.owner_url());
    let done = migrate.output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
