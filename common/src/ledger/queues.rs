//! The table `queues`: what is paused, and why.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Double, Nullable, Text, Timestamptz},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    jobs::QUEUES,
};

/// Unfinished jobs that are counted at most.
const BOUND: i64 = 100_000;
/// Among so many of the newest jobs dead ones are counted and workers are looked for: neither has an index (design §2.1).
const NEWEST: i64 = 20_000;

/// What stands in a queue, as operators see it.
#[derive(Debug, Clone, PartialEq, QueryableByName, Serialize, ToSchema)]
pub struct QueueStatus {
    /// Its name.
    #[diesel(sql_type = Text)]
    #[schema(example = "mail")]
    pub name: String,
    /// Jobs that may start now. Of all unfinished jobs, the 100,000 that are due first are counted.
    #[diesel(sql_type = BigInt)]
    pub ready: i64,
    /// Jobs that a worker holds.
    #[diesel(sql_type = BigInt)]
    pub running: i64,
    /// Jobs whose time has not come: planned for later, snoozed, or to be tried again.
    #[diesel(sql_type = BigInt)]
    pub delayed: i64,
    /// Jobs that were given up, among the newest 20,000 of all queues.
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    /// For how many seconds the oldest of those that may start is waiting.
    #[diesel(sql_type = Nullable<Double>)]
    #[schema(example = 0.4)]
    pub oldest_ready_age: Option<f64>,
    /// Since when nothing of it is started; null: it is worked on.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub paused_at: Option<DateTime<Utc>>,
    /// Who paused it: an address, or `worker`.
    #[diesel(sql_type = Nullable<Text>)]
    #[schema(example = "ann@example.com")]
    pub paused_by: Option<String>,
    /// Why.
    #[diesel(sql_type = Nullable<Text>)]
    #[schema(example = "The mail server moves house")]
    pub reason: Option<String>,
    /// The workers that began a job of it within the last five minutes. One that had nothing to do is not among them.
    #[diesel(sql_type = Array<Text>)]
    pub workers: Vec<String>,
}

impl QueueStatus {
    /// All queues: those of this build, and others that have unfinished jobs or are paused.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn all(conn: &mut AsyncPgConnection, now: Now) -> Result<Vec<Self>> {
        let rows = sql!(
            "WITH unfinished AS MATERIALIZED (SELECT queue, state, run_at FROM jobs WHERE finished_at IS NULL
                 ORDER BY run_at LIMIT {bound}),
             newest AS MATERIALIZED (SELECT queue, state, worker, started_at FROM jobs ORDER BY id DESC LIMIT {newest}),
             names AS (SELECT unnest({names}) AS name UNION SELECT name FROM queues UNION SELECT queue FROM unfinished),
             counts AS (SELECT queue,
                 count(*) FILTER (WHERE state = 'ready' AND run_at <= {now}) AS ready,
                 count(*) FILTER (WHERE state = 'running') AS running,
                 count(*) FILTER (WHERE state = 'ready' AND run_at > {now}) AS delayed,
                 extract(epoch FROM {now} - min(run_at) FILTER (WHERE state = 'ready' AND run_at <= {now}))::float8 AS age
                 FROM unfinished GROUP BY queue),
             lately AS (SELECT queue, count(*) FILTER (WHERE state = 'dead') AS dead,
                 array_agg(DISTINCT worker) FILTER (WHERE worker IS NOT NULL AND started_at > {now} - interval '5 minutes') AS workers
                 FROM newest GROUP BY queue)
             SELECT n.name, coalesce(c.ready, 0) AS ready, coalesce(c.running, 0) AS running,
                 coalesce(c.delayed, 0) AS delayed, coalesce(l.dead, 0) AS dead, c.age AS oldest_ready_age,
                 q.paused_at, q.paused_by, q.reason, coalesce(l.workers, ARRAY[]::text[]) AS workers
             FROM names n LEFT JOIN counts c ON c.queue = n.name LEFT JOIN lately l ON l.queue = n.name
                 LEFT JOIN queues q ON q.name = n.name
             ORDER BY n.name",
            now = now,
            bound: BigInt = BOUND,
            newest: BigInt = NEWEST,
            names: Array<Text> = QUEUES,
        )
        .load(conn)
        .await?;
        Ok(rows)
    }

    async fn find(tx: &mut Tx, name: &str) -> Result<Self> {
        let now = tx.clock().now();
        let all = Self::all(tx.conn(), now).await?;
        all.into_iter().find(|queue| queue.name == name).ok_or(Error::NotFound("queue"))
    }
}

/// A queue of this build, or an error that lists them.
fn known(queue: &str) -> Result<()> {
    if QUEUES.contains(&queue) {
        return Ok(());
    }
    let detail = format!("There is no such queue; the queues are {}.", QUEUES.join(", "));
    Err(Error::Invalid(vec![FieldError::parameter("queue", Code::InvalidValue, detail)]))
}

