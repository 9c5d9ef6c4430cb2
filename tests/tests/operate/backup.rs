use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use chaos::cluster::{Cluster, Shape, Signal, secs, until};
use chrono::TimeDelta;
use common::{
    clock::Clock, db::RunQueryDsl as _, ids::JobId, jobs::Act, ledger::JobState, schema::jobs,
    testing::setting,
};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryableByName, sql_types::BigInt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{on_path, tool};

/// `deploy/backup` with what it needs, and a folder for backups.
struct Backups {
    folder: tempfile::TempDir,
    path: std::ffi::OsString,
}

impl Backups {
    /// `None` where a program is missing.
    fn new() -> Option<Self> {
        let postgres = PathBuf::from(setting("TEST_POSTGRES_BIN"));
        for program in ["pg_dump", "pg_restore", "psql"] {
            tool(&format!("{program} beside the server"), Some(postgres.join(program)))?;
        }
        tool("gpg", on_path("gpg"))?;
        tool("bash", on_path("bash"))?;
        let folder = tempfile::Builder::new().prefix("tt-backup-").tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "correct horse battery staple").unwrap();
        let inherited = std::env::var_os("PATH").unwrap();
        let path =
            std::env::join_paths([postgres].into_iter().chain(std::env::split_paths(&inherited))).unwrap();
        Some(Self { folder, path })
    }

    /// Runs a script of `deploy/backup`; answers whether it succeeded, and what it said.
    async fn run(&self, script: &str, url: &str, argument: &Path) -> (bool, String) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/backup");
        let output = Command::new(Path::new(folder).join(script))
            .arg(argument)
            .env_clear()
            .env("PATH", &self.path)
            .env("BACKUP_DATABASE_URL", url)
            .env("RESTORE_DATABASE_URL", url)
            .env("BACKUP_KEY_FILE", self.folder.path().join("key"))
            .env("BACKUP_DIR", self.folder.path())
            .output()
            .await
            .unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.success(), said.concat())
    }

    /// The backups that there are.
    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.to_string_lossy().ends_with(".dump.gpg")).collect()
    }
}

