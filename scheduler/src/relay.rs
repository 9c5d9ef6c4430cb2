//! Pushes to Redis what no dispatcher has pushed: retries and snoozes whose time has come, jobs planned for later, and
//! what a process committed before it died or while Redis was away (design §2.3, step 3). Several schedulers share the
//! work: each takes rows that no other has locked.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
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

/// The loop that pushes what is left over.
pub struct Relay {
    db: Db,
    redis: Redis,
}

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
        Self { db, redis }
    }

    /// Pushes one batch, and answers how many jobs it took off the list.
    ///
    /// # Errors
    /// If the database or Redis is away. What was pushed by then is pushed again, and refused.
    pub async fn relay(&self) -> anyhow::Result<usize> {
        let mut tx = self.db.begin().await?;
        let rows = unpushed(&mut tx).await?;
        let pushed = self.push(&rows).await;
        let mut ids = Vec::new();
        if let Ok(refused) = &pushed {
            // Redis refuses what it holds already. A job that was never claimed then simply waits there; of any other
            // it may hold the lease of the attempt before, whose end is under way: that one is asked again.
            let kept = |row: &&Row| row.fence == 0 || !refused.contains(&row.id);
            ids = rows.iter().filter(kept).map(|row| row.id).collect();
            mark(&mut tx, &ids).await?;
        }
        // Also when Redis failed: a dropped transaction costs its connection.
        tx.commit().await?;
        metrics::relay_pushed(rows.len() - pushed?.len());
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

/// Locks a batch of jobs that may start, are not pushed, and are nobody else's to push.
async fn unpushed(tx: &mut Tx) -> Result<Vec<Row>> {
    let now = tx.clock().now();
    let rows = sql!(
        "SELECT id, queue, lane, priority, run_at, fence FROM jobs
         WHERE finished_at IS NULL AND state = 'ready' AND pushed_at IS NULL AND run_at <= {now}
           AND (fence > 0 OR run_at > created_at OR created_at <= {now} - make_interval(secs => {dispatcher_first}))
         ORDER BY run_at LIMIT {batch} FOR UPDATE SKIP LOCKED",
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

#[cfg(test)]
mod tests;
