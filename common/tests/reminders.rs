//! Reminders against PostgreSQL: what a change of a task, of a reminder or of a person does to the fires.
#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use chrono::{DateTime, Utc};
use common::{
    access::Viewer,
    clock::Clock,
    db::{Db, RunQueryDsl as _},
    error::{Code, Error},
    ids::{ReminderId, TaskId, UserId},
    reminders::{self, Fire, FireState, NewReminder, Reminder, Warning},
    testing::{TestDatabase, at},
    users::Person,
};
use serde_json::json;

struct Bench {
    db: Db,
    clock: Clock,
    ann: Viewer,
    task: TaskId,
    _database: TestDatabase,
}

impl Bench {
    /// Ann in Berlin, and a task due on 1 December 2026 at 10:00 there (09:00 UTC).
    async fn at(instant: &str) -> Self {
        let database = TestDatabase::create().await;
        let clock = Clock::fixed(at(instant));
        let (db, _) = database.open(clock.clone());
        let ann = Viewer { user_id: UserId::new(), project: None };
        let bench = Self { db, clock, ann, task: TaskId::new(), _database: database };
        bench
            .run(&format!(
                "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
                 VALUES ('{0}', 'ann@example.com', 'Ann', 'Europe/Berlin', now(), now())",
                ann.user_id
            ))
            .await;
        bench
            .run(&format!(
                "INSERT INTO tasks (id, owner_id, created_by, title, due_kind, due_date, due_time, due_at, created_at, updated_at)
                 VALUES ('{}', '{1}', '{1}', 'Ship it', 'floating', '2026-12-01', '10:00', '2026-12-01T09:00:00Z', now(), now())",
                bench.task, ann.user_id
            ))
            .await;
        bench
    }

    async fn run(&self, sql: &str) {
        diesel::sql_query(sql).execute(&mut self.db.conn().await.unwrap()).await.unwrap();
    }

    /// Changes the task by SQL and plans anew, as a change through the API does.
    async fn change(&self, set: &str) -> Vec<Warning> {
        let mut tx = self.db.begin().await.unwrap();
        let sql = format!("UPDATE tasks SET {set} WHERE id = '{}'", self.task);
        diesel::sql_query(sql).execute(tx.conn()).await.unwrap();
        let now = tx.clock().now();
        let person = Person::load(tx.conn(), self.ann.user_id, now).await.unwrap();
        let warnings = reminders::replan_task(&mut tx, self.task, &person).await.unwrap();
        tx.commit().await.unwrap();
        warnings
    }

    async fn try_add(&self, json: serde_json::Value) -> Result<(Reminder, Vec<Warning>), Error> {
        let new: NewReminder = serde_json::from_value(json).unwrap();
        let mut tx = self.db.begin().await?;
        let changed = Reminder::create(&mut tx, self.ann, self.task, &new).await?;
        tx.commit().await?;
        Ok((changed.reminder, changed.warnings))
    }

    async fn add(&self, offset_minutes: i32) -> ReminderId {
        self.try_add(json!({"kind": "relative", "offset_minutes": offset_minutes})).await.unwrap().0.id
    }

    /// State, reason, plan and time of each fire, the latest plan first.
    async fn fires(&self, reminder: ReminderId) -> Vec<(FireState, Option<String>, i32, DateTime<Utc>)> {
        let mut conn = self.db.conn().await.unwrap();
        Fire::of_reminder(&mut conn, self.ann, self.task, reminder)
            .await
            .unwrap()
            .into_iter()
            .map(|fire| (fire.state, fire.reason, fire.plan_no, fire.fire_at))
            .collect()
    }

    async fn all(&self) -> Vec<Reminder> {
        Reminder::of_task(&mut self.db.conn().await.unwrap(), self.ann, self.task).await.unwrap()
    }
}

use FireState::{Cancelled, Planned, Sent, Skipped};

