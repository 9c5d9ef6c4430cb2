use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::{
    ids::JobId,
    ledger::{self, Claim, Standing},
    queue::{Leased, MAX_IDS, Queue},
};
use tokio::sync::Notify;

use super::{Job, LEASE, Worker};

/// How long a job is put aside that somebody has locked just now.
const LOCKED: Duration = Duration::from_millis(200);
/// Added to a claim's rest, so that its lease does not end before it.
const MARGIN: Duration = Duration::from_millis(50);
/// How long an orphan is put aside when this process has enough of them in line, more or less: processes that look at
/// the same moments would else find it in the same order each time.
const ORPHANED: Duration = Duration::from_secs(1);
/// Orphans that wait in this process for their turn; the others are for other workers.
const MAX_ORPHANS: usize = 10;

/// A queue, as this process takes jobs from it.
pub(crate) struct Source {
    pub(super) worker: Arc<Worker>,
    pub(super) queue: Queue,
    concurrency: usize,
    /// Jobs claimed ahead, so that a slot that becomes free is filled at once.
    buffer: usize,
    /// Jobs claimed and not yet ended.
    in_hand: AtomicUsize,
    paused: AtomicBool,
    /// Whether the last fetch got all that it asked for: there may be more.
    backlog: AtomicBool,
    /// Something was pushed, or there is room again.
    pub(super) wake: Notify,
    /// Jobs whose worker died. They run one at a time in this process, so that one which kills workers takes no
    /// other along.
    orphans: Mutex<VecDeque<Leased>>,
}

/// What a round of fetching brought.
pub(super) struct Round {
    pub(super) jobs: Vec<Arc<Job>>,
    /// Whether another round should follow at once.
    pub(super) again: bool,
}

impl Source {
    pub(super) fn new(worker: Arc<Worker>, queue: Queue, concurrency: usize) -> Self {
        Self {
            worker,
            queue,
            concurrency,
            buffer: concurrency.div_ceil(2),
            in_hand: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            backlog: AtomicBool::new(true),
            wake: Notify::new(),
            orphans: Mutex::default(),
        }
    }

    /// The name of its fetcher's pulse.
    pub(super) fn pulse(&self) -> String {
        format!("fetch:{}", self.queue.name())
    }

    /// How many jobs run at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// How many jobs it may hold at most.
    pub(super) fn capacity(&self) -> usize {
        self.concurrency + self.buffer
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        if self.paused.swap(paused, Relaxed) != paused {
            tracing::info!(queue = self.queue.name(), paused, "queue paused or resumed");
            self.wake.notify_one();
        }
    }

    /// Where jobs wait for their turn that may have killed their worker.
    pub(super) fn orphans(&self) -> MutexGuard<'_, VecDeque<Leased>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many orphans may wait here. A process with a handler that holds its thread takes none: the orphan may be that
    /// very job, and would hold the next thread.
    fn longest_line(&self) -> usize {
        if self.worker.held.any_overrun() { 0 } else { MAX_ORPHANS }
    }

    /// Lets other workers have the orphans that wait here.
    pub(super) async fn give_orphans_back(&self) {
        let orphans: Vec<Leased> = self.orphans().drain(..).collect();
        if let Err(error) = self.queue.release(&orphans).await {
            tracing::warn!(%error, queue = self.queue.name(), "cannot give back what waits in line");
        }
    }

    /// A job has left this process's hands.
    pub(super) fn one_less(&self) {
        let left = self.in_hand.fetch_sub(1, Relaxed) - 1;
        if self.backlog.load(Relaxed) && self.capacity() - left.min(self.capacity()) >= self.enough() {
            self.wake.notify_one();
        }
    }

    /// For less room than this no fetch is made while there is plenty to do.
    fn enough(&self) -> usize {
        self.buffer.div_ceil(2).min(MAX_IDS)
    }

    /// One round: lease ids in Redis, claim them in the ledger, explain what could not be claimed.
    ///
    /// # Errors
    /// If Redis or PostgreSQL fails. Nothing is lost: what was leased or claimed comes back.
    pub(super) async fn fetch_once(self: &Arc<Self>) -> anyhow::Result<Round> {
        if self.is_paused() {
            return Ok(Round { jobs: Vec::new(), again: false });
        }
        if let Some(job) = self.claim_orphan().await? {
            return Ok(Round { jobs: vec![job], again: true });
        }
        let room = self.capacity().saturating_sub(self.in_hand.load(Relaxed)).min(MAX_IDS);
        if room < self.enough() {
            return Ok(Round { jobs: Vec::new(), again: false });
        }
        let since = Instant::now();
        #[cfg(not(feature = "testing"))]
        let lease = LEASE;
        #[cfg(feature = "testing")]
        let lease = super::sabotage::lease();
        let leased = self.queue.fetch(room, lease).await?;
        let again = leased.len() == room;
        self.backlog.store(again, Relaxed);
        if leased.is_empty() {
            return Ok(Round { jobs: Vec::new(), again });
        }
        let claims = match self.claim(&leased).await {
            Ok(claims) => claims,
            Err(error) => {
                // Better now than when the leases are over.
                let _ = self.queue.release(&leased).await;
                return Err(error);
            }
        };
        let scores: HashMap<JobId, f64> = leased.iter().map(|leased| (leased.id, leased.score)).collect();
        let jobs: Vec<Arc<Job>> = claims
            .into_iter()
            .map(|claim| {
                let score = scores.get(&claim.id).copied().unwrap_or_default();
                Arc::new(Job::new(claim, score, self.clone()))
            })
            .collect();
        self.worker.held.add(&jobs, since, None);
        self.in_hand.fetch_add(jobs.len(), Relaxed);
        Ok(Round { jobs, again })
    }