/// Pauses a queue because `by` wants it, whoever has paused it before: no worker resumes it by itself then. Workers
/// start nothing more within a second or two; what runs goes on.
///
/// # Errors
/// [`Error::Invalid`] if there is no such queue.
pub async fn pause_by_hand(tx: &mut Tx, queue: &str, by: &str, reason: Option<&str>) -> Result<QueueStatus> {
    known(queue)?;
    sql!(
        "INSERT INTO queues (name, paused_at, paused_by, reason) VALUES ({queue}, {now}, {by}, {reason})
         ON CONFLICT (name) DO UPDATE SET paused_at = coalesce(queues.paused_at, excluded.paused_at),
             paused_by = excluded.paused_by, reason = excluded.reason, probe_at = NULL",
        queue: Text = queue,
        now = tx.clock().now(),
        by: Text = by,
        reason: Nullable<Text> = reason,
    )
    .execute(tx.conn())
    .await?;
    tracing::info!(queue, by, reason, "queue paused by hand");
    QueueStatus::find(tx, queue).await
}

/// Ends the pause of a queue, whoever paused it. Without a mail server a worker that starts pauses `mail` again.
///
/// # Errors
/// [`Error::Invalid`] if there is no such queue.
pub async fn resume_by_hand(tx: &mut Tx, queue: &str, by: &str) -> Result<QueueStatus> {
    known(queue)?;
    sql!(
        "UPDATE queues SET paused_at = NULL, paused_by = NULL, reason = NULL, probe_at = NULL WHERE name = {queue}",
        queue: Text = queue,
    )
    .execute(tx.conn())
    .await?;
    tracing::info!(queue, by, "queue resumed by hand");
    QueueStatus::find(tx, queue).await
}

/// The names of the queues that are paused. Workers ask every second.
///
/// # Errors
/// If the database is away.
pub async fn paused(conn: &mut AsyncPgConnection) -> Result<Vec<String>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        name: String,
    }

    let rows: Vec<Row> = sql!("SELECT name FROM queues WHERE paused_at IS NOT NULL").load(conn).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// Who paused a queue, and why.
#[derive(Debug, Clone, QueryableByName)]
pub struct Pause {
    /// `worker`, or an operator.
    #[diesel(sql_type = Nullable<Text>)]
    pub paused_by: Option<String>,
    /// In words.
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = self.paused_by.as_deref().unwrap_or("somebody");
        write!(f, "Paused by {by}: {}", self.reason.as_deref().unwrap_or("no reason was given"))
    }
}

/// The pause of a queue, if it is paused.
///
/// # Errors
/// If the database is away.
pub async fn pause_of(conn: &mut AsyncPgConnection, queue: &str) -> Result<Option<Pause>> {
    let rows = sql!(
        "SELECT paused_by, reason FROM queues WHERE name = {queue} AND paused_at IS NOT NULL",
        queue: Text = queue,
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().next())
}

/// Pauses a queue, unless somebody has already; `by` and `reason` say who and why.
///
/// # Errors
/// If the database is away.
pub async fn pause(
    conn: &mut AsyncPgConnection,
    now: Now,
    queue: &str,
    by: &str,
    reason: &str,
) -> Result<()> {
    pause_and_probe(conn, now, queue, by, reason, None).await.map(drop)
}

/// Pauses a queue, unless somebody has already, until a probe finds that it can go on: the first is due after
/// `probe_after`. True if it was this call that paused it.
///
/// # Errors
/// If the database is away.
pub async fn pause_and_probe(
    conn: &mut AsyncPgConnection,
    now: Now,
    queue: &str,
    by: &str,
    reason: &str,
    probe_after: Option<Duration>,
) -> Result<bool> {
    let paused = sql!(
        "INSERT INTO queues (name, paused_at, paused_by, reason, probe_at)
         VALUES ({queue}, {now}, {by}, {reason}, {now} + make_interval(secs => {probe_after}))
         ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by,
             reason = excluded.reason, probe_at = excluded.probe_at
         WHERE queues.paused_at IS NULL",
        queue: Text = queue,
        now = now,
        by: Text = by,
        reason: Text = reason,
        probe_after: Nullable<Double> = probe_after.map(|pause| pause.as_secs_f64()),
    )
    .execute(conn)
    .await?;
    Ok(paused > 0)
}

/// Takes the turn to probe a queue that `by` paused, if one is due; the next is due after `every`. However many
/// processes ask, one of them gets it.
///
/// # Errors
/// If the database is away.
pub async fn take_probe(
    conn: &mut AsyncPgConnection,
    now: Now,
    queue: &str,
    by: &str,
    every: Duration,
) -> Result<bool> {
    let taken = sql!(
        "UPDATE queues SET probe_at = {now} + make_interval(secs => {every})
         WHERE name = {queue} AND paused_at IS NOT NULL AND paused_by = {by} AND probe_at <= {now}",
        now = now,
        every: Double = every.as_secs_f64(),
        queue: Text = queue,
        by: Text = by,
    )
    .execute(conn)
    .await?;
    Ok(taken > 0)
}

/// Ends the pause of a queue, if it was `by` that paused it.
///
/// # Errors
/// If the database is away.
pub async fn resume(conn: &mut AsyncPgConnection, queue: &str, by: &str) -> Result<()> {
    sql!(
        "UPDATE queues SET paused_at = NULL, paused_by = NULL, reason = NULL, probe_at = NULL
         WHERE name = {queue} AND paused_by = {by}",
        queue: Text = queue,
        by: Text = by,
    )
    .execute(conn)
    .await?;
    Ok(())
}