fn planned(plan_no: i32, fire_at: &str) -> (FireState, Option<String>, i32, DateTime<Utc>) {
    (Planned, None, plan_no, at(fire_at))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_is_shown_with_its_time() {
    let bench = Bench::at("2026-11-30T08:00:00Z").await;
    let (relative, _) = bench.try_add(json!({"kind": "relative", "offset_minutes": -30})).await.unwrap();
    let (absolute, _) = bench.try_add(json!({"kind": "absolute", "at": "2026-12-01T09:15"})).await.unwrap();
    assert_eq!(bench.all().await, [relative.clone(), absolute.clone()]);
    assert_eq!(
        serde_json::to_value(relative).unwrap(),
        json!({"id": relative_id(&bench).await, "kind": "relative", "offset_minutes": -30, "fire_at": "2026-12-01T08:30:00Z"})
    );
    assert_eq!(absolute.at, Some(at("2026-12-01T08:15:00Z")));
    assert_eq!(absolute.fire_at, absolute.at);
}

async fn relative_id(bench: &Bench) -> ReminderId {
    bench.all().await[0].id
}

/// T11 and T12 of semantics §11.
#[tokio::test(flavor = "multi_thread")]
async fn t11_t12_a_moved_task_reminds_again_only_later() {
    let bench = Bench::at("2026-12-01T07:00:00Z").await;
    let reminder = bench.add(-15).await;
    assert_eq!(bench.fires(reminder).await, [planned(1, "2026-12-01T08:45:00Z")]);
    bench.run("UPDATE reminder_fires SET state = 'sent', sent_at = fire_at").await;

    bench.clock.set(at("2026-12-01T10:00:00Z"));
    bench.change("due_time = '09:50', due_at = '2026-12-01T08:50:00Z'").await;
    assert_eq!(bench.fires(reminder).await.len(), 1, "not again for an earlier time");
    bench.change("due_time = '16:00', due_at = '2026-12-01T15:00:00Z'").await;
    let fires = bench.fires(reminder).await;
    assert_eq!(fires[0], planned(2, "2026-12-01T14:45:00Z"));
    assert_eq!(fires[1].0, Sent);
    // Planning again changes nothing.
    bench.change("title = 'Ship it now'").await;
    assert_eq!(bench.fires(reminder).await, fires);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_fire_follows_the_task_in_place() {
    let bench = Bench::at("2026-12-01T08:00:00Z").await;
    let reminder = bench.add(-30).await;
    bench.clock.set(at("2026-12-01T08:30:00Z"));
    let mut tx = bench.db.begin().await.unwrap();
    assert_eq!(reminders::queue_due(&mut tx, reminders::CATCH_UP_PER_SECOND).await.unwrap().queued, 1);
    tx.commit().await.unwrap();
    assert_eq!(bench.fires(reminder).await[0].0, FireState::Queued);

    bench.change("due_time = '12:00', due_at = '2026-12-01T11:00:00Z'").await;
    assert_eq!(bench.fires(reminder).await, [planned(1, "2026-12-01T10:30:00Z")]);
    let reason = |reason: &str| {
        let at = at("2026-12-01T10:30:00Z");
        [(Cancelled, Some(reason.to_owned()), 1, at)]
    };
    bench.change("status = 'done', completed_at = now()").await;
    assert_eq!(bench.fires(reminder).await, reason("task_done"));
    assert_eq!(bench.all().await[0].fire_at, None, "it will not fire");
    bench.change("status = 'todo', completed_at = NULL").await;
    assert_eq!(bench.fires(reminder).await, [planned(1, "2026-12-01T10:30:00Z")]);
    bench.change("deleted_at = now()").await;
    assert_eq!(bench.fires(reminder).await, reason("task_deleted"));
    bench.change("deleted_at = NULL, archived_at = now()").await;
    bench
        .change("archived_at = NULL, due_kind = NULL, due_date = NULL, due_time = NULL, due_at = NULL")
        .await;
    assert_eq!(bench.fires(reminder).await[0].0, Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_passed_is_sent_for_five_minutes_and_then_warned_of() {
    let bench = Bench::at("2026-12-01T08:34:59Z").await;
    let (_, warnings) = bench.try_add(json!({"kind": "relative", "offset_minutes": -30})).await.unwrap();
    assert_eq!(warnings, []);
    let (late, warnings) = bench.try_add(json!({"kind": "relative", "offset_minutes": -31})).await.unwrap();
    assert_eq!((warnings[0].code, warnings[0].reminder_id), ("reminder_in_past", late.id));
    assert_eq!(
        bench.fires(late.id).await,
        [(Skipped, Some("too_late".to_owned()), 1, at("2026-12-01T08:29:00Z"))]
    );
    // Once, and not at every edit.
    assert_eq!(bench.change("title = 'x'").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_can_be_changed_and_removed() {
    let bench = Bench::at("2026-11-30T08:00:00Z").await;
    let reminder = bench.add(-30).await;
    let new: NewReminder =
        serde_json::from_value(json!({"kind": "absolute", "at": "2026-12-01T08:00:00Z"})).unwrap();
    let mut tx = bench.db.begin().await.unwrap();
    let changed = Reminder::change(&mut tx, bench.ann, bench.task, reminder, &new).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(changed.reminder.fire_at, Some(at("2026-12-01T08:00:00Z")));
    assert_eq!(bench.fires(reminder).await, [planned(1, "2026-12-01T08:00:00Z")]);

    let mut tx = bench.db.begin().await.unwrap();
    Reminder::remove(&mut tx, bench.ann, bench.task, reminder).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(bench.all().await, []);
    assert_eq!(bench.fires(reminder).await[0].1.as_deref(), Some("reminder_removed"));
    let mut tx = bench.db.begin().await.unwrap();
    let again = Reminder::remove(&mut tx, bench.ann, bench.task, reminder).await;
    assert!(matches!(again, Err(Error::NotFound("reminder"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_kept() {
    let bench = Bench::at("2026-11-30T08:00:00Z").await;
    bench.add(-30).await;
    let code = |result: Result<_, Error>| match result.map(|_: (Reminder, _)| ()) {
        Err(Error::Invalid(errors)) => errors[0].code,
        other => panic!("{other:?}"),
    };
    let again = bench.try_add(json!({"kind": "relative", "offset_minutes": -30})).await;
    assert_eq!(code(again), Code::Duplicate);
    for offset in 1..20 {
        bench.add(offset).await;
    }
    let too_many = bench.try_add(json!({"kind": "relative", "offset_minutes": 100})).await;
    assert_eq!(code(too_many), Code::TooMany);
    bench.run("UPDATE tasks SET due_kind = NULL, due_date = NULL, due_time = NULL, due_at = NULL").await;
    let without_due = bench.try_add(json!({"kind": "relative", "offset_minutes": 200})).await;
    assert_eq!(code(without_due), Code::ReminderNeedsDue);
    bench.run("UPDATE tasks SET deleted_at = now()").await;
    let in_trash = bench.try_add(json!({"kind": "absolute", "at": "2026-12-01T08:00:00Z"})).await;
    assert!(matches!(in_trash, Err(Error::Conflict { code: Code::TaskDeleted, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_finds_nothing() {
    let bench = Bench::at("2026-11-30T08:00:00Z").await;
    let reminder = bench.add(-30).await;
    let eve = Viewer { user_id: UserId::new(), project: None };
    let mut conn = bench.db.conn().await.unwrap();
    assert!(matches!(Reminder::of_task(&mut conn, eve, bench.task).await, Err(Error::NotFound(_))));
    assert!(matches!(Fire::of_reminder(&mut conn, eve, bench.task, reminder).await, Err(Error::NotFound(_))));
    let mut tx = bench.db.begin().await.unwrap();
    assert!(Reminder::remove(&mut tx, eve, bench.task, reminder).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_zone_moves_what_is_planned_and_sends_nothing_again() {
    let bench = Bench::at("2026-12-01T08:00:00Z").await;
    let (sent, open) = (bench.add(-90).await, bench.add(-30).await);
    let (absolute, _) = bench.try_add(json!({"kind": "absolute", "at": "2026-12-01T20:00"})).await.unwrap();
    bench.run(&format!("UPDATE reminder_fires SET state = 'sent' WHERE reminder_id = '{sent}'")).await;
    bench.run("UPDATE users SET time_zone = 'America/New_York'").await;
    bench.run("UPDATE tasks SET version = 10").await;

    let mut tx = bench.db.begin().await.unwrap();
    let now = tx.clock().now();
    let person = Person::load(tx.conn(), bench.ann.user_id, now).await.unwrap();
    assert_eq!(reminders::replan_person(&mut tx, &person).await.unwrap(), 1);
    assert_eq!(reminders::replan_person(&mut tx, &person).await.unwrap(), 0);
    tx.commit().await.unwrap();
    assert_eq!(bench.fires(open).await, [planned(1, "2026-12-01T14:30:00Z")]);
    assert_eq!(bench.fires(sent).await.len(), 1);
    assert_eq!(bench.fires(absolute.id).await, [planned(1, "2026-12-01T19:00:00Z")]);
}

/// Many fires of many people, several schedulers at once: each fire in one job, one job a person in each round.
#[tokio::test(flavor = "multi_thread")]
async fn schedulers_share_what_is_due() {
    let bench = Bench::at("2026-12-01T08:00:00Z").await;
    bench
        .run(
            "WITH u AS (INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
                 SELECT gen_random_uuid(), 'p' || n || '@example.com', 'P', 'UTC', now(), now() FROM generate_series(1, 1000) n RETURNING id),
             t AS (INSERT INTO tasks (id, owner_id, created_by, title, created_at, updated_at)
                 SELECT gen_random_uuid(), id, id, 'T', now(), now() FROM u RETURNING id, owner_id),
             r AS (INSERT INTO reminders (id, task_id, user_id, kind, at_local, at_zone, created_at)
                 SELECT gen_random_uuid(), id, owner_id, 'absolute', timestamp '2026-12-01 07:00' + n * interval '1 s', 'UTC', now()
                 FROM t, generate_series(1, 3) n RETURNING *)
             INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, created_at)
             SELECT gen_random_uuid(), id, task_id, user_id, at_local AT TIME ZONE 'UTC', at_local AT TIME ZONE 'UTC', now() FROM r",
        )
        .await;
    let round = async || {
        let mut rounds = Vec::new();
        loop {
            let mut tx = bench.db.begin().await.unwrap();
            let taken = reminders::queue_due(&mut tx, reminders::CATCH_UP_PER_SECOND).await.unwrap();
            tx.commit().await.unwrap();
            if taken.queued == 0 {
                return rounds;
            }
            rounds.push(taken.queued);
        }
    };
    let (one, two, three) = tokio::join!(round(), round(), round());
    let taken: usize = [one, two, three].concat().iter().sum();
    assert_eq!(taken, 3000);
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        jobs: i64,
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        lost: i64,
    }
    let rows: Vec<Row> = diesel::sql_query(
        "SELECT (SELECT count(*) FROM jobs) AS jobs,
             (SELECT count(*) FROM reminder_fires f LEFT JOIN jobs j ON j.id = f.job_id AND j.lane = f.user_id::text
              WHERE j.id IS NULL OR f.state <> 'queued') AS lost",
    )
    .load(&mut bench.db.conn().await.unwrap())
    .await
    .unwrap();
    assert_eq!(rows[0].lost, 0);
    assert!((1000..=3000).contains(&rows[0].jobs), "{}", rows[0].jobs);
}
