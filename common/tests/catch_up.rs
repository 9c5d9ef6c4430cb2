//! After downtime: late reminders leave at a pace that all schedulers keep together, and nothing else waits for them.
#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use chrono::{DateTime, TimeDelta, Utc};
use common::{
    clock::Clock,
    db::{Db, RunQueryDsl as _},
    ids::{JobId, UserId},
    reminders::{self, CATCH_UP_PER_SECOND, Taken},
    testing::{TestDatabase, at},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Timestamptz, Uuid},
};

const NOW: &str = "2026-12-01T15:30:00Z";

struct Bench {
    db: Db,
    clock: Clock,
    _database: TestDatabase,
}

#[derive(Debug, QueryableByName)]
struct Job {
    #[diesel(sql_type = Uuid)]
    id: JobId,
    #[diesel(sql_type = Timestamptz)]
    run_at: DateTime<Utc>,
    #[diesel(sql_type = Uuid)]
    user_id: UserId,
    #[diesel(sql_type = BigInt)]
    fires: i64,
}

impl Bench {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let clock = Clock::fixed(at(NOW));
        let (db, _) = database.open(clock.clone());
        Self { db, clock, _database: database }
    }

    async fn run(&self, sql: &str) {
        diesel::sql_query(sql).execute(&mut self.db.conn().await.unwrap()).await.unwrap();
    }

    /// So many people, each with so many fires: the first at `fire_at`, each further one ten minutes later.
    async fn people(&self, people: usize, fires: usize, fire_at: &str) {
        let mut tx = self.db.begin().await.unwrap();
        for statement in [
            format!(
                "CREATE TEMP TABLE p ON COMMIT DROP AS
                 SELECT gen_random_uuid() AS u, gen_random_uuid() AS t FROM generate_series(1, {people})"
            ),
            "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
             SELECT u, u || '@example.com', 'Somebody', 'UTC', '2026-01-01Z', '2026-01-01Z' FROM p"
                .to_owned(),
            "INSERT INTO tasks (id, owner_id, created_by, title, created_at, updated_at)
             SELECT t, u, u, 'Ship it', '2026-01-01Z', '2026-01-01Z' FROM p"
                .to_owned(),
            format!(
                "WITH r AS (INSERT INTO reminders (id, task_id, user_id, kind, at_local, at_zone, created_at)
                     SELECT gen_random_uuid(), t, u, 'absolute', timestamp '2026-01-01' + n * interval '1 min', 'UTC', '2026-01-01Z'
                     FROM p, generate_series(0, {fires} - 1) n RETURNING id, task_id, user_id, at_local)
                 INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, created_at)
                 SELECT gen_random_uuid(), id, task_id, user_id, f, f, '2026-01-01Z'
                 FROM r, LATERAL (SELECT '{fire_at}'::timestamptz + 10 * (at_local - '2026-01-01') AS f) at"
            ),
        ] {
            diesel::sql_query(statement).execute(tx.conn()).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    async fn round(&self) -> Taken {
        let mut tx = self.db.begin().await.unwrap();
        let taken = reminders::queue_due(&mut tx, CATCH_UP_PER_SECOND).await.unwrap();
        tx.commit().await.unwrap();
        taken
    }

    async fn all_rounds(&self) {
        while self.round().await.is_full() {}
    }

    async fn jobs(&self) -> Vec<Job> {
        diesel::sql_query(
            "SELECT j.id, j.run_at, (j.args ->> 'user_id')::uuid AS user_id,
                 (SELECT count(*) FROM reminder_fires f WHERE f.job_id = j.id AND f.state = 'queued') AS fires
             FROM jobs j ORDER BY j.run_at, j.id",
        )
        .load(&mut self.db.conn().await.unwrap())
        .await
        .unwrap()
    }
}

fn offsets(jobs: &[Job]) -> Vec<TimeDelta> {
    jobs.iter().map(|job| job.run_at - at(NOW)).collect()
}

