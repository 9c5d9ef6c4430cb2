//! Pushes to Redis what no dispatcher has pushed: retries and snoozes whose time has come, jobs planned for later, and
//! what a process committed before it died or while Redis was away (design §2.3, step 3). Several schedulers share the
//! work: each takes rows that no other has locked.
//!
//! The index by which jobs are found begins with those that have just ended, until a vacuum takes them out; while somebody holds a
//! transaction open, none does, and a hundred thousand pile up there. So a round does not begin with the oldest job, but where the
//! one before ended. [`Sweep`] does, less often: it finds what became visible late.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use common::{
    db::{Db, RunQueryDsl as _, Tx, sql},
    dispatcher::DueJob,
    error::Result,
    ids::JobId,
    metrics,
    queue::Queue,
    redis::Redis,
};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Double, Integer, SmallInt, Text, Timestamptz, Uuid},
};

use crate::rounds::Round;

const EVERY: Duration = Duration::from_millis(500);
/// How long the dispatcher of the process that committed a job has for it.
const DISPATCHER_FIRST: Duration = Duration::from_secs(2);
/// Jobs in a round: two calls of a script.
const BATCH: usize = 1_000;
/// How far a round goes back behind the one before: further than a transaction usually takes from the time that its jobs carry to
/// its commit, and than the dispatcher has.
const BACK: TimeDelta = TimeDelta::seconds(4);
const _: () = assert!(BACK.num_seconds() as u64 > DISPATCHER_FIRST.as_secs());
/// How often everything is looked at: a job that a stopping worker hands back is due since long ago, and waits for this.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// So many times as long as it takes it pauses at least.
const SWEEP_PAUSE: u32 = 10;

/// The loop that pushes what is left over.
pub struct Relay {
    db: Db,
    redis: Redis,
    /// What was due before has been seen to; `None` if that is not known.
    from: Option<DateTime<Utc>>,
}

/// The loop that does so from the oldest job on.
pub struct Sweep(Relay);

/// A job that Redis should know, as the ledger has it.
#[derive(Debug, Clone, QueryableByName)]
pub(crate) struct Row {
    #[diesel(sql_type = Uuid)]
    pub(crate) id: JobId,
    #[diesel(sql_type = Text)]
    queue: String,
    #[diesel(sql_type = Text)]
    lane: String,
    #[diesel(sql_type = SmallInt)]
    priority: i16,
    #[diesel(sql_type = Timestamptz)]
    pub(crate) run_at: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    fence: i32,
}

impl Relay {
    /// The loop.
    pub fn new(db: Db, redis: Redis) -> Self {
        Self { db, redis, from: None }
    }

    /// Pushes one batch, and answers how many jobs it took off the list.
    ///
    /// # Errors
    /// If the database or Redis is away. What was pushed by then is pushed again, and refused.
    pub async fn relay(&mut self) -> anyhow::Result<usize> {
        let from = self.from.take();
        let mut tx = self.db.begin().await?;
        let now = now(&mut tx).await?;
        // A clock that was put back would hide what is due.
        let rows = unpushed(&mut tx, from.filter(|from| *from < now)).await?;
        let pushed = self.push(&rows).await;
        let (mut ids, mut left) = (Vec::new(), Vec::new());
        if let Ok(refused) = &pushed {
            // Redis refuses what it holds already. A job that was never claimed then simply waits there; of any other
            // it may hold the lease of the attempt before, whose end is under way: that one is asked again.
            for row in &rows {
                if row.fence == 0 || !refused.contains(&row.id) {
                    ids.push(row.id)
                } else {
                    left.push(row.run_at)
                }
            }
            if !ids.is_empty() {
                mark(&mut tx, &ids).await?;
            }
        }
        // Also when Redis failed: a dropped transaction costs its connection.
        tx.commit().await?;
        metrics::relay_pushed(rows.len() - pushed?.len());
        // A full batch ends with the last of those that are looked at.
        let reached = rows.get(BATCH - 1).map_or(now, |last| last.run_at);
        left.push(reached - BACK);
        self.from = left.into_iter().min();
        Ok(ids.len())
    }

    /// Answers which ids Redis refused.
    async fn push(&self, rows: &[Row]) -> anyhow::Result<Vec<JobId>> {
        let mut refused = Vec::new();
        for (queue, jobs) in by_queue(rows.to_vec()) {
            refused.extend(Queue::new(&self.redis, &queue).push(&jobs).await?);
        }
        Ok(refused)
    }
}

/// When this transaction is, by the clock that decides.
async fn now(tx: &mut Tx) -> Result<DateTime<Utc>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Timestamptz)]
        now: DateTime<Utc>,
    }

    let now = tx.clock().now();
    let row: Row = sql!("SELECT {now} AS now", now = now).get_result(tx.conn()).await?;
    Ok(row.now)
}

/// Locks a batch of jobs that may start, are not pushed, and are nobody else's to push: the oldest, of those that were due at
/// `from` or later.
async fn unpushed(tx: &mut Tx, from: Option<DateTime<Utc>>) -> Result<Vec<Row>> {
    let now = tx.clock().now();
    let rows = sql!(
        "SELECT id, queue, lane, priority, run_at, fence FROM jobs
         WHERE finished_at IS NULL AND state = 'ready' AND pushed_at IS NULL
           AND run_at >= {from} AND run_at <= {now}
           AND (fence > 0 OR run_at > created_at OR created_at <= {now} - make_interval(secs => {dispatcher_first}))
         ORDER BY run_at LIMIT {batch} FOR UPDATE SKIP LOCKED",
        from: Timestamptz = from.unwrap_or(DateTime::UNIX_EPOCH),
        now = now,
        dispatcher_first: Double = DISPATCHER_FIRST.as_secs_f64(),
        batch: BigInt = BATCH as i64,
    )
    .load(tx.conn())
    .await?;
    Ok(rows)
}

async fn mark(tx: &mut Tx, ids: &[JobId]) -> Result<()> {
    let now = tx.clock().now();
    sql!("UPDATE jobs SET pushed_at = {now} WHERE id = ANY({ids})", now = now, ids: Array<Uuid> = ids)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The jobs of each queue; one of them may be a queue that only a newer build knows.
pub(crate) fn by_queue(rows: Vec<Row>) -> BTreeMap<String, Vec<DueJob>> {
    let mut queues = BTreeMap::<_, Vec<_>>::new();
    for Row { id, queue, lane, priority, run_at, .. } in rows {
        let job = DueJob { id, queue: queue.clone(), lane, priority, run_at };
        queues.entry(queue).or_default().push(job);
    }
    queues
}

impl Round for Relay {
    const NAME: &'static str = "relay";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        let full = self.relay().await? == BATCH;
        Ok(if full { Duration::ZERO } else { EVERY })
    }
}

impl Sweep {
    /// The loop.
    pub fn new(db: Db, redis: Redis) -> Self {
        Self(Relay::new(db, redis))
    }
}

impl Round for Sweep {
    const NAME: &'static str = "sweep";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.0.from = None;
        let full = self.0.relay().await? == BATCH;
        Ok(if full { Duration::ZERO } else { SWEEP_EVERY.max(begun.elapsed() * SWEEP_PAUSE) })
    }
}

#[cfg(test)]
mod tests;
