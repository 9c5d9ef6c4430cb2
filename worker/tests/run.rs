//! The loops as a process runs them: `worker::run`.

#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    clock::Clock,
    db::sql,
    dispatcher::DueJob,
    health::Health,
    ids::JobId,
    jobs::{Act, Job as _, PROBE, Probe},
    queue::Queue,
    redis::Redis,
    shutdown::CancellationToken,
    testing::{TestDatabase, setting},
};
use diesel::{
    QueryableByName,
    sql_types::{Integer, SmallInt, Text, Uuid},
};
use diesel_async::RunQueryDsl as _;
use tokio::{sync::mpsc, task::JoinHandle};
use worker::{Context, Options};

struct Process {
    context: Context,
    due: mpsc::Receiver<DueJob>,
    queue: Queue,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = SmallInt)]
    attempt: i16,
    #[diesel(sql_type = Integer)]
    fence: i32,
}

impl Process {
    async fn start(concurrency: usize, grace: Duration) -> Self {
        let (db, due) = TestDatabase::create().await.open(Clock::default());
        let prefix = format!("test:{}", uuid::Uuid::now_v7().simple());
        let redis = Redis::new(&setting("TEST_REDIS_URL"), &prefix).unwrap();
        let queue = Queue::new(&redis, PROBE);
        let context = Context {
            db,
            redis,
            secrets: common::testing::secret_keys(),
            smtp: None,
            http: worker::http::Http::new(Default::default()).unwrap(),
            turns: worker::Turns::default(),
            settings: worker::Settings::default(),
        };
        let stop = CancellationToken::new();
        let options = Options { queues: vec![(PROBE.to_owned(), concurrency)], grace };
        let running = tokio::spawn(worker::run(context.clone(), options, Health::default(), stop.clone()));
        Self { context, due, queue, stop, running }
    }

    async fn enqueue(&mut self, act: Act) -> JobId {
        self.enqueue_logged(act, None).await
    }

    /// Enqueues a job, and waits until its handler has begun: a job that was claimed may still wait for that.
    async fn begin(&mut self, act: Act) -> JobId {
        let log = std::env::temp_dir().join(format!("tasktracker-{}", uuid::Uuid::now_v7().simple()));
        let id = self.enqueue_logged(act, Some(log.clone())).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !log.exists() {
            assert!(Instant::now() < deadline, "it never began");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_file(log).unwrap();
        id
    }

    async fn enqueue_logged(&mut self, act: Act, log: Option<PathBuf>) -> JobId {
        let mut tx = self.context.db.begin().await.unwrap();
        let id = Probe { lane: "ann".into(), log, act }.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let due = self.due.recv().await.unwrap();
        assert_eq!(self.queue.push(&[due]).await.unwrap(), []);
        id
    }

    async fn row(&self, id: JobId) -> Row {
        sql!("SELECT state::text, attempt, fence FROM jobs WHERE id = {id}", id: Uuid = id)
            .get_result(&mut *self.context.db.conn().await.unwrap())
            .await
            .unwrap()
    }

    /// Waits until the job stands like this.
    async fn until(&self, id: JobId, state: &str) -> Row {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let row = self.row(id).await;
            if row.state == state {
                return row;
            }
            assert!(Instant::now() < deadline, "never {state}: {row:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> Duration {
        let start = Instant::now();
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        start.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_runs_and_redis_is_empty_afterwards() {
    let mut process = Process::start(4, Duration::from_secs(5)).await;
    let mut ids = Vec::new();
    for act in [Act::Nothing, Act::Panic, Act::Nothing, Act::Sleep(20), Act::Nothing].repeat(20) {
        ids.push((process.enqueue(act).await, act));
    }
    for (id, act) in ids {
        if act != Act::Panic {
            assert_eq!(process.until(id, "done").await.attempt, 1);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while process.queue.sizes().await.unwrap() != (0, 0) {
        assert!(Instant::now() < deadline, "every end is told to Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(process.stop().await < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_running_jobs_end() {
    let mut process = Process::start(2, Duration::from_secs(10)).await;
    let id = process.begin(Act::Sleep(500)).await;
    let db = process.context.db.clone();
    process.stop().await;
    let row: Row = sql!("SELECT state::text, attempt, fence FROM jobs WHERE id = {id}", id: Uuid = id)
        .get_result(&mut *db.conn().await.unwrap())
        .await
        .unwrap();
    assert_eq!((row.state.as_str(), row.attempt, row.fence), ("done", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_or_never_started_is_handed_back_uncharged() {
    let mut process = Process::start(2, Duration::from_millis(300)).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(process.enqueue(Act::Sleep(60_000)).await);
    }
    for id in &ids {
        process.until(*id, "running").await;
    }
    // Claimed ahead, and without a slot.
    ids.push(process.enqueue(Act::Nothing).await);
    process.until(ids[2], "running").await;
    let (db, queue) = (process.context.db.clone(), process.queue.clone());
    let took = process.stop().await;
    assert!(took < Duration::from_millis(1_300), "handed back within a second of the grace: {took:?}");
    assert_eq!(queue.sizes().await.unwrap(), (3, 0), "for other workers, at once");
    for id in ids {
        let row: Row = sql!("SELECT state::text, attempt, fence FROM jobs WHERE id = {id}", id: Uuid = id)
            .get_result(&mut *db.conn().await.unwrap())
            .await
            .unwrap();
        assert_eq!((row.state.as_str(), row.attempt, row.fence), ("ready", 0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_never_yields_stops_neither_the_queue_nor_the_shutdown() {
    let mut process = Process::start(2, Duration::from_millis(100)).await;
    let blocked = process.enqueue(Act::Block(6_000)).await;
    process.until(blocked, "running").await;
    let id = process.enqueue(Act::Nothing).await;
    process.until(id, "done").await;
    let (db, took) = (process.context.db.clone(), process.stop().await);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let row: Row = sql!("SELECT state::text, attempt, fence FROM jobs WHERE id = {id}", id: Uuid = blocked)
        .get_result(&mut *db.conn().await.unwrap())
        .await
        .unwrap();
    assert_eq!((row.state.as_str(), row.attempt), ("ready", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_another_worker_took_is_stopped_here() {
    let mut process = Process::start(1, Duration::from_secs(30)).await;
    let id = process.enqueue(Act::Sleep(25_000)).await;
    process.until(id, "running").await;
    sql!("UPDATE jobs SET fence = fence + 1 WHERE id = {id}", id: Uuid = id)
        .execute(&mut *process.context.db.conn().await.unwrap())
        .await
        .unwrap();
    // The only slot is free again as soon as the renewer has noticed.
    let next = process.enqueue(Act::Nothing).await;
    process.until(next, "done").await;
    assert_eq!(process.row(id).await.state, "running", "the other worker's business");
    process.stop().await;
}