fn paced(count: i64) -> Vec<TimeDelta> {
    (0..count).map(|position| TimeDelta::milliseconds(100 * position)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_late_people_take_ten_seconds() {
    let bench = Bench::start().await;
    bench.people(100, 1, "2026-12-01T12:00:00Z").await;
    bench.all_rounds().await;
    assert_eq!(offsets(&bench.jobs().await), paced(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_time_is_not_paced_and_waits_for_nobody() {
    let bench = Bench::start().await;
    bench.people(50, 1, "2026-12-01T12:00:00Z").await;
    bench.all_rounds().await;
    // A minute late is still on time.
    bench.people(50, 1, "2026-12-01T15:29:00Z").await;
    bench.all_rounds().await;
    let jobs = bench.jobs().await;
    let now = jobs.iter().filter(|job| job.run_at == at(NOW)).count();
    assert_eq!((jobs.len(), now), (100, 51), "all that is on time, and the first of the late ones");
}

/// A round begins where the one before ended, also a later one; slots that nobody took are not made up for.
#[tokio::test(flavor = "multi_thread")]
async fn rounds_that_follow_each_other_keep_the_pace() {
    let bench = Bench::start().await;
    for _ in 0..3 {
        bench.people(20, 1, "2026-12-01T12:00:00Z").await;
        bench.all_rounds().await;
    }
    assert_eq!(offsets(&bench.jobs().await), paced(60));
    bench.clock.set(at("2026-12-01T15:40:00Z"));
    bench.people(2, 1, "2026-12-01T12:00:00Z").await;
    bench.all_rounds().await;
    let offsets = offsets(&bench.jobs().await);
    assert_eq!(
        offsets[60..],
        [TimeDelta::minutes(10), TimeDelta::minutes(10) + TimeDelta::milliseconds(100)]
    );
}

/// The backlog of a person is one mail, however many rounds it fills, and the pace is kept by all schedulers together.
#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_keep_the_pace_together_and_a_person_gets_one_mail() {
    let bench = Bench::start().await;
    bench.people(600, 4, "2026-12-01T12:00:00Z").await;
    tokio::join!(bench.all_rounds(), bench.all_rounds());
    // One of them may have found everything locked by the other and left; what is left is the other's.
    bench.all_rounds().await;
    let jobs = bench.jobs().await;
    assert_eq!(jobs.iter().map(|job| job.fires).sum::<i64>(), 2400);
    let mut people: Vec<UserId> = jobs.iter().map(|job| job.user_id).collect();
    people.sort_unstable();
    people.dedup();
    assert_eq!((people.len(), jobs.len()), (600, 600));
    assert_eq!(offsets(&jobs), paced(600));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_later_joins_the_job_that_waits() {
    let bench = Bench::start().await;
    bench.people(3, 1, "2026-12-01T12:00:00Z").await;
    bench.all_rounds().await;
    let before: Vec<JobId> = bench.jobs().await.into_iter().map(|job| job.id).collect();
    // As after a crash of the job that had them.
    bench
        .run(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, slot, fire_at, planned_for, created_at)
             SELECT gen_random_uuid(), reminder_id, task_id, user_id, 1, fire_at, fire_at, created_at FROM reminder_fires",
        )
        .await;
    assert_eq!(bench.round().await.queued, 3);
    let jobs = bench.jobs().await;
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), before);
    assert!(jobs.iter().all(|job| job.fires == 2), "{jobs:?}");
}

/// Somebody who also has a reminder on time gets all of it now: it is one mail.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_reminder_travels_with_one_that_is_on_time() {
    let bench = Bench::start().await;
    // 15:20 is late, 15:30 is on time.
    bench.people(5, 2, "2026-12-01T15:20:00Z").await;
    bench.all_rounds().await;
    let jobs = bench.jobs().await;
    assert_eq!(offsets(&jobs), vec![TimeDelta::zero(); 5]);
    assert!(jobs.iter().all(|job| job.fires == 2));
}
