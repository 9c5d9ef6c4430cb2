//! Who holds a job. **PostgreSQL decides whether a job is alive; a lease in Redis only makes recovery quick.** Each
//! claim raises `fence`; everything a holder does later names the fence that it was given.
//!
//! Statements that lock several rows do so in the order of their ids, or skip what is locked, so that none of them
//! can deadlock with another.

use std::{collections::HashMap, time::Duration};

use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Double, Integer, Jsonb, Nullable, SmallInt, Text, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Clock,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::JobId,
    metrics,
};

/// So many crashes make a job dead, whatever its kind allows: it may be what kills the workers.
pub const MAX_CRASHES: i16 = 3;

/// A job that this worker holds.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Claim {
    /// The job.
    #[diesel(sql_type = Uuid)]
    pub id: JobId,
    /// Its wire name.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// Its queue.
    #[diesel(sql_type = Text)]
    pub queue: String,
    /// Its arguments: ids only.
    #[diesel(sql_type = Jsonb)]
    pub args: serde_json::Value,
    /// Which try this is, from 1.
    #[diesel(sql_type = SmallInt)]
    pub attempt: i16,
    /// How many there may be.
    #[diesel(sql_type = SmallInt)]
    pub max_attempts: i16,
    /// The fencing token of this claim.
    #[diesel(sql_type = Integer)]
    pub fence: i32,
    /// Seconds from due to claimed.
    #[diesel(sql_type = Double)]
    pub waited: f64,
    /// The request that enqueued it.
    #[diesel(sql_type = Nullable<Text>)]
    pub request_id: Option<String>,
    /// Its trace.
    #[diesel(sql_type = Nullable<Text>)]
    pub traceparent: Option<String>,
}

/// Claims those of `ids` that are ready, due and not locked, in the order of `ids`. What is missing from the answer
/// is for [`standing`] to explain.
///
/// # Errors
/// If the database is away. Claims of which nobody heard come back when `lease` is over.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    clock: &Clock,
    ids: &[JobId],
    worker: &str,
    lease: Duration,
) -> Result<Vec<Claim>> {
    let mut claims: Vec<Claim> = sql!(
        "WITH c AS MATERIALIZED (
             SELECT id FROM jobs WHERE id = ANY({ids}) AND state = 'ready' AND run_at <= {now}
             ORDER BY id FOR UPDATE SKIP LOCKED)
         UPDATE jobs j SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker = {worker},
             alive_until = clock_timestamp() + make_interval(secs => {lease}),
             pushed_at = coalesce(pushed_at, {now}), started_at = {now}
         FROM c WHERE j.id = c.id
         RETURNING j.id, kind, queue, args, attempt, max_attempts, fence, request_id, traceparent,
             extract(epoch FROM started_at - run_at)::float8 AS waited",
        ids: Array<Uuid> = ids,
        now = clock.now(),
        worker: Text = worker,
        lease: Double = lease.as_secs_f64(),
    )
    .load(conn)
    .await?;
    let place: HashMap<JobId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    claims.sort_unstable_by_key(|claim| place.get(&claim.id).copied());
    Ok(claims)
}

/// Claims a job whose worker died, and charges it with the crash. `None` if it is an orphan no more: taken by another,
/// or made dead because this was the third crash or the last attempt.
///
/// # Errors
/// If the database is away.
pub async fn claim_orphan(
    conn: &mut AsyncPgConnection,
    clock: &Clock,
    id: JobId,
    worker: &str,
    lease: Duration,
) -> Result<Option<Claim>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        dead: bool,
        #[diesel(embed)]
        claim: Claim,
    }

    let row: Option<Row> = sql!(
        "WITH c AS MATERIALIZED (
             SELECT id, attempt >= max_attempts OR crashes + 1 >= {max_crashes} AS dead, jsonb_build_object(
                 'at', to_json({now}), 'attempt', attempt, 'worker', worker,
                 'text', 'the worker died or lost touch while it held the job') AS error
             FROM jobs WHERE id = {id} AND state = 'running' AND alive_until < clock_timestamp()
             FOR UPDATE SKIP LOCKED)
         UPDATE jobs j SET state = CASE WHEN c.dead THEN 'dead' ELSE 'running' END::job_state,
             attempt = attempt + CASE WHEN c.dead THEN 0 ELSE 1 END, fence = fence + 1, crashes = crashes + 1,
             alive_until = clock_timestamp() + make_interval(secs => {lease}),
             worker = CASE WHEN c.dead THEN worker ELSE {worker} END,
             started_at = CASE WHEN c.dead THEN started_at ELSE {now} END,
             finished_at = CASE WHEN c.dead THEN {now} END,
             errors = CASE WHEN jsonb_array_length(errors) < 10 THEN errors ELSE errors - 0 END || c.error
         FROM c WHERE j.id = c.id
         RETURNING c.dead, j.id, kind, queue, args, attempt, max_attempts, fence, request_id, traceparent,
             extract(epoch FROM started_at - run_at)::float8 AS waited",
        id: Uuid = id,
        now = clock.now(),
        worker: Text = worker,
        lease: Double = lease.as_secs_f64(),
        max_crashes: SmallInt = MAX_CRASHES,
    )
    .load(conn)
    .await?
    .pop();
    if let Some(Row { dead: true, claim }) = &row {
        tracing::error!(job.id = %claim.id, job.kind = claim.kind, attempt = claim.attempt,
            "job is dead: its worker died with it again");
        metrics::job_died_with_its_worker(&claim.queue, &claim.kind);
    }
    Ok(row.filter(|row| !row.dead).map(|row| row.claim))
}

