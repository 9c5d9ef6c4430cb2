//! Jobs from the ledger through Redis to their end, step by step and without waiting: `worker::drain`.

#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::{
    clock::Clock,
    db::{Db, sql},
    dispatcher::DueJob,
    ids::JobId,
    jobs::{Act, Job as _, PROBE, Probe},
    ledger::{self, Again, Finish, JobState},
    queue::Queue,
    redis::Redis,
    testing::{TestDatabase, at, setting},
};
use diesel::{
    QueryableByName,
    sql_types::{Integer, Jsonb, SmallInt, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl as _;
use tokio::sync::mpsc;

const START: &str = "2030-01-02T08:00:00Z";
const LEASE: Duration = Duration::from_secs(15);

struct Bench {
    context: worker::Context,
    clock: Clock,
    due: mpsc::Receiver<DueJob>,
    queue: Queue,
    database: TestDatabase,
}

/// What a test looks at in a row of `jobs`.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = SmallInt)]
    attempt: i16,
    #[diesel(sql_type = Integer)]
    fence: i32,
    #[diesel(sql_type = SmallInt)]
    crashes: i16,
    #[diesel(sql_type = Timestamptz)]
    run_at: DateTime<Utc>,
    #[diesel(sql_type = Jsonb)]
    errors: serde_json::Value,
}

impl Row {
    fn stands(&self) -> (&str, i16, i32) {
        (&self.state, self.attempt, self.fence)
    }

    fn last_error(&self) -> &str {
        self.errors.as_array().unwrap().last().map_or("", |error| error["text"].as_str().unwrap())
    }
}

impl Bench {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let clock = Clock::fixed(at(START));
        let (db, due) = database.open(clock.clone());
        let prefix = format!("test:{}", uuid::Uuid::now_v7().simple());
        let redis = Redis::new(&setting("TEST_REDIS_URL"), &prefix).unwrap();
        let queue = Queue::new(&redis, PROBE);
        Self {
            context: worker::Context {
                db,
                redis,
                secrets: common::testing::secret_keys(),
                smtp: None,
                http: worker::http::Http::new(Default::default()).unwrap(),
                turns: worker::Turns::default(),
                settings: worker::Settings::default(),
            },
            clock,
            due,
            queue,
            database,
        }
    }

    fn db(&self) -> &Db {
        &self.context.db
    }

    async fn enqueue(&self, act: Act) -> JobId {
        let mut tx = self.db().begin().await.unwrap();
        let id = Probe { lane: "ann".into(), log: None, act }.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// What the dispatcher does.
    async fn dispatch(&mut self) {
        let mut jobs = Vec::new();
        while let Ok(job) = self.due.try_recv() {
            jobs.push(job);
        }
        self.queue.push(&jobs).await.unwrap();
    }

    /// What the relay does for a job that is to run again.
    async fn push(&self, id: JobId) {
        let (queue, lane) = (PROBE.to_owned(), "ann".to_owned());
        let job = DueJob { id, queue, lane, priority: 1, run_at: self.clock.instant() };
        assert_eq!(self.queue.push(&[job]).await.unwrap(), []);
    }

    async fn drain(&mut self) -> usize {
        self.dispatch().await;
        worker::drain(&self.context, &[PROBE]).await.unwrap()
    }

    async fn row(&self, id: JobId) -> Row {
        sql!(
            "SELECT state::text, attempt, fence, crashes, run_at, errors FROM jobs WHERE id = {id}",
            id: Uuid = id,
        )
        .get_result(&mut *self.db().conn().await.unwrap())
        .await
        .unwrap()
    }

    async fn set(&self, statement: &str, id: JobId) {
        diesel::sql_query(statement)
            .bind::<Uuid, _>(id)
            .execute(&mut *self.db().conn().await.unwrap())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_in_the_ledger_as_its_handler_said() {
    let mut bench = Bench::new().await;
    let until = at(START) + chrono::Duration::seconds(90);
    for (act, state, attempt, error) in [
        (Act::Nothing, "done", 1, ""),
        (Act::Cancel, "cancelled", 1, "a probe was told to cancel"),
        (Act::Die, "dead", 1, "a probe was told to die"),
        (Act::Fail(3), "ready", 1, "xxx"),
        (Act::Panic, "ready", 1, "panic: a probe was told to panic"),
        (Act::Snooze(90_000), "ready", 0, ""),
    ] {
        let id = bench.enqueue(act).await;
        assert_eq!(bench.drain().await, 1, "{act:?}");
        let row = bench.row(id).await;
        assert_eq!((row.stands(), row.last_error()), ((state, attempt, 1), error), "{act:?}");
        match act {
            Act::Fail(_) | Act::Panic => {
                let pause = (row.run_at - at(START)).num_milliseconds();
                assert!((900..=1100).contains(&pause), "a second, give or take a tenth: {pause} ms");
            }
            Act::Snooze(_) => assert_eq!(row.run_at, until),
            _ => assert_eq!(row.run_at, at(START)),
        }
        assert_eq!(bench.queue.sizes().await.unwrap(), (0, 0), "Redis forgets what needs no worker");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_ten_megabytes_is_kept_in_four_kilobytes_and_only_the_last_ten() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Fail(10 << 20)).await;
    bench.drain().await;
    for _ in 0..11 {
        bench.clock.set(bench.row(id).await.run_at);
        bench.push(id).await;
        assert_eq!(bench.drain().await, 1);
    }
    let row = bench.row(id).await;
    assert_eq!(row.stands(), ("ready", 12, 12));
    let errors = row.errors.as_array().unwrap();
    assert_eq!(errors.len(), 10);
    assert_eq!((&errors[0]["attempt"], &errors[9]["attempt"]), (&3.into(), &12.into()));
    assert!(row.last_error().len() <= 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_run_before_its_time_whoever_pushed_it() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Snooze(60_000)).await;
    bench.drain().await;
    bench.push(id).await;
    assert_eq!(bench.drain().await, 0);
    assert_eq!(bench.queue.sizes().await.unwrap(), (0, 0), "the relay will push it when it is due");
    assert_eq!(bench.row(id).await.stands(), ("ready", 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_of_a_newer_build_is_parked_and_unreadable_arguments_are_our_fault() {
    let mut bench = Bench::new().await;
    let newer = bench.enqueue(Act::Nothing).await;
    let unreadable = bench.enqueue(Act::Nothing).await;
    bench.set("UPDATE jobs SET kind = 'teleport' WHERE id = $1", newer).await;
    bench.set("UPDATE jobs SET args = '[]' WHERE id = $1", unreadable).await;
    assert_eq!(bench.drain().await, 2);
    let row = bench.row(newer).await;
    assert_eq!((row.stands(), row.run_at), (("ready", 0, 1), at("2030-01-02T08:01:00Z")));
    let row = bench.row(unreadable).await;
    assert_eq!(row.stands(), ("dead", 1, 1));
    assert!(row.last_error().starts_with("cannot read its arguments: "), "{}", row.last_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_costs_an_attempt_and_the_third_makes_the_job_dead() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Fail(1)).await;
    bench.dispatch().await;
    for (crash, stands) in [(1, ("running", 2, 2)), (2, ("running", 3, 3)), (3, ("dead", 3, 4))] {
        if crash == 1 {
            // A worker takes it and dies.
            let leased = bench.queue.fetch(1, Duration::ZERO).await.unwrap();
            let mut conn = bench.db().conn().await.unwrap();
            let claims =
                ledger::claim(&mut conn, &bench.clock, &[leased[0].id], "gone", LEASE).await.unwrap();
            assert_eq!(claims.len(), 1);
        }
        bench.set("UPDATE jobs SET alive_until = clock_timestamp() - interval '1 s' WHERE id = $1", id).await;
        let mut conn = bench.db().conn().await.unwrap();
        let claim = ledger::claim_orphan(&mut conn, &bench.clock, id, "next", LEASE).await.unwrap();
        let row = bench.row(id).await;
        assert_eq!((row.stands(), row.crashes), (stands, crash));
        assert_eq!(row.last_error(), "the worker died or lost touch while it held the job");
        assert_eq!(claim.map(|claim| claim.attempt), (crash < 3).then_some(stands.1));
    }
    assert_eq!(bench.drain().await, 0, "what is dead is not run");
    assert_eq!(bench.queue.sizes().await.unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_run_one_at_a_time_but_all_of_them() {
    let mut bench = Bench::new().await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(bench.enqueue(Act::Nothing).await);
    }
    bench.dispatch().await;
    bench.queue.fetch(25, Duration::ZERO).await.unwrap();
    let mut conn = bench.db().conn().await.unwrap();
    ledger::claim(&mut conn, &bench.clock, &ids, "gone", Duration::ZERO).await.unwrap();
    let mut ran = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while ran < 25 && std::time::Instant::now() < deadline {
        ran += bench.drain().await;
    }
    for id in ids {
        let row = bench.row(id).await;
        assert_eq!((row.stands(), row.crashes), (("done", 2, 2), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_late_changes_nothing() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Nothing).await;
    bench.dispatch().await;
    let mut conn = bench.db().conn().await.unwrap();
    let first =
        ledger::claim(&mut conn, &bench.clock, &[id], "slow", Duration::ZERO).await.unwrap().remove(0);
    let second = ledger::claim_orphan(&mut conn, &bench.clock, id, "next", LEASE).await.unwrap().unwrap();
    let finish = |fence, state| Finish { id, fence, state, again: Again::Unchanged, error: None };
    let late = vec![finish(first.fence, JobState::Done)];
    assert_eq!(ledger::finish(&mut conn, &bench.clock, late).await.unwrap(), []);
    assert_eq!(bench.row(id).await.stands(), ("running", 2, 2));
    let keys = [(id, first.fence), (id, second.fence)];
    assert_eq!(ledger::lost(&mut conn, &keys[..1]).await.unwrap(), keys[..1]);
    assert_eq!(ledger::lost(&mut conn, &keys[1..]).await.unwrap(), []);
    assert_eq!(ledger::renew(&mut conn, &keys[..1], LEASE).await.unwrap(), []);
    assert_eq!(ledger::renew(&mut conn, &keys[1..], LEASE).await.unwrap(), keys[1..]);
    let good = vec![finish(second.fence, JobState::Done)];
    assert_eq!(ledger::finish(&mut conn, &bench.clock, good.clone()).await.unwrap(), [id]);
    assert_eq!(ledger::finish(&mut conn, &bench.clock, good).await.unwrap(), [], "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_somebody_has_locked_is_put_aside_and_not_forgotten() {
    let mut bench = Bench::new().await;
    let (free, locked) = (bench.enqueue(Act::Nothing).await, bench.enqueue(Act::Nothing).await);
    let mut holder = bench.db().begin().await.unwrap();
    diesel::sql_query("SELECT id FROM jobs WHERE id = $1 FOR UPDATE")
        .bind::<Uuid, _>(locked)
        .execute(holder.conn())
        .await
        .unwrap();
    assert_eq!(bench.drain().await, 1);
    assert_eq!(bench.row(free).await.stands(), ("done", 1, 1));
    assert_eq!(bench.queue.unknown(&[free, locked]).await.unwrap(), [free], "Redis still has the other");
    holder.commit().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while bench.drain().await == 0 {
        assert!(std::time::Instant::now() < deadline, "it comes back within a moment");
    }
    assert_eq!(bench.row(locked).await.stands(), ("done", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_worker_holds_keeps_its_lease() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Nothing).await;
    let mut conn = bench.db().conn().await.unwrap();
    ledger::claim(&mut conn, &bench.clock, &[id], "other", LEASE).await.unwrap();
    assert_eq!(bench.drain().await, 0);
    assert_eq!(bench.queue.sizes().await.unwrap(), (0, 1));
    assert_eq!(bench.row(id).await.stands(), ("running", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_rests() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Nothing).await;
    let mut owner = TestDatabase::open(&bench.database, bench.clock.clone()).0.conn().await.unwrap();
    let mut set = async |paused: &str| {
        let statement = format!(
            "INSERT INTO queues (name, paused_at) VALUES ('probe', {paused}) ON CONFLICT (name) DO UPDATE SET paused_at = EXCLUDED.paused_at"
        );
        diesel::sql_query(statement).execute(&mut *owner).await.unwrap();
    };
    set("clock_timestamp()").await;
    assert_eq!(bench.drain().await, 0);
    assert_eq!(bench.queue.sizes().await.unwrap(), (1, 0));
    set("NULL").await;
    assert_eq!(bench.drain().await, 1);
    assert_eq!(bench.row(id).await.stands(), ("done", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_recovered_the_moment_its_dead_holders_claim_ends() {
    let mut bench = Bench::new().await;
    let id = bench.enqueue(Act::Nothing).await;
    let mut conn = bench.db().conn().await.unwrap();
    ledger::claim(&mut conn, &bench.clock, &[id], "gone", Duration::from_millis(500)).await.unwrap();
    assert_eq!(bench.drain().await, 0, "its lease in Redis has ended, but not its claim");
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while bench.drain().await == 0 {
        assert!(std::time::Instant::now() < deadline, "not only after another whole lease");
    }
    assert_eq!(bench.row(id).await.stands(), ("done", 2, 2));
}
