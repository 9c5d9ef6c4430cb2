use std::time::Duration;

use common::{
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    ids::floor,
    metrics,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Double, Integer, Uuid},
};

use super::BOUND;
use crate::rounds::Round;

/// Nobody waits for these figures.
const EVERY: Duration = Duration::from_secs(10);
/// Over how many days people are counted, and their name in the metric. Sessions live no longer than the longer one.
const WITHIN: [(&str, i32); 2] = [("day", 1), ("week", 7)];

/// The loop that measures what people do.
pub struct Business {
    db: Db,
}

/// How long tasks took that were finished within a day.
#[derive(Debug, PartialEq, QueryableByName)]
struct Completion {
    #[diesel(sql_type = Double)]
    median: f64,
    #[diesel(sql_type = Double)]
    p90: f64,
}

impl Business {
    /// A loop that has not measured anything yet.
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

impl Round for Business {
    const NAME: &'static str = "business";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        for (within, days) in WITHIN {
            metrics::users_active(within, active(&self.db, days).await? as f64);
        }
        let Completion { median, p90 } = completion(&self.db).await?;
        metrics::task_completion(median, p90);
        Ok(EVERY)
    }
}

/// How many people logged in, were there with a session, or used an API token within so many days.
async fn active(db: &Db, days: i32) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }

    let row: Row = sql!(
        "WITH since AS (SELECT {now} - make_interval(days => {days}) AS t)
         SELECT count(*) AS count FROM (
             SELECT user_id FROM (SELECT user_id, issued_at FROM refresh_tokens
                 WHERE id >= {made_since} ORDER BY id DESC LIMIT {bound}) s WHERE issued_at >= (SELECT t FROM since)
             UNION
             SELECT user_id FROM (SELECT user_id, last_used_at FROM api_tokens LIMIT {bound}) a
                 WHERE last_used_at >= (SELECT t FROM since)) u",
        now = db.clock().now(),
        days: Integer = days,
        made_since: Uuid = floor(db.clock().instant() - chrono::TimeDelta::hours(i64::from(days) * 24 + 1)),
        bound: BigInt = BOUND,
    )
    .get_result(&mut db.conn().await?)
    .await?;
    Ok(row.count)
}

/// Seconds from making a task to finishing it; 0 if none was finished.
async fn completion(db: &Db) -> Result<Completion> {
    let row = sql!(
        "SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY took), 0)::float8 AS median,
             coalesce(percentile_cont(0.9) WITHIN GROUP (ORDER BY took), 0)::float8 AS p90
         FROM (SELECT extract(epoch FROM completed_at - created_at) AS took FROM tasks
             WHERE completed_at >= {now} - interval '1 day' AND archived_at IS NULL
             ORDER BY completed_at DESC LIMIT {bound}) t",
        now = db.clock().now(),
        bound: BigInt = BOUND,
    )
    .get_result(&mut db.conn().await?)
    .await?;
    Ok(row)
}

#[cfg(test)]
mod tests {
    use common::testing::database_at;

    use super::*;

    async fn run(db: &Db, statements: &[&str]) {
        for statement in statements {
            diesel::sql_query(*statement).execute(&mut db.conn().await.unwrap()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_was_there_is_counted_once() {
        let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
        assert_eq!((active(&db, 1).await.unwrap(), active(&db, 7).await.unwrap()), (0, 0));
        let person = |number: u8, email: &str| {
            format!(
                "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
                 VALUES ('00000000-0000-0000-0000-00000000000{number}', '{email}', 'X', 'UTC', '2026-01-01', '2026-01-01')"
            )
        };
        let session = |token: u8, number: u8, at: &str| {
            format!(
                "INSERT INTO refresh_tokens (id, family_id, user_id, token_hash, issued_at, expires_at, absolute_expires_at)
                 VALUES ('019f0000-0000-7000-8000-00000000000{token}', gen_random_uuid(),
                     '00000000-0000-0000-0000-00000000000{number}', '\\x0{token}', '{at}', '{at}', '{at}')"
            )
        };
        run(
            &db,
            &[
                &person(1, "ann@example.com"),
                &person(2, "ben@example.com"),
                &person(3, "eve@example.com"),
                &session(1, 1, "2026-05-04T09:00:00Z"),
                &session(2, 1, "2026-05-04T09:30:00Z"),
                &session(3, 2, "2026-05-01T09:00:00Z"),
                &session(4, 3, "2026-04-01T09:00:00Z"),
            ],
        )
        .await;
        assert_eq!((active(&db, 1).await.unwrap(), active(&db, 7).await.unwrap()), (1, 2));
        let token = |user: u8, at: &str| {
            format!(
                "INSERT INTO api_tokens (id, user_id, name, prefix, token_hash, scopes, last_used_at, created_at)
                 VALUES (gen_random_uuid(), '00000000-0000-0000-0000-00000000000{user}', 'x', 'p', '\\x0{user}', '{{tasks:read}}',
                     '{at}', '{at}')"
            )
        };
        run(&db, &[&token(1, "2026-05-04T09:00:00Z"), &token(3, "2026-05-04T09:00:00Z")]).await;
        assert_eq!((active(&db, 1).await.unwrap(), active(&db, 7).await.unwrap()), (2, 3));
    }

    #[tokio::test]
    async fn the_time_of_what_was_finished_within_a_day_counts() {
        let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
        assert_eq!(completion(&db).await.unwrap(), Completion { median: 0.0, p90: 0.0 });
        run(
            &db,
            &[
                "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
                 VALUES ('00000000-0000-0000-0000-000000000001', 'ann@example.com', 'X', 'UTC', '2026-01-01', '2026-01-01')",
                "INSERT INTO tasks (id, owner_id, title, status, completed_at, created_at, updated_at)
                 SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'x', 'done', t, t - s * interval '1 second', t
                 FROM (VALUES (timestamptz '2026-05-04T09:00:00Z', 10), ('2026-05-04T08:00:00Z', 20),
                     ('2026-05-04T07:00:00Z', 30), ('2026-05-03T09:00:00Z', 5000)) v (t, s)",
            ],
        )
        .await;
        assert_eq!(completion(&db).await.unwrap(), Completion { median: 20.0, p90: 28.0 });
    }
}