/// Where a job stands that could not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Finished, or not due: Redis need not know it. The relay pushes it when it is due.
    Settled,
    /// A worker holds it, for so long at least.
    Held(Duration),
    /// It was claimable all along: somebody had it locked.
    Locked,
    /// Its worker is gone.
    Orphan,
}

/// Why [`claim`] left these jobs out.
///
/// # Errors
/// If the database is away.
pub async fn standing(
    conn: &mut AsyncPgConnection,
    clock: &Clock,
    ids: &[JobId],
) -> Result<Vec<(JobId, Standing)>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
        #[diesel(sql_type = Bool)]
        running: bool,
        #[diesel(sql_type = Double)]
        rest: f64,
    }

    let rows: Vec<Row> = sql!(
        "SELECT id, state = 'running' AS running,
             coalesce(extract(epoch FROM alive_until - clock_timestamp()), 0)::float8 AS rest
         FROM jobs WHERE id = ANY({ids}) AND (state = 'running' OR (state = 'ready' AND run_at <= {now}))",
        ids: Array<Uuid> = ids,
        now = clock.now(),
    )
    .load(conn)
    .await?;
    let live: HashMap<JobId, Standing> = rows
        .into_iter()
        .map(|row| match row {
            Row { id, running: false, .. } => (id, Standing::Locked),
            Row { id, rest, .. } if rest >= 0.0 => (id, Standing::Held(Duration::from_secs_f64(rest))),
            Row { id, .. } => (id, Standing::Orphan),
        })
        .collect();
    Ok(ids.iter().map(|id| (*id, live.get(id).copied().unwrap_or(Standing::Settled))).collect())
}

/// A claim by its job and its fence.
pub type ClaimKey = (JobId, i32);

/// Says that the holder of these claims is alive for another `lease`. Answers which are still its own; one that
/// is just being finished may be missing.
///
/// # Errors
/// If the database is away.
pub async fn renew(
    conn: &mut AsyncPgConnection,
    claims: &[ClaimKey],
    lease: Duration,
) -> Result<Vec<ClaimKey>> {
    let (ids, fences): (Vec<JobId>, Vec<i32>) = claims.iter().copied().unzip();
    let rows: Vec<KeyRow> = sql!(
        "WITH c AS MATERIALIZED (
             SELECT j.id FROM unnest({ids}, {fences}) AS r(id, fence) JOIN jobs j ON j.id = r.id
             WHERE j.fence = r.fence AND j.state = 'running' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
         UPDATE jobs j SET alive_until = clock_timestamp() + make_interval(secs => {lease})
         FROM c WHERE j.id = c.id RETURNING j.id, j.fence",
        ids: Array<Uuid> = ids,
        fences: Array<Integer> = fences,
        lease: Double = lease.as_secs_f64(),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.fence)).collect())
}

/// Which of these claims are somebody else's by now, or finished.
///
/// # Errors
/// If the database is away.
pub async fn lost(conn: &mut AsyncPgConnection, claims: &[ClaimKey]) -> Result<Vec<ClaimKey>> {
    let (ids, fences): (Vec<JobId>, Vec<i32>) = claims.iter().copied().unzip();
    let rows: Vec<KeyRow> = sql!(
        "SELECT r.id, r.fence FROM unnest({ids}, {fences}) AS r(id, fence)
         WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = r.id AND j.fence = r.fence AND j.state = 'running')",
        ids: Array<Uuid> = ids,
        fences: Array<Integer> = fences,
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.fence)).collect())
}

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = Uuid)]
    id: JobId,
    #[diesel(sql_type = Integer)]
    fence: i32,
}
