use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use common::{
    clock::Clock,
    db::{Db, PoolOptions, RunQueryDsl as _, sql},
    dispatcher::{self, Outbox},
    health::Health,
    jobs::{Act, Job as _, MAIL, PROBE, Probe},
    queue::Queue,
    redis::Redis,
    testing::TestDatabase,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Nullable, Text, Timestamptz},
};
use futures::future::try_join_all;
use scheduler::{relay::Relay, rounds::repeat};
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::history;

/// Jobs in a batch, wherever it is us who choose.
pub(super) const BATCH: usize = 200;
/// Connections that commit at the same time, as those of a busy API: PostgreSQL syncs several commits at once.
pub(super) const PRODUCERS: usize = 16;
/// Jobs that the worker runs at once.
const CONCURRENCY: usize = 100;
/// Nothing that is measured takes so long, unless something is broken.
const LIMIT: Duration = Duration::from_secs(300);

/// A database and a part of Redis of one measurement.
pub(super) struct Fixture {
    pub(super) db: Db,
    /// The same as the schema's owner.
    pub(super) owner: Db,
    pub(super) redis: Redis,
    pub(super) queue: Queue,
    settings: Vec<(&'static str, String)>,
    _dispatching: DropGuard,
}

impl Fixture {
    /// A new one, with so many jobs that were finished long ago.
    pub(super) async fn new(history: u32) -> anyhow::Result<Self> {
        let setting = |name| {
            std::env::var(name).with_context(|| format!("{name} is not set: run `cargo dev bench jobs`"))
        };
        setting("TEST_DATABASE_URL")?;
        let redis_url = setting("TEST_REDIS_URL")?;
        let prefix = format!("bench{}", &uuid::Uuid::now_v7().simple().to_string()[..20]);
        let database = TestDatabase::create().await;
        let redis = Redis::new(&redis_url, &prefix)?;
        let queue = Queue::new(&redis, PROBE);
        let options = PoolOptions { size: PRODUCERS + 4, ..PoolOptions::default() };
        let (outbox, due) = Outbox::new();
        let db = Db::new(&database.app_url, options, Clock::Database, outbox)?;
        let stop = CancellationToken::new();
        tokio::spawn(dispatcher::run(db.clone(), redis.clone(), due, stop.clone()));
        // As in an installation: what the dispatcher could not push, the relay does.
        let relay = Relay::new(db.clone(), redis.clone());
        tokio::spawn(repeat(relay, Health::default(), stop.clone()));
        let owner = Db::new(&database.owner_url, options, Clock::Database, Outbox::default())?;
        history::write(&owner, history).await?;
        let settings = vec![
            ("DATABASE_URL", database.app_url),
            ("REDIS_URL", redis_url),
            ("REDIS_PREFIX", prefix),
            ("PUBLIC_URL", "http://127.0.0.1:8000".to_owned()),
            // 32 zero bytes: it guards nothing.
            ("SECRET_KEYS", "bench:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned()),
            ("LOG", "error".to_owned()),
        ];
        Ok(Self { db, owner, redis, queue, settings, _dispatching: stop.drop_guard() })
    }

    /// Enqueues probes that do nothing, `each` in a transaction, from several connections at once.
    pub(super) async fn enqueue(&self, count: usize, each: usize) -> anyhow::Result<()> {
        let share = count / PRODUCERS;
        try_join_all((0..PRODUCERS).map(|number| {
            let db = self.db.clone();
            let lane = format!("lane-{number}");
            async move {
                tokio::spawn(async move {
                    let mut left = share;
                    while left > 0 {
                        let mut tx = db.begin().await?;
                        for _ in 0..left.min(each) {
                            nothing(&lane).enqueue(&mut tx).await?;
                        }
                        tx.commit().await?;
                        left -= left.min(each);
                    }
                    anyhow::Ok(())
                })
                .await?
            }
        }))
        .await?;
        Ok(())
    }

    /// Waits until so many jobs wait in Redis.
    pub(super) async fn wait_pushed(&self, count: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.queue.sizes().await?.0 < count as u64 {
            ensure!(
                Instant::now() < deadline,
                "only {:?} of {count} jobs have reached Redis",
                self.queue.sizes().await?
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until `count` jobs are done, and answers how long that took from `since`, by the database's clock. Fails
    /// if one of them was not done exactly once.
    pub(super) async fn wait_done(&self, count: usize, since: DateTime<Utc>) -> anyhow::Result<Duration> {
        #[derive(Debug, QueryableByName)]
        struct Done {
            #[diesel(sql_type = BigInt)]
            done: i64,
            #[diesel(sql_type = BigInt)]
            once: i64,
            #[diesel(sql_type = Nullable<Timestamptz>)]
            last: Option<DateTime<Utc>>,
        }

        let deadline = Instant::now() + LIMIT;
        // Redis is asked, because counting rows would slow down what is measured.
        while self.queue.sizes().await? != (0, 0) {
            ensure!(Instant::now() < deadline, "not drained: {:?}", self.queue.sizes().await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        loop {
            let done: Done = sql!(
                "SELECT count(*) FILTER (WHERE state = 'done') AS done,
                    count(*) FILTER (WHERE state = 'done' AND attempt = 1 AND fence = 1) AS once, max(finished_at) AS last
                 FROM jobs WHERE queue = {queue}",
                queue: Text = PROBE,
            )
            .get_result(&mut self.db.conn().await?)
            .await?;
            match done {
                Done { once, last: Some(last), .. } if once == count as i64 => {
                    return Ok((last - since).to_std()?);
                }
                done if Instant::now() > deadline || done.once != done.done => {
                    bail!("{count} jobs were to be done once: {done:?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The time by the database.
    pub(super) async fn now(&self) -> anyhow::Result<DateTime<Utc>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Timestamptz)]
            now: DateTime<Utc>,
        }
        let row: Row = sql!("SELECT {now} AS now", now = self.db.clock().now())
            .get_result(&mut self.db.conn().await?)
            .await?;
        Ok(row.now)
    }

    /// Starts a worker for the queue of probes.
    pub(super) fn worker(&self) -> anyhow::Result<Program> {
        let concurrency = format!("{PROBE}={CONCURRENCY}");
        self.start("tasktracker-worker", &["--queues", PROBE, "--concurrency", &concurrency], &[])
    }

    /// Starts a worker that sends mail to this server, as an installation has it.
    pub(super) fn mailer(&self, smtp: SocketAddr) -> anyhow::Result<Program> {
        let settings = [
            ("SMTP_URL", format!("smtp://{smtp}")),
            ("MAIL_FROM", "TaskTracker <tasktracker@localhost>".to_owned()),
        ];
        self.start("tasktracker-worker", &["--queues", MAIL], &settings)
    }

    /// Starts a scheduler.
    pub(super) fn scheduler(&self) -> anyhow::Result<Program> {
        self.start("tasktracker-scheduler", &[], &[])
    }

    fn start(
        &self,
        name: &str,
        arguments: &[&str],
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Program> {
        let folder = std::env::var_os("TASKTRACKER_BIN_DIR")
            .context("TASKTRACKER_BIN_DIR is not set: run `cargo dev bench jobs`")?;
        let internal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let program = PathBuf::from(folder).join(name);
        let child = Command::new(&program)
            .args(arguments)
            .envs(self.settings.iter().chain(settings).map(|(name, value)| (*name, value)))
            .env("INTERNAL_BIND", internal.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Program { child, internal })
    }
}

/// A job without work.
pub(super) fn nothing(lane: &str) -> Probe {
    Probe { lane: lane.to_owned(), log: None, act: Act::Nothing }
}

/// One of the real programs. It is killed on drop.
pub(super) struct Program {
    child: Child,
    internal: SocketAddr,
}

impl Program {
    /// Waits until it is ready.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let http = crate::client().build()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match http.get(format!("http://{}/readyz", self.internal)).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                _ if Instant::now() > deadline => bail!("a program does not become ready"),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a program has ended: {status}");
            }
        }
    }

    /// CPU seconds that it has used, where the system has `/proc`.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms; the name before them may hold blanks.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    }
}