    /// Claims what may run. An id without a claim is asked about once more: dropping all of them would lose those
    /// that were only locked, until the next reconcile.
    async fn claim(&self, leased: &[Leased]) -> anyhow::Result<Vec<Claim>> {
        let Worker { context, name, .. } = &*self.worker;
        let clock = context.db.clock();
        let mut conn = context.db.conn().await?;
        let ids: Vec<JobId> = leased.iter().map(|leased| leased.id).collect();
        #[cfg(feature = "testing")]
        super::sabotage::take_from_holders(&mut conn, &ids).await?;
        let mut claims = ledger::claim(&mut conn, clock, &ids, name, LEASE).await?;
        if claims.len() == ids.len() {
            return Ok(claims);
        }

        let missing = without(&ids, &claims);
        let mut locked = Vec::new();
        let (mut settled, mut aside, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (id, standing) in ledger::standing(&mut conn, clock, &missing).await? {
            match standing {
                Standing::Settled => settled.push(id),
                Standing::Locked => locked.push(id),
                Standing::Orphan => {
                    let mut orphans = self.orphans();
                    if orphans.len() < self.longest_line() {
                        orphans.extend(leased.iter().find(|leased| leased.id == id));
                    } else {
                        aside.push(id);
                    }
                }
                // Its holder renews both; if it does not, the job is due the moment its claim ends.
                Standing::Held(rest) => held.push((id, rest.min(LEASE) + MARGIN)),
            }
        }
        if !locked.is_empty() {
            let second = ledger::claim(&mut conn, clock, &locked, name, LEASE).await?;
            locked = without(&locked, &second);
            claims.extend(second);
        }
        drop(conn);
        // From here on there are claims to run: what Redis refuses now comes back with its lease.
        let tidy = async {
            self.queue.ack(&settled).await?;
            self.queue.renew(&locked, LOCKED).await?;
            for (id, rest) in &held {
                self.queue.renew(&[*id], *rest).await?;
            }
            self.queue.renew(&aside, ORPHANED.mul_f64(rand::random_range(0.5..1.5))).await
        };
        if let Err(error) = tidy.await {
            tracing::warn!(%error, queue = self.queue.name(), "cannot tell Redis which jobs could not be claimed");
        }
        Ok(claims)
    }

    /// Claims the next orphan in line, if none runs in this process.
    async fn claim_orphan(self: &Arc<Self>) -> anyhow::Result<Option<Arc<Job>>> {
        if self.longest_line() == 0 {
            self.give_orphans_back().await;
            return Ok(None);
        }
        let Ok(turn) = self.worker.suspects.clone().try_acquire_owned() else {
            return Ok(None);
        };
        let Some(leased) = self.orphans().front().copied() else {
            return Ok(None);
        };
        let Worker { context, name, .. } = &*self.worker;
        let mut conn = context.db.conn().await?;
        let since = Instant::now();
        let claim = ledger::claim_orphan(&mut conn, context.db.clock(), leased.id, name, LEASE).await?;
        drop(conn);
        self.orphans().pop_front();
        let Some(claim) = claim else {
            // Dead now, or another worker's, or locked: the next fetch finds out.
            self.queue.renew(&[leased.id], ORPHANED).await?;
            return Ok(None);
        };
        tracing::warn!(job.id = %claim.id, job.kind = claim.kind, attempt = claim.attempt,
            "trying a job again whose worker died");
        let job = Arc::new(Job::new(claim, leased.score, self.clone()));
        self.worker.held.add(std::slice::from_ref(&job), since, Some(turn));
        self.in_hand.fetch_add(1, Relaxed);
        Ok(Some(job))
    }
}

fn without(ids: &[JobId], claims: &[Claim]) -> Vec<JobId> {
    ids.iter().filter(|id| claims.iter().all(|claim| claim.id != **id)).copied().collect()
}