/// R48: a backup under load, and a restore into a fresh database after both stores are lost. What was committed is there and
/// fits together; what was pending, planned and running when the backup was made happens once; what was done is not done again.
#[tokio::test]
async fn r48_a_backup_is_restored_and_what_was_pending_runs_once() {
    let Some(backups) = Backups::new() else { return };
    // Five jobs at once: whatever else is enqueued waits.
    let settings = vec![("CONCURRENCY", "probe=5".to_owned())];
    let shape = Shape { own_redis: true, workers: 1, settings, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let (done, pending) = (cluster.effects("done"), cluster.effects("pending"));
    let ann = cluster.person("ann").await;
    cluster.enqueue_many(&done, 50, Act::Nothing).await;
    until("fifty are done", secs(20), async || cluster.drained().await).await;
    // Held by workers, and in Redis: as it is at any moment of a busy day.
    let held = cluster.enqueue_many(&pending, 5, Act::Sleep(20_000)).await;
    until("some are running", secs(10), async || pending.started(held.len())).await;
    cluster.enqueue_many(&pending, 200, Act::Nothing).await;
    let at = Clock::Database.instant() + TimeDelta::seconds(25);
    let task = json!({ "title": "Remember", "reminders": [{ "kind": "absolute", "at": at }] });
    ann.create_task(task).await;
    let before = titles(&ann).await;

    // Others go on while the backup is made.
    let owner = owner_url(&cluster);
    let writing = async {
        for number in 0..20 {
            ann.create_task(json!({ "title": format!("meanwhile {number}") })).await;
        }
    };
    let (made, ()) = tokio::join!(backups.run("backup.sh", &owner, Path::new("once")), writing);
    assert!(made.0, "{}", made.1);
    let files = backups.files();
    assert_eq!(files.len(), 1, "{}", made.1);
    let bytes = std::fs::read(&files[0]).unwrap();
    assert!(!bytes.windows(8).any(|part| part == b"Remember"), "it is not encrypted");
    assert_eq!(
        cluster.sql("DELETE FROM backups WHERE finished_at IS NOT NULL AND size_bytes > 1000").await,
        1
    );

    // The machine is lost.
    for process in cluster.processes_mut() {
        process.signal(Signal::KILL);
    }
    for process in cluster.processes_mut() {
        process.wait_exit(secs(10)).await;
    }
    cluster.redis_server().kill9().await;
    let started = pending.starts();
    let name = cluster.database_name().to_owned();
    let mut server = cluster.superuser().await;
    for statement in [
        format!("DROP DATABASE {name} WITH (FORCE)"),
        format!("CREATE DATABASE {name} TEMPLATE template0 OWNER tasktracker_owner"),
    ] {
        diesel::sql_query(statement).execute(&mut server).await.unwrap();
    }
    let began = Instant::now();
    let (restored, said) = backups.run("restore.sh", &owner, &files[0]).await;
    assert!(restored, "{said}");
    eprintln!("R48: restored in {:.1} s: {}", began.elapsed().as_secs_f64(), said.trim());
    let owed = unfinished(&cluster).await;
    assert!(owed.len() > 200 && held.iter().all(|job| owed.contains(job)), "{} are pending", owed.len());
    cluster.redis_server().start_again().await;
    for process in cluster.processes_mut() {
        process.restart();
    }
    for process in cluster.processes_mut() {
        process.wait_ready().await;
    }

    until("the pool has new connections", secs(20), async || cluster.drained().await.or_else(reached)).await;
    let after = titles(&ann).await;
    assert!(before.iter().all(|title| after.contains(title)), "{before:?} {after:?}");
    until("everything pending has run", secs(90), async || cluster.drained().await).await;
    let mails = cluster.mail().wait_for_count(1, secs(60)).await.unwrap();
    assert!(mails[0].text.contains("Remember"), "{}", mails[0].text);
    until("the reminder's job is done", secs(10), async || cluster.drained().await).await;

    assert_eq!(cluster.mail().messages().len(), 1, "one mail");
    assert_eq!(done.all().len(), 50, "what was done is not done again");
    let again = pending.starts();
    for (job, starts) in &again {
        let before = started.get(job).copied().unwrap_or(0);
        assert_eq!(
            *starts,
            before + usize::from(owed.contains(job)),
            "each pending job once, and no other: {job}"
        );
    }
    assert!(owed.iter().all(|job| again.contains_key(job)), "every pending job");
    let jobs = cluster.jobs("probe").await;
    assert!(jobs.iter().all(|job| job.state == JobState::Done && job.crashes == 0), "{jobs:?}");
    assert_eq!(orphaned_rows(&cluster).await, 0, "rows belong together");
}

/// Nothing is overwritten, and what cannot be read changes nothing.
#[tokio::test]
async fn a_restore_that_cannot_work_changes_nothing() {
    let Some(backups) = Backups::new() else { return };
    let database = common::testing::TestDatabase::create().await;
    let (made, said) = backups.run("backup.sh", &database.owner_url, Path::new("once")).await;
    assert!(made, "{said}");
    let file = &backups.files()[0];
    let (restored, said) = backups.run("restore.sh", &database.owner_url, file).await;
    assert!(!restored && said.contains("tables already"), "{said}");

    let mut server = {
        use diesel_async::AsyncConnection as _;
        common::db::AsyncPgConnection::establish(&setting("TEST_DATABASE_URL")).await.unwrap()
    };
    let name = format!("tt_{}", uuid::Uuid::now_v7().simple());
    diesel::sql_query(format!("CREATE DATABASE {name} OWNER tasktracker_owner"))
        .execute(&mut server)
        .await
        .unwrap();
    let (head, _) = database.owner_url.rsplit_once('/').unwrap();
    let empty = format!("{head}/{name}");
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = backups.folder.path().join("damaged");
    std::fs::write(&damaged, bytes).unwrap();
    let (restored, said) = backups.run("restore.sh", &empty, &damaged).await;
    assert!(!restored && said.contains("damaged"), "{said}");
    std::fs::write(backups.folder.path().join("key"), "another").unwrap();
    let (restored, said) = backups.run("restore.sh", &empty, file).await;
    assert!(!restored && said.contains("passphrase"), "{said}");
    std::fs::write(backups.folder.path().join("key"), "correct horse battery staple").unwrap();
    let (restored, said) = backups.run("restore.sh", &empty, file).await;
    assert!(restored, "the database is still empty: {said}");
    diesel::sql_query(format!("DROP DATABASE {name}")).execute(&mut server).await.unwrap();
}

/// The probes that the restored ledger still owes.
async fn unfinished(cluster: &Cluster) -> BTreeSet<JobId> {
    let unfinished = jobs::table.filter(jobs::kind.eq("probe")).filter(jobs::finished_at.is_null());
    let ids: Vec<JobId> = unfinished.select(jobs::id).load(&mut cluster.owner().await).await.unwrap();
    ids.into_iter().collect()
}

/// Any answer of the database is one.
fn reached(seen: String) -> Result<(), String> {
    if seen.starts_with('[') { Ok(()) } else { Err(seen) }
}

fn owner_url(cluster: &Cluster) -> String {
    setting("TEST_DATABASE_URL")
        .replace("//postgres@", "//tasktracker_owner@")
        .rsplit_once('/')
        .map(|(head, _)| format!("{head}/{}", cluster.database_name()))
        .unwrap()
}

async fn titles(person: &chaos::cluster::Person) -> Vec<String> {
    let answer = person.request(Method::GET, "/tasks?limit=100", None).await.unwrap();
    let tasks = answer.body["data"].as_array().unwrap_or_else(|| panic!("{}", answer.body)).clone();
    tasks.iter().map(|task: &Value| task["title"].as_str().unwrap().to_owned()).collect()
}

/// Reminders, fires and tags of tasks that are not there.
async fn orphaned_rows(cluster: &Cluster) -> i64 {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }

    let row: Count = diesel::sql_query(
        "SELECT (SELECT count(*) FROM reminders r WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = r.task_id))
             + (SELECT count(*) FROM reminder_fires f WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = f.task_id))
             + (SELECT count(*) FROM tasks t WHERE t.project_id IS NOT NULL AND NOT EXISTS (SELECT FROM projects p WHERE p.id = t.project_id)) AS count",
    )
    .get_result(&mut cluster.owner().await)
    .await
    .unwrap();
    row.count
}
