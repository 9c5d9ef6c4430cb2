use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{
    jobs::{AnyJob, Policy},
    ledger::{Claim, ClaimKey},
    queue::Leased,
};
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle};

use super::{LEASE, Source};

/// How long an attempt of a kind that this build does not know may take: it is only parked.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

/// A job in this process's hands, from its claim until its end is in the ledger.
pub(crate) struct Job {
    /// The row, as it was claimed.
    pub(crate) claim: Claim,
    /// What is to be done: `None` if this build does not know the kind, an error if it cannot read the arguments.
    pub(crate) work: Option<Result<AnyJob, String>>,
    /// Where it came from.
    pub(crate) source: Arc<Source>,
    score: f64,
}

impl Job {
    pub(super) fn new(mut claim: Claim, score: f64, source: Arc<Source>) -> Self {
        let work = AnyJob::decode(&claim.kind, std::mem::take(&mut claim.args));
        Self { claim, work: work.map(|work| work.map_err(|error| error.to_string())), source, score }
    }

    /// By which policy it runs, if its kind is known.
    pub(crate) fn policy(&self) -> Option<Policy> {
        self.work.as_ref()?.as_ref().ok().map(AnyJob::policy)
    }

    /// After how long its attempt is stopped.
    pub(crate) fn timeout(&self) -> Duration {
        self.policy().map_or(UNKNOWN_KIND, |policy| policy.timeout)
    }

    pub(super) fn key(&self) -> ClaimKey {
        (self.claim.id, self.claim.fence)
    }

    pub(super) fn leased(&self) -> Leased {
        Leased { id: self.claim.id, score: self.score }
    }
}

/// The claims that this process holds. Whoever wants to end one asks here first: only the first may. Two claims of
/// one job may be here at the same time, if the first was lost.
#[derive(Default)]
pub(crate) struct Held(Mutex<HashMap<ClaimKey, Entry>>);

struct Entry {
    job: Arc<Job>,
    /// Until then it is surely ours.
    alive_until: Instant,
    started: Option<Instant>,
    abort: Option<AbortHandle>,
    ended: bool,
    /// Free again when the entry goes, not before the end is written: the next orphan may take the process along.
    _suspect: Option<OwnedSemaphorePermit>,
}

/// What became of a job that was to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// It is ours and starts.
    Started,
    /// Somebody ended it before.
    Ended,
    /// Nobody knows whether it is ours: the process was stopped for a while, or could not renew it.
    Stale,
}

impl Held {
    /// Nothing between lock and unlock can leave the map half changed.
    fn entries(&self) -> MutexGuard<'_, HashMap<ClaimKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes claims that were asked for at `since`. `suspect` is the turn of an orphan.
    pub(super) fn add(&self, jobs: &[Arc<Job>], since: Instant, mut suspect: Option<OwnedSemaphorePermit>) {
        let mut entries = self.entries();
        for job in jobs {
            let entry = Entry {
                job: job.clone(),
                alive_until: since + LEASE,
                started: None,
                abort: None,
                ended: false,
                _suspect: suspect.take(),
            };
            entries.insert(job.key(), entry);
        }
    }

    /// Notes that these were renewed at `since`.
    pub(super) fn renewed(&self, claims: &[ClaimKey], since: Instant) {
        let mut entries = self.entries();
        for claim in claims {
            if let Some(entry) = entries.get_mut(claim) {
                entry.alive_until = since + LEASE;
            }
        }
    }

    /// Notes that it starts, unless it has been taken away meanwhile.
    pub(super) fn begin(&self, job: &Job) -> Begin {
        match self.entries().get_mut(&job.key()) {
            Some(entry) if entry.ended => Begin::Ended,
            Some(entry) if entry.alive_until < Instant::now() => Begin::Stale,
            Some(entry) => {
                entry.started = Some(Instant::now());
                Begin::Started
            }
            None => Begin::Ended,
        }
    }

    /// Says how to stop it.
    pub(super) fn can_abort(&self, job: &Job, handle: AbortHandle) {
        match self.entries().get_mut(&job.key()) {
            Some(entry) if !entry.ended => entry.abort = Some(handle),
            _ => handle.abort(),
        }
    }

    /// Ends it: true for the one caller who may say how. It stays here, and is renewed, until [`Held::forget`].
    pub(super) fn end(&self, job: &Job) -> bool {
        match self.entries().get_mut(&job.key()) {
            Some(entry) if !entry.ended => {
                entry.ended = true;
                if let Some(handle) = entry.abort.take() {
                    handle.abort();
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn forget<'a>(&self, jobs: impl IntoIterator<Item = &'a Job>) {
        let mut entries = self.entries();
        for job in jobs {
            entries.remove(&job.key());
        }
    }

    /// What to renew: all but those that should have ended a lease ago. Their handlers do not yield; another worker
    /// may have them.
    pub(super) fn alive(&self) -> Vec<Arc<Job>> {
        self.entries().values().filter(|entry| !entry.overrun()).map(|entry| entry.job.clone()).collect()
    }

    /// Whether a handler runs on long after its time: it blocks a thread, and only the end of the process frees it.
    pub(super) fn any_overrun(&self) -> bool {
        self.entries().values().any(Entry::overrun)
    }

    /// The claims that have not started.
    pub(super) fn not_started(&self) -> Vec<Arc<Job>> {
        self.unended(|entry| entry.started.is_none())
    }

    /// The claims that have not ended.
    pub(super) fn not_ended(&self) -> Vec<Arc<Job>> {
        self.unended(|_| true)
    }

    fn unended(&self, also: impl Fn(&Entry) -> bool) -> Vec<Arc<Job>> {
        let entries = self.entries();
        entries.values().filter(|entry| !entry.ended && also(entry)).map(|entry| entry.job.clone()).collect()
    }
}

impl Entry {
    fn overrun(&self) -> bool {
        !self.ended && self.started.is_some_and(|started| started.elapsed() > self.job.timeout() + LEASE)
    }
}
