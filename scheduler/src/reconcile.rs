//! Finds jobs that Redis should hold and does not, and pushes them again (design §2.3, step 8). A pass reads every
//! unfinished job that was pushed; there is one every 30 s in the whole installation, and one at once when a queue's
//! epoch is not the expected one: then Redis has lost its data.
//!
//! A new epoch is written to Redis before the pass and becomes the expected one after it. So a Redis that loses its data
//! during the pass, and a scheduler that dies in it, lead to another.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use common::{
    clock::Now,
    db::{AsyncPgConnection, Db, RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::JobId,
    jobs, metrics,
    queue::{MAX_IDS, Queue},
    redis::Redis,
    schema::{queues, scheduler_state},
};
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryableByName,
    sql_types::{BigInt, Bool, Double, Text, Timestamptz, Uuid},
};
use tokio::time::Instant;
use uuid::Uuid as Epoch;

use crate::{
    relay::{self, Row},
    rounds::Round,
};

/// How often the epochs are compared.
const EVERY: Duration = Duration::from_millis(500);
/// How often everything is compared.
const PASS_EVERY: Duration = Duration::from_secs(30);
/// What was pushed within this time is left alone, for it is on its way. Much shorter than [`PASS_EVERY`]: a dispatcher
/// that pushes just before Redis loses its data marks its jobs just after, and the next pass has to find them.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// After so long a pass makes a break, for a round has a limit; the next round goes on.
const BREAK_AFTER: Duration = Duration::from_secs(5);
/// Held by the scheduler whose pass it is; with its transaction it ends. Any constant would do.
const ADVISORY_LOCK: i64 = 0x7265_636f_6e63_696c;
/// Under this name `scheduler_state` keeps when the last pass began.
const STATE: &str = "reconcile";

/// The loop that compares.
pub struct Reconcile {
    db: Db,
    redis: Redis,
    queues: Vec<Queue>,
    /// A pass that is not complete.
    pass: Option<Pass>,
}

/// How far a pass has come.
struct Pass {
    /// When it began.
    began_at: DateTime<Utc>,
    /// Jobs pushed later are not looked at.
    pushed_before: DateTime<Utc>,
    /// The last job that was looked at.
    after: (DateTime<Utc>, JobId),
    /// Queues without their epoch, and the new one.
    lost: Vec<(Queue, Epoch)>,
    /// Jobs pushed again.
    pushed: usize,
}

/// What the database says before a pass.
#[derive(QueryableByName)]
struct State {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    /// Whether the last pass is long enough ago.
    #[diesel(sql_type = Bool)]
    due: bool,
}

impl Reconcile {
    /// The loop.
    pub fn new(db: Db, redis: Redis) -> Self {
        let queues = jobs::QUEUES.iter().map(|queue| Queue::new(&redis, queue)).collect();
        Self { db, redis, queues, pass: None }
    }

    /// Compares the epochs, and makes a pass or part of one if it is time and no other scheduler is about it. Answers
    /// whether there is more to do now.
    ///
    /// # Errors
    /// If the database or Redis is away; the next call begins a new pass.
    pub async fn reconcile(&mut self) -> anyhow::Result<bool> {
        // Cheap, and nearly always all that there is to do.
        if self.pass.is_none() && !self.is_due().await? {
            return Ok(false);
        }
        let mut tx = self.db.begin().await?;
        if !lock(&mut tx).await? {
            tx.commit().await?;
            self.pass = None;
            return Ok(false);
        }
        let outcome = self.part(&mut tx).await;
        // Also when Redis failed: a dropped transaction costs its connection.
        let committed = tx.commit().await;
        self.pass = outcome?;
        committed?;
        Ok(self.pass.is_some())
    }

    async fn is_due(&self) -> anyhow::Result<bool> {
        let mut conn = self.db.conn().await?;
        let due = state(&mut conn, self.db.clock().now()).await?.due;
        let expected = expected(&mut conn).await?;
        drop(conn);
        Ok(due || !self.lost(&expected).await?.is_empty())
    }

