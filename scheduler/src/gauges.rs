//! Figures of database truth, for `/metrics`: computed here every few seconds and not at each scrape, so that no number
//! of scrapers costs the database more. Each statement reads a bounded number of rows; a gauge that reaches the bound
//! says "at least". Every scheduler shows the same figures: dashboards take the maximum.

mod business;
mod stores;

use std::{collections::BTreeSet, time::Duration};

use common::{
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    jobs,
    ledger::JobState,
    metrics,
    redis::Redis,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Double, Nullable, Text},
};

use crate::rounds::Round;

pub use business::Business;
pub use stores::Stores;

const EVERY: Duration = Duration::from_secs(5);
/// Rows that are counted at most.
const BOUND: i64 = 100_000;

/// The loop that computes the gauges.
pub struct Gauges {
    db: Db,
    redis: Redis,
    /// Queues that had a gauge once: it has to go back to 0.
    queues: BTreeSet<String>,
}

/// What is unfinished in a queue.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Unfinished {
    /// Which queue.
    #[diesel(sql_type = Text)]
    pub queue: String,
    /// Jobs that wait for their time or for a worker.
    #[diesel(sql_type = BigInt)]
    pub ready: i64,
    /// Jobs that a worker holds.
    #[diesel(sql_type = BigInt)]
    pub running: i64,
    /// For how many seconds the oldest of those that may start is waiting.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest_ready_age: Option<f64>,
}

/// What is unfinished, by queue; queues without such jobs are left out.
///
/// # Errors
/// If the database is away.
pub async fn unfinished(db: &Db) -> Result<Vec<Unfinished>> {
    let rows = sql!(
        "SELECT queue,
             count(*) FILTER (WHERE state = 'ready') AS ready,
             count(*) FILTER (WHERE state = 'running') AS running,
             extract(epoch FROM {now} - min(run_at) FILTER (WHERE state = 'ready' AND run_at <= {now}))::float8
                 AS oldest_ready_age
         FROM (SELECT queue, state, run_at FROM jobs WHERE finished_at IS NULL ORDER BY run_at LIMIT {bound}) j
         GROUP BY queue",
        now = db.clock().now(),
        bound: BigInt = BOUND,
    )
    .load(&mut db.conn().await?)
    .await?;
    Ok(rows)
}

/// How many fires are due and neither sent nor settled.
///
/// # Errors
/// If the database is away.
pub async fn reminders_due_unsent(db: &Db) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }

    // Two halves, for two partial indexes.
    let row: Count = sql!(
        "SELECT count(*) AS count FROM (
             (SELECT FROM reminder_fires WHERE state IN ('planned', 'deferred') AND fire_at <= {now} LIMIT {bound})
             UNION ALL
             (SELECT FROM reminder_fires WHERE state IN ('queued', 'sending') LIMIT {bound})) f",
        now = db.clock().now(),
        bound: BigInt = BOUND,
    )
    .get_result(&mut db.conn().await?)
    .await?;
    Ok(row.count)
}

/// For how many seconds the oldest webhook delivery waits that was not tried yet; 0 if there is none.
///
/// # Errors
/// If the database is away.
pub async fn webhook_oldest_pending_age(db: &Db) -> Result<f64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Double)]
        age: f64,
    }

    let row: Row = sql!(
        "SELECT coalesce(extract(epoch FROM {now} - min(created_at) FILTER (WHERE state = 'pending'))::float8, 0) AS age
         FROM (SELECT state, created_at FROM webhook_deliveries WHERE finished_at IS NULL LIMIT {bound}) d",
        now = db.clock().now(),
        bound: BigInt = BOUND,
    )
    .get_result(&mut db.conn().await?)
    .await?;
    Ok(row.age)
}

impl Gauges {
    /// A loop that has not computed anything yet.
    pub fn new(db: Db, redis: Redis) -> Self {
        Self { db, redis, queues: jobs::QUEUES.iter().map(|queue| (*queue).to_owned()).collect() }
    }
}

impl Round for Gauges {
    const NAME: &'static str = "gauges";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        self.db.observe();
        metrics::redis_up(self.redis.is_up().await);
        let unfinished = unfinished(&self.db).await?;
        self.queues.extend(unfinished.iter().map(|row| row.queue.clone()));
        for queue in &self.queues {
            let row = unfinished.iter().find(|row| row.queue == *queue);
            let figures = [
                (JobState::Ready, row.map_or(0, |row| row.ready)),
                (JobState::Running, row.map_or(0, |row| row.running)),
            ];
            for (state, count) in figures {
                metrics::queue_jobs(queue, state.as_str(), count as f64);
            }
            let age = row.and_then(|row| row.oldest_ready_age).unwrap_or(0.0);
            metrics::queue_oldest_ready_age(queue, age);
        }
        metrics::reminders_due_unsent(reminders_due_unsent(&self.db).await? as f64);
        metrics::webhook_oldest_pending_age(webhook_oldest_pending_age(&self.db).await?);
        Ok(EVERY)
    }
}

#[cfg(test)]
mod tests;
