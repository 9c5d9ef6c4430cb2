//! What the tests of this crate share: a database and a mail server of their own, and rows by plain SQL.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::{
    clock::Clock,
    db::{Db, RunQueryDsl as _},
    ids::{FireId, JobId, ReminderId, TaskId, UserId},
    redis::Redis,
    reminders,
    testing::{TestDatabase, at},
    webhooks::target::Reach,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid},
};
use tools::mail_sink::{MailSink, Message, Options};

use crate::{Context, Settings, Turns, http::Http, smtp::Smtp};

/// A worker's surroundings at a fixed time.
pub(crate) struct Bench {
    pub(crate) context: Context,
    pub(crate) clock: Clock,
    pub(crate) sink: MailSink,
    /// Kept for what needs to see the database as its owner.
    _database: TestDatabase,
}

/// What tests look at in a fire.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub(crate) struct FireRow {
    #[diesel(sql_type = Uuid)]
    pub(crate) id: FireId,
    #[diesel(sql_type = Text)]
    pub(crate) state: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) message_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) smtp_reply: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    pub(crate) late_by_s: Option<i32>,
}

impl FireRow {
    pub(crate) fn stands(&self) -> (&str, Option<&str>) {
        (&self.state, self.reason.as_deref())
    }
}

impl Bench {
    pub(crate) async fn at(instant: &str) -> Self {
        let database = TestDatabase::create().await;
        let clock = Clock::fixed(at(instant));
        let (db, _) = database.open(clock.clone());
        let options = Options { slow_for: Duration::from_millis(500), ..Options::default() };
        let sink = MailSink::start(options).await.unwrap();
        let smtp = smtp(&format!("smtp://{}", sink.smtp_addr()), crate::smtp::LIMIT);
        // No test here needs Redis.
        let redis = Redis::new("redis://127.0.0.1:9", "test").unwrap();
        let context = Context {
            db,
            redis,
            secrets: common::testing::secret_keys(),
            smtp: Some(smtp),
            http: Http::new(Reach::default()).unwrap(),
            turns: Turns::default(),
            settings: Settings::default(),
        };
        Self { context, clock, sink, _database: database }
    }

    pub(crate) fn db(&self) -> &Db {
        &self.context.db
    }

    pub(crate) fn advance_to(&self, instant: &str) {
        self.clock.set(at(instant));
    }

    pub(crate) fn mails(&self) -> Vec<std::sync::Arc<Message>> {
        self.sink.messages()
    }

    pub(crate) async fn run(&self, sql: &str) -> usize {
        let mut conn = self.db().conn().await.unwrap();
        diesel::sql_query(sql).execute(&mut conn).await.unwrap()
    }

    pub(crate) async fn count(&self, what: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }

        let mut conn = self.db().conn().await.unwrap();
        let rows: Vec<Count> =
            diesel::sql_query(format!("SELECT count(*) AS count FROM {what}")).load(&mut conn).await.unwrap();
        rows[0].count
    }

    pub(crate) async fn user(&self, email: &str) -> UserId {
        let id = UserId::new();
        self.run(&format!(
            "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
             VALUES ('{id}', '{email}', 'Somebody', 'Europe/Berlin', '2026-01-01Z', '2026-01-01Z')"
        ))
        .await;
        id
    }

    /// A task that is due at 17:00 on 1 December 2026.
    pub(crate) async fn task(&self, owner: UserId, title: &str) -> TaskId {
        let id = TaskId::new();
        let mut conn = self.db().conn().await.unwrap();
        diesel::sql_query(
            "INSERT INTO tasks (id, owner_id, created_by, title, priority, due_kind, due_date, due_time, due_at, created_at, updated_at)
             VALUES ($1, $2, $2, $3, 'high', 'floating', '2026-12-01', '17:00', '2026-12-01T16:00:00Z', '2026-01-01Z', '2026-01-01Z')",
        )
        .bind::<Uuid, _>(id)
        .bind::<Uuid, _>(owner)
        .bind::<Text, _>(title)
        .execute(&mut conn)
        .await
        .unwrap();
        id
    }

    /// A reminder of a task and its planned fire.
    pub(crate) async fn fire(&self, user: UserId, task: TaskId, fire_at: &str) -> FireId {
        let (reminder, fire) = (ReminderId::new(), FireId::new());
        let fire_at: DateTime<Utc> = at(fire_at);
        let mut conn = self.db().conn().await.unwrap();
        diesel::sql_query(
            "WITH r AS (INSERT INTO reminders (id, task_id, user_id, kind, at_local, at_zone, created_at)
                 VALUES ($1, $2, $3, 'absolute', $5 AT TIME ZONE 'UTC' + random() * interval '1 s', 'UTC', '2026-01-01Z'))
             INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, request_id, traceparent, created_at)
             VALUES ($4, $1, $2, $3, $5, $5, 'request-1', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', '2026-01-01Z')",
        )
        .bind::<Uuid, _>(reminder)
        .bind::<Uuid, _>(task)
        .bind::<Uuid, _>(user)
        .bind::<Uuid, _>(fire)
        .bind::<Timestamptz, _>(fire_at)
        .execute(&mut conn)
        .await
        .unwrap();
        fire
    }

    /// A round of the due step, and the ids of all jobs so far, in the order of their making.
    pub(crate) async fn queue_due(&self) -> Vec<JobId> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Uuid)]
            id: JobId,
        }

        let mut tx = self.db().begin().await.unwrap();
        reminders::queue_due(&mut tx, reminders::CATCH_UP_PER_SECOND).await.unwrap();
        tx.commit().await.unwrap();
        let mut conn = self.db().conn().await.unwrap();
        let rows: Vec<Row> =
            diesel::sql_query("SELECT id FROM jobs ORDER BY id").load(&mut conn).await.unwrap();
        rows.into_iter().map(|row| row.id).collect()
    }

    /// What a worker's claim does to a job.
    pub(crate) async fn start(&self, job: JobId) {
        self.run(&format!(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, alive_until = clock_timestamp() + interval '15 s'
             WHERE id = '{job}'"
        ))
        .await;
    }

    pub(crate) async fn fire_row(&self, id: FireId) -> FireRow {
        let mut conn = self.db().conn().await.unwrap();
        let rows: Vec<FireRow> = diesel::sql_query(
            "SELECT id, state::text AS state, reason, message_id, smtp_reply, late_by_s FROM reminder_fires WHERE id = $1",
        )
        .bind::<Uuid, _>(id)
        .load(&mut conn)
        .await
        .unwrap();
        rows.into_iter().next().unwrap()
    }
}

pub(crate) fn smtp(url: &str, limit: Duration) -> Smtp {
    Smtp::with_limit(url.parse().unwrap(), "TaskTracker <tasktracker@example.com>".parse().unwrap(), limit)
}