    /// Goes on with the pass, or begins one, until it is complete (`None`) or it is time for a break.
    async fn part(&mut self, tx: &mut Tx) -> anyhow::Result<Option<Pass>> {
        let started = Instant::now();
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => match self.begin(tx).await? {
                Some(pass) => pass,
                None => return Ok(None),
            },
        };
        loop {
            let rows = page(tx, &pass).await?;
            let next = rows.last().filter(|_| rows.len() == MAX_IDS).map(|row| (row.run_at, row.id));
            pass.pushed += self.push_unknown(rows).await?;
            match next {
                Some(after) => pass.after = after,
                None => break,
            }
            if started.elapsed() > BREAK_AFTER {
                return Ok(Some(pass));
            }
        }
        complete(tx, pass).await?;
        Ok(None)
    }

    /// Begins a pass, unless another scheduler has just made one.
    async fn begin(&self, tx: &mut Tx) -> anyhow::Result<Option<Pass>> {
        let now = tx.clock().now();
        let state = state(tx.conn(), now).await?;
        let expected = expected(tx.conn()).await?;
        let lost = self.lost(&expected).await?;
        if !state.due && lost.is_empty() {
            return Ok(None);
        }
        for (queue, epoch) in &lost {
            if expected.contains_key(queue.name()) {
                tracing::warn!(queue = queue.name(), "Redis has lost this queue: pushing its jobs again");
            }
            queue.set_epoch(*epoch).await?;
        }
        let pushed_before = if lost.is_empty() { state.now - ON_ITS_WAY } else { state.now };
        Ok(Some(Pass {
            began_at: state.now,
            pushed_before,
            after: (DateTime::UNIX_EPOCH, Epoch::nil().into()),
            lost,
            pushed: 0,
        }))
    }

    /// The queues that do not have the expected epoch, each with a new one.
    async fn lost(&self, expected: &HashMap<String, Epoch>) -> anyhow::Result<Vec<(Queue, Epoch)>> {
        let mut lost = Vec::new();
        for queue in &self.queues {
            let found = queue.epoch().await?;
            if found.is_none() || found.as_ref() != expected.get(queue.name()) {
                lost.push((queue.clone(), Epoch::new_v4()));
            }
        }
        Ok(lost)
    }

    /// Pushes those jobs of a page that Redis does not hold.
    async fn push_unknown(&self, rows: Vec<Row>) -> anyhow::Result<usize> {
        let mut pushed = 0;
        for (queue, mut jobs) in relay::by_queue(rows) {
            let queue = Queue::new(&self.redis, &queue);
            let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
            let unknown = queue.unknown(&ids).await?;
            if !unknown.is_empty() {
                jobs.retain(|job| unknown.contains(&job.id));
                pushed += jobs.len() - queue.push(&jobs).await?.len();
            }
        }
        Ok(pushed)
    }
}

/// Whether this transaction is the one that makes a pass.
async fn lock(tx: &mut Tx) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        locked: bool,
    }

    let rows: Vec<Row> =
        sql!("SELECT pg_try_advisory_xact_lock({key}) AS locked", key: BigInt = ADVISORY_LOCK)
            .load(tx.conn())
            .await?;
    Ok(rows.iter().any(|row| row.locked))
}

async fn state(conn: &mut AsyncPgConnection, now: Now) -> Result<State> {
    let state = sql!(
        "SELECT {now} AS now, NOT EXISTS (
             SELECT FROM scheduler_state
             WHERE name = {name} AND last_slot_at BETWEEN {now} - make_interval(secs => {every}) AND {now}) AS due",
        now = now,
        name: Text = STATE,
        every: Double = PASS_EVERY.as_secs_f64(),
    )
    .get_result(conn)
    .await?;
    Ok(state)
}

/// The epochs that Redis should have.
async fn expected(conn: &mut AsyncPgConnection) -> Result<HashMap<String, Epoch>> {
    let epochs: Vec<(String, Option<Epoch>)> =
        queues::table.select((queues::name, queues::epoch)).load(conn).await?;
    Ok(epochs.into_iter().filter_map(|(name, epoch)| Some((name, epoch?))).collect())
}

/// The next jobs of a pass: pushed, due, and either ready or held by a worker that is gone.
async fn page(tx: &mut Tx, pass: &Pass) -> Result<Vec<Row>> {
    let now = tx.clock().now();
    let (run_at, id) = pass.after;
    let rows = sql!(
        "SELECT id, queue, lane, priority, run_at, fence FROM jobs
         WHERE finished_at IS NULL AND (run_at, id) > ({run_at}, {id}) AND run_at <= {now}
           AND pushed_at <= {pushed_before} AND (state = 'ready' OR alive_until < clock_timestamp())
         ORDER BY run_at, id LIMIT {page}",
        run_at: Timestamptz = run_at,
        id: Uuid = id,
        now = now,
        pushed_before: Timestamptz = pass.pushed_before,
        page: BigInt = MAX_IDS as i64,
    )
    .load(tx.conn())
    .await?;
    Ok(rows)
}

/// Ends a pass: what Redis was told to remember is from now on what it has to remember.
async fn complete(tx: &mut Tx, pass: Pass) -> Result<()> {
    for (queue, epoch) in &pass.lost {
        diesel::insert_into(queues::table)
            .values((queues::name.eq(queue.name()), queues::epoch.eq(epoch)))
            .on_conflict(queues::name)
            .do_update()
            .set(queues::epoch.eq(epoch))
            .execute(tx.conn())
            .await?;
    }
    diesel::insert_into(scheduler_state::table)
        .values((scheduler_state::name.eq(STATE), scheduler_state::last_slot_at.eq(pass.began_at)))
        .on_conflict(scheduler_state::name)
        .do_update()
        .set(scheduler_state::last_slot_at.eq(pass.began_at))
        .execute(tx.conn())
        .await?;
    metrics::reconcile_repushed(pass.pushed);
    if pass.pushed > 0 {
        tracing::warn!(jobs = pass.pushed, "Redis did not hold jobs that it should: pushed again");
    }
    Ok(())
}

impl Round for Reconcile {
    const NAME: &'static str = "reconcile";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        #[cfg(feature = "testing")]
        if common::sabotage::Sabotage::NoReconcile.is_planted() {
            return Ok(EVERY);
        }
        let more = self.reconcile().await?;
        Ok(if more { Duration::ZERO } else { EVERY })
    }
}

#[cfg(test)]
mod tests;
