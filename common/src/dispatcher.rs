//! From commit to Redis without waiting: [`Tx::commit`](crate::db::Tx::commit) leaves the jobs that are due in a
//! bounded outbox, and one task per process pushes them in batches. What does not fit, or cannot be pushed, is left
//! to the relay: the ledger has it.

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use crate::{ids::JobId, metrics};

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

/// Where committed jobs are left for the dispatcher. The default has none: everything is left to the relay.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Option<mpsc::Sender<DueJob>>);

impl Outbox {
    /// An outbox, and what the dispatcher reads from it.
    pub fn new() -> (Self, mpsc::Receiver<DueJob>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self(Some(sender)), receiver)
    }

    /// Leaves jobs; never waits. The relay takes what does not fit.
    pub(crate) fn send(&self, jobs: Vec<DueJob>) {
        let Some(sender) = &self.0 else { return };
        let count = jobs.len();
        let sent = jobs.into_iter().take_while(|job| sender.try_send(job.clone()).is_ok()).count();
        if sent < count {
            metrics::dispatcher_overflowed(count - sent);
        }
    }
}
