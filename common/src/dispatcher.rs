//! From commit to Redis without waiting: [`Tx::commit`](crate::db::Tx::commit) leaves the jobs that are due in a
//! bounded outbox, and one task per process pushes them in batches. What does not fit, or cannot be pushed, is left
//! to the relay: the ledger has it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{cache::Cache, db::Db, ids::JobId, ledger, metrics, queue::Queue, redis::Redis};

/// Committed jobs that wait for the dispatcher, at most.
const CAPACITY: usize = 10_000;

/// A job that may start now: what Redis needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueJob {
    /// Its id, all that Redis keeps.
    pub id: JobId,
    /// Which queue.
    pub queue: String,
    /// Whose work it is.
    pub lane: String,
    /// 0 first … 3.
    pub priority: i16,
    /// When it became due.
    pub run_at: DateTime<Utc>,
}

/// What a commit tells Redis: jobs are left for the dispatcher, copies are taken away. The default has neither: everything is left to
/// the relay.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    jobs: Option<mpsc::Sender<DueJob>>,
    cache: Option<Cache>,
}

impl Outbox {
    /// An outbox, and what the dispatcher reads from it.
    pub fn new() -> (Self, mpsc::Receiver<DueJob>) {
        let (jobs, receiver) = mpsc::channel(CAPACITY);
        (Self { jobs: Some(jobs), cache: None }, receiver)
    }

    /// The same, with copies that are taken away.
    #[must_use]
    pub fn with_cache(self, cache: Option<Cache>) -> Self {
        Self { cache, ..self }
    }

    /// Copies that a commit makes outdated.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// Leaves jobs; never waits. The relay takes what does not fit.
    pub(crate) fn send(&self, jobs: Vec<DueJob>) {
        let Some(sender) = &self.jobs else { return };
        let count = jobs.len();
        let sent = jobs.into_iter().take_while(|job| sender.try_send(job.clone()).is_ok()).count();
        if sent < count {
            metrics::dispatcher_overflowed(count - sent);
        }
    }
}

/// How many jobs are pushed in one call.
const BATCH: usize = 500;
/// After so long a job that was pushed is usually claimed, and the claim has marked it. Marking it earlier would
/// contend with the claim for the row.
const MARK_AFTER: Duration = Duration::from_millis(300);
/// After so long without an answer a push is left to the relay.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pushes what is committed until `stop`, and then what is left. Errors are nobody's problem: the relay takes over.
pub async fn run(db: Db, redis: Redis, mut due: mpsc::Receiver<DueJob>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut pushed: VecDeque<(Instant, Vec<JobId>)> = VecDeque::new();
    loop {
        let mark_at = pushed.front().map(|(at, _)| *at);
        tokio::select! {
            biased;
            count = due.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    break;
                }
                let ids = push(&redis, std::mem::take(&mut batch)).await;
                if !ids.is_empty() {
                    pushed.push_back((Instant::now() + MARK_AFTER, ids));
                }
            }
            () = sleep_until(mark_at.unwrap_or_else(Instant::now)), if mark_at.is_some() => {
                let due_now = pushed.iter().take_while(|(at, _)| *at <= Instant::now()).count();
                let ids: Vec<JobId> = pushed.drain(..due_now).flat_map(|(_, ids)| ids).collect();
                mark(&db, &ids).await;
            }
            () = stop.cancelled(), if !due.is_closed() => due.close(),
        }
    }
    let ids: Vec<JobId> = pushed.into_iter().flat_map(|(_, ids)| ids).collect();
    mark(&db, &ids).await;
}

/// Pushes jobs, and answers which Redis took.
async fn push(redis: &Redis, jobs: Vec<DueJob>) -> Vec<JobId> {
    let mut queues: BTreeMap<String, Vec<DueJob>> = BTreeMap::new();
    for job in jobs {
        queues.entry(job.queue.clone()).or_default().push(job);
    }
    let mut taken = Vec::new();
    for (queue, jobs) in queues {
        match timeout(PATIENCE, Queue::new(redis, &queue).push(&jobs)).await {
            Ok(Ok(refused)) => {
                taken.extend(jobs.iter().map(|job| job.id).filter(|id| !refused.contains(id)));
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, queue, jobs = jobs.len(), "cannot push: left to the relay")
            }
            Err(_) => tracing::debug!(queue, jobs = jobs.len(), "Redis does not answer: left to the relay"),
        }
    }
    taken
}

/// Takes off the relay's list what is still unclaimed.
async fn mark(db: &Db, ids: &[JobId]) {
    if ids.is_empty() {
        return;
    }
    let marked = async { ledger::mark_pushed(&mut *db.conn().await?, db.clock().now(), ids).await };
    if let Err(error) = marked.await {
        tracing::debug!(%error, jobs = ids.len(), "cannot mark what was pushed: the relay will push it again");
    }
}
