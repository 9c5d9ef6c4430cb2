//! What an operator does with jobs by hand. Each change leaves who did it among the job's `errors`, and in the log.

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, SmallInt, Text, Timestamptz, Uuid},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    JobState,
    list::{JobDetails, JobFilter, SCAN},
};
use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    dispatcher::DueJob,
    error::{Code, Error, FieldError, Result},
    ids::JobId,
};

/// Jobs that [`retry_all`] takes at most.
pub const MAX_RETRIED: i64 = 500;

/// What [`retry_all`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Retried {
    /// How many jobs are ready again.
    #[schema(example = 12)]
    pub retried: usize,
    /// Whether older ones may be left: ask again with this as `before`.
    pub next: Option<JobId>,
}

/// Makes a dead or cancelled job ready again, due now, with all its attempts. `by` says who wants that.
///
/// What its end has settled elsewhere stays settled: the fires of a dead reminder's job are not sent by it.
///
/// # Errors
/// [`Error::Conflict`] in any other state.
pub async fn retry(tx: &mut Tx, id: JobId, by: &str) -> Result<JobDetails> {
    let done = make_ready(tx, &[id], by).await?;
    let job = JobDetails::find(tx.conn(), id).await?;
    match (done, job.summary.state) {
        (1, _) => Ok(job),
        (_, JobState::Done) => Err(wrong_state("It is done: there is nothing to try again.")),
        (_, JobState::Running) => Err(wrong_state("It is running. Cancel it first, or wait for its end.")),
        _ => Err(wrong_state("It is ready already, and starts when it is due and a worker is free.")),
    }
}

/// [`retry`] for up to [`MAX_RETRIED`] jobs that `filter` finds, the newest first, before `before` if that is given.
///
/// # Errors
/// [`Error::Malformed`] if the filter's state is not one that can be retried.
pub async fn retry_all(tx: &mut Tx, filter: &JobFilter, before: Option<JobId>, by: &str) -> Result<Retried> {
    if !matches!(filter.state, Some(JobState::Dead | JobState::Cancelled)) {
        let detail =
            "Only dead and cancelled jobs can be tried again: send `state=dead` or `state=cancelled`.";
        return Err(Error::Malformed(FieldError::parameter("state", Code::MalformedParameter, detail)));
    }
    let found = filter.search(tx.conn(), before, MAX_RETRIED, SCAN).await?;
    let ids: Vec<JobId> = found.rows.iter().map(|job| job.id).collect();
    Ok(Retried { retried: make_ready(tx, &ids, by).await?, next: found.next })
}

/// Cancels a job. One that waits does not start any more. One that runs is no longer its worker's: the worker stops it
/// at its next sign of life (5 s), and what it says of it until then is refused, because the claim that it names is
/// over. What the handler did before that stays done.
///
/// # Errors
/// [`Error::Conflict`] if it is finished.
pub async fn cancel(tx: &mut Tx, id: JobId, by: &str) -> Result<JobDetails> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        was_running: bool,
    }

    let rows: Vec<Row> = sql!(
        "WITH c AS MATERIALIZED (SELECT id, state = 'running' AS was_running FROM jobs
             WHERE id = {id} AND finished_at IS NULL FOR UPDATE)
         UPDATE jobs j SET state = 'cancelled', finished_at = {now}, alive_until = NULL,
             errors = CASE WHEN jsonb_array_length(errors) < 10 THEN errors ELSE errors - 0 END || jsonb_build_object(
                 'at', to_json({now}), 'attempt', attempt, 'worker', {by}, 'text', 'cancelled by ' || {by})
         FROM c WHERE j.id = c.id RETURNING c.was_running",
        id: Uuid = id,
        now = tx.clock().now(),
        by: Text = by,
    )
    .load(tx.conn())
    .await?;
    let job = JobDetails::find(tx.conn(), id).await?;
    let Some(row) = rows.into_iter().next() else {
        return Err(wrong_state(&format!("It is {} already.", job.summary.state)));
    };
    tracing::info!(job.id = %id, job.kind = job.summary.kind, by, running = row.was_running, "job cancelled by hand");
    Ok(job)
}

fn wrong_state(detail: &str) -> Error {
    Error::conflict(Code::JobInWrongState, detail)
}

async fn make_ready(tx: &mut Tx, ids: &[JobId], by: &str) -> Result<usize> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
        #[diesel(sql_type = Text)]
        queue: String,
        #[diesel(sql_type = Text)]
        lane: String,
        #[diesel(sql_type = SmallInt)]
        priority: i16,
        #[diesel(sql_type = Timestamptz)]
        run_at: DateTime<Utc>,
    }

    let rows: Vec<Row> = sql!(
        "WITH c AS MATERIALIZED (SELECT id FROM jobs WHERE id = ANY({ids}) AND state IN ('dead', 'cancelled')
             ORDER BY id FOR UPDATE)
         UPDATE jobs j SET state = 'ready', run_at = {now}, attempt = 0, crashes = 0, pushed_at = NULL,
             finished_at = NULL, result = NULL,
             errors = CASE WHEN jsonb_array_length(errors) < 10 THEN errors ELSE errors - 0 END || jsonb_build_object(
                 'at', to_json({now}), 'attempt', attempt, 'worker', {by}, 'text', 'retried by ' || {by})
         FROM c WHERE j.id = c.id RETURNING j.id, queue, lane, priority, run_at",
        ids: Array<Uuid> = ids,
        now = tx.clock().now(),
        by: Text = by,
    )
    .load(tx.conn())
    .await?;
    for Row { id, queue, lane, priority, run_at } in &rows {
        tracing::info!(job.id = %id, queue, by, "job retried by hand");
        tx.push_at_commit(DueJob {
            id: *id,
            queue: queue.clone(),
            lane: lane.clone(),
            priority: *priority,
            run_at: *run_at,
        });
    }
    Ok(rows.len())
}
