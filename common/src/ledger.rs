//! The jobs table: what is owed, and who holds it. Everything that several processes do with `jobs` and `queues` is
//! here; what only the scheduler reads stands beside its loops. What a job does is in `worker`, and what Redis knows
//! is in [`queue`](crate::queue).

mod claim;
mod enqueue_all;
mod finish;
mod list;
mod operate;
mod prune;
mod queues;
mod result;

pub use claim::{Claim, ClaimKey, MAX_CRASHES, Standing, claim, claim_orphan, lost, renew, standing};
pub use enqueue_all::enqueue_all;
pub use finish::{Again, Finish, finish};
pub use list::{JobDetails, JobError, JobFilter, JobSummary, LastError};
pub use operate::{MAX_RETRIED, Retried, cancel, retry, retry_all};
pub use prune::prune;
pub use queues::{
    Pause, QueueStatus, pause, pause_and_probe, pause_by_hand, pause_of, paused, resume, resume_by_hand,
    take_probe,
};
pub use result::{Ended, set_result, wait_for};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid},
};

use crate::{
    clock::Now,
    db::{AsyncPgConnection, RunQueryDsl as _, Tx, pg_enum, sql},
    dispatcher::DueJob,
    error::{Error, Result},
    ids::JobId,
    jobs::Job,
    telemetry::Origin,
};

pg_enum! {
    /// Where a job stands (design §2.1). `Dead` means a fault of ours; what the world refuses is settled in its own row.
    JobState: JobState {
        /// Waits for its time or for a worker.
        Ready = "ready",
        /// A worker holds it.
        Running = "running",
        /// Finished.
        Done = "done",
        /// Given up.
        Dead = "dead",
        /// Not wanted any more.
        Cancelled = "cancelled",
    }
}

/// A job on its way into the ledger.
#[derive(Debug, Clone)]
pub struct NewJob {
    kind: &'static str,
    queue: &'static str,
    lane: String,
    args: serde_json::Value,
    priority: i16,
    max_attempts: i16,
    run_at: Option<DateTime<Utc>>,
    unique_key: Option<String>,
    origin: Option<Origin>,
}

impl NewJob {
    /// `job`, due now.
    ///
    /// # Errors
    /// If its arguments cannot be written as JSON.
    pub fn of<J: Job>(job: &J) -> Result<Self> {
        Ok(Self {
            kind: J::KIND,
            queue: J::POLICY.queue,
            lane: job.lane(),
            args: serde_json::to_value(job).map_err(|error| Error::Internal(error.into()))?,
            priority: J::POLICY.priority,
            max_attempts: J::POLICY.max_attempts,
            run_at: None,
            unique_key: None,
            origin: None,
        })
    }

    /// Not before `instant`.
    pub fn run_at(mut self, instant: DateTime<Utc>) -> Self {
        self.run_at = Some(instant);
        self
    }

    /// Only if no job ever had this key.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// Asked for by this request, instead of by what runs now.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// On behalf of somebody whom the payload does not name.
    pub fn lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = lane.into();
        self
    }

    /// 0 first … 3, instead of the kind's own.
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }
}

/// Writes a job. If its unique key is taken, the job that has it stands and its id is not known: use
/// [`enqueue_once`] for those.
///
/// # Errors
/// If the database is away.
pub async fn enqueue(tx: &mut Tx, job: NewJob) -> Result<JobId> {
    enqueue_once(tx, job)
        .await?
        .ok_or_else(|| Error::Internal(anyhow::anyhow!("a job with a unique key needs enqueue_once")))
}

/// Writes a job unless another has its unique key: `None` then.
///
/// # Errors
/// If the database is away.
pub async fn enqueue_once(tx: &mut Tx, job: NewJob) -> Result<Option<JobId>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Timestamptz)]
        run_at: DateTime<Utc>,
        #[diesel(sql_type = diesel::sql_types::Bool)]
        due: bool,
    }

    let id = JobId::new();
    let now = tx.clock().now();
    let origin = job.origin.unwrap_or_else(Origin::current);
    let row: Option<Row> = sql!(
        "INSERT INTO jobs (id, kind, queue, lane, args, priority, max_attempts, run_at, unique_key, created_at, request_id, traceparent)
         SELECT {id}, {kind}, {queue}, {lane}, {args}, {priority}, {max_attempts}, coalesce({run_at}, t.now), {unique_key}, t.now, {request_id}, {traceparent}
         FROM (SELECT {now} AS now) t
         ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
         RETURNING run_at, run_at <= created_at AS due",
        id: Uuid = id,
        kind: Text = job.kind,
        queue: Text = job.queue,
        lane: Text = job.lane.clone(),
        args: Jsonb = job.args,
        priority: SmallInt = job.priority,
        max_attempts: SmallInt = job.max_attempts,
        run_at: Nullable<Timestamptz> = job.run_at,
        unique_key: Nullable<Text> = job.unique_key,
        now = now,
        request_id: Nullable<Text> = origin.request_id,
        traceparent: Nullable<Text> = origin.traceparent,
    )
    .load(tx.conn())
    .await?
    .pop();
    let Some(row) = row else { return Ok(None) };
    if row.due {
        tx.push_at_commit(DueJob {
            id,
            queue: job.queue.to_owned(),
            lane: job.lane,
            priority: job.priority,
            run_at: row.run_at,
        });
    }
    Ok(Some(id))
}

/// Says that Redis holds these jobs, those that no worker has claimed meanwhile.
///
/// # Errors
/// If the database is away.
pub async fn mark_pushed(conn: &mut AsyncPgConnection, now: Now, ids: &[JobId]) -> Result<()> {
    sql!(
        "WITH c AS MATERIALIZED (
             SELECT id FROM jobs WHERE id = ANY({ids}) AND state = 'ready' AND attempt = 0 AND pushed_at IS NULL
             ORDER BY id FOR UPDATE SKIP LOCKED)
         UPDATE jobs j SET pushed_at = {now} FROM c WHERE j.id = c.id",
        ids: Array<Uuid> = ids,
        now = now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
