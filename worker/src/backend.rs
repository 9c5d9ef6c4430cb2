//! Where the worker's jobs come from and where their ends go: apalis's `Backend`, implemented on the ledger and the
//! queue (design §2.2). A channel, fed by plain tasks that loop on errors, so that none ever reaches apalis: it would
//! end the worker for good. With `runner.rs` the only file that names apalis.
//!
//! - The *fetcher* of each queue leases ids in Redis, claims them in the ledger and sends them down the channel.
//! - The *finisher* writes ends into the ledger in batches, then acks exactly those that it accepted.
//! - The *renewer* keeps claims and leases alive, and stops the jobs that were lost.
//!
//! Each task is a loop round a step ([`Source::fetch_once`], [`finish_batch`], [`renew_once`]), and [`Desk::drain`]
//! runs the same steps one after another.

#[cfg(feature = "testing")]
pub(crate) mod deaf;
mod fetch;
mod finish;
mod held;
mod renew;
#[cfg(feature = "testing")]
pub(crate) mod sabotage;

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use apalis::prelude::{Backend, Task, WorkerContext};
use apalis_core::backend::{BackendConfig, finalize::Ephemeral};
use common::{
    clock::Clock,
    health::{Health, Pulse},
    ledger, metrics,
    queue::{self, Queue},
};
use futures::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::layer::util::Identity;
use uuid::Uuid;

use finish::{Ended, finish_batch};
use held::{Begin, Held};
use renew::renew_once;

pub(crate) use fetch::Source;
pub(crate) use held::Job;

use crate::{context::Context, job::Outcome, runner::Parked};

/// How long a claim lives without a sign of its worker.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// An idle worker looks so often for what nobody told it: leases that ended, a wake-up that was lost.
const POLL: Duration = Duration::from_millis(500);
/// The finisher waits so long for more ends, and takes so many at most.
const BATCH: (Duration, usize) = (Duration::from_millis(2), 200);
/// No step takes longer: a server that neither answers nor hangs up must not look like a stuck loop.
const STEP: Duration = Duration::from_secs(12);

/// What the queues of this process share.
pub(crate) struct Worker {
    pub(crate) context: Context,
    /// Who claims, in the ledger: unique per process.
    pub(crate) name: String,
    held: Held,
    ended: mpsc::Sender<Ended>,
    /// One turn for all orphans of this process.
    suspects: Arc<Semaphore>,
    pub(crate) parked: Parked,
}

impl Worker {
    /// Notes that a job starts. False if it must not: it was lost or handed back, or its queue was paused meanwhile.
    pub(crate) async fn begin(&self, job: &Arc<Job>) -> bool {
        if job.source.is_paused() {
            self.end(job, Outcome::Released).await;
        }
        match self.held.begin(job) {
            Begin::Started => true,
            Begin::Ended => false,
            Begin::Stale => {
                self.lose(job);
                false
            }
        }
    }

    /// Says how to stop a job that has begun.
    pub(crate) fn can_abort(&self, job: &Job, handle: tokio::task::AbortHandle) {
        self.held.can_abort(job, handle);
    }

    /// Ends a job, unless somebody did so before.
    pub(crate) async fn end(&self, job: &Arc<Job>, outcome: Outcome) {
        if self.held.end(job) {
            // The channel is full when PostgreSQL is slow: then slots stay taken and nothing more is claimed.
            let _ = self.ended.send(Ended::new(job.clone(), outcome)).await;
            job.source.one_less();
        }
    }

    /// Lets go of a job that is another worker's by now, or soon will be.
    fn lose(&self, job: &Job) {
        if self.held.end(job) {
            tracing::warn!(job.id = %job.claim.id, job.kind = job.claim.kind, fence = job.claim.fence,
                "lost touch with a job: it is left to other workers");
            self.held.forget([job]);
            job.source.one_less();
        }
    }
}

/// All queues of a process, ready to be worked on.
pub(crate) struct Desk {
    pub(crate) worker: Arc<Worker>,
    pub(crate) sources: Vec<Arc<Source>>,
    ended: mpsc::Receiver<Ended>,
}

impl Desk {
    /// `queues`: names, and how many jobs of each may run at once.
    pub(crate) fn new(context: Context, queues: &[(String, usize)]) -> Self {
        let (ended, receiver) = mpsc::channel(5 * BATCH.1);
        let worker = Arc::new(Worker {
            name: format!("{}-{}-{:08x}", host(), std::process::id(), rand::random::<u32>()),
            held: Held::default(),
            ended,
            suspects: Arc::new(Semaphore::new(1)),
            parked: Parked::default(),
            context,
        });
        let source = |(name, concurrency): &(String, usize)| {
            let queue = Queue::new(&worker.context.redis, name);
            Arc::new(Source::new(worker.clone(), queue, (*concurrency).max(1)))
        };
        Self { sources: queues.iter().map(source).collect(), worker, ended: receiver }
    }

    /// Runs what Redis holds until nothing is left, one job after another, and answers how many it ran. For tests:
    /// the same steps as the loops, without a clock.
    ///
    /// # Errors
    /// If Redis or PostgreSQL fails.
    pub(crate) async fn drain<F: Future<Output = ()>>(
        mut self,
        run: impl Fn(Arc<Worker>, Arc<Job>) -> F,
    ) -> anyhow::Result<usize> {
        let mut count = 0;
        loop {
            read_pauses(&self.worker.context, &self.sources).await?;
            let mut idle = true;
            for source in &self.sources {
                let round = source.fetch_once().await?;
                idle &= !round.again && round.jobs.is_empty() && source.orphans().is_empty();
                for job in round.jobs {
                    run(self.worker.clone(), job).await;
                    count += 1;
                    while let Ok(ended) = self.ended.try_recv() {
                        finish_batch(&self.worker, &[ended]).await?;
                    }
                }
            }
            if idle {
                return Ok(count);
            }
        }
    }

    /// Starts the loops, each with a pulse. They end when told to by [`Loops::stop`].
    pub(crate) fn start(self, health: &Health) -> Loops {
        let fetching = CancellationToken::new();
        let finishing = CancellationToken::new();
        let (mut backends, mut fetchers) = (Vec::new(), Vec::new());
        for source in &self.sources {
            let (sender, receiver) = mpsc::channel(source.capacity() + 1);
            let pulse = health.pulse(source.pulse());
            fetchers.push(tokio::spawn(fetcher(source.clone(), sender, pulse, fetching.clone())));
            backends.push((source.clone(), Ledger(receiver)));
        }
        let finisher = tokio::spawn(finisher(
            self.worker.clone(),
            self.ended,
            health.pulse("finish"),
            finishing.clone(),
        ));
        let until = finishing.clone().drop_guard();
        let (worker, sources) = (self.worker.clone(), self.sources.clone());
        let (renewing, stuck) = (health.pulse("renew"), health.pulse("jobs"));
        let others = vec![
            tokio::spawn(renewer(worker, sources.clone(), renewing, stuck)),
            tokio::spawn(listener(self.worker.context.clone(), sources.clone())),
            tokio::spawn(pauses(self.worker.context.clone(), sources)),
        ];
        Loops {
            worker: self.worker,
            sources: self.sources,
            backends,
            fetching,
            fetchers,
            finisher,
            others,
            finishing: until,
        }
    }
}

/// The running loops of a process.
pub(crate) struct Loops {
    pub(crate) worker: Arc<Worker>,
    sources: Vec<Arc<Source>>,
    /// What apalis works on.
    pub(crate) backends: Vec<(Arc<Source>, Ledger)>,
    fetching: CancellationToken,
    fetchers: Vec<tokio::task::JoinHandle<()>>,
    finisher: tokio::task::JoinHandle<()>,
    others: Vec<tokio::task::JoinHandle<()>>,
    finishing: tokio_util::sync::DropGuard,
}

impl Loops {
    /// Stops: fetches no more, hands back at once what has not started, gives the rest `grace`, and hands back what
    /// still runs then. No attempt is charged for what is handed back.
    pub(crate) async fn stop(self, grace: Duration, health: &Health) {
        let deadline = Instant::now() + grace;
        self.fetching.cancel();
        for source in &self.sources {
            health.forget(&source.pulse());
        }
        for fetcher in self.fetchers {
            let _ = timeout(Duration::from_secs(2), fetcher).await;
        }
        for job in self.worker.held.not_started() {
            self.worker.end(&job, Outcome::Released).await;
        }
        for source in &self.sources {
            source.give_orphans_back().await;
        }
        while !self.worker.held.not_ended().is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        for job in self.worker.held.not_ended() {
            tracing::warn!(job.id = %job.claim.id, job.kind = job.claim.kind, "the job outlasts the shutdown: handing it back");
            self.worker.end(&job, Outcome::Released).await;
        }
        drop(self.finishing);
        let _ = timeout(Duration::from_secs(3), self.finisher).await;
        for task in self.others {
            task.abort();
        }
    }
}

/// apalis's view of a queue: jobs come out of a channel, and nothing can go wrong.
pub(crate) struct Ledger(mpsc::Receiver<Arc<Job>>);

impl Backend for Ledger {
    type Task = Task<Arc<Job>>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut TaskContext<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.0.poll_recv(cx).map(|job| job.map(|job| Ok(Task::new(job))))
    }

    /// Everything that has to be given back is known to [`Loops::stop`].
    fn poll_close(&mut self, _: &mut TaskContext<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Ledger {
    type Args = Arc<Job>;
    type Id = Uuid;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

async fn fetcher(source: Arc<Source>, jobs: mpsc::Sender<Arc<Job>>, pulse: Pulse, stop: CancellationToken) {
    let mut pause = Pause::default();
    while !stop.is_cancelled() {
        #[cfg(feature = "testing")]
        deaf::hang_if_deaf().await;
        let round = step(source.fetch_once()).await;
        pulse.beat();
        match round {
            Ok(round) => {
                pause.reset();
                let now = Clock::default().instant().timestamp_millis();
                metrics::worker_fetched(source.queue.name(), now as f64 / 1000.0);
                for job in round.jobs {
                    // Has room for all that may be in hand; closed only when apalis has gone.
                    if stop.is_cancelled() || jobs.try_send(job.clone()).is_err() {
                        source.worker.end(&job, Outcome::Released).await;
                    }
                }
                if round.again {
                    continue;
                }
            }
            Err(error) => {
                tracing::warn!(%error, queue = source.queue.name(), "cannot fetch jobs");
                tokio::select! {
                    () = pause.wait() => continue,
                    () = stop.cancelled() => return,
                }
            }
        }
        let orphans = !source.orphans().is_empty() && !source.is_paused();
        tokio::select! {
            () = source.wake.notified() => {}
            () = sleep(POLL) => {}
            _ = source.worker.suspects.acquire(), if orphans => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn finisher(
    worker: Arc<Worker>,
    mut ended: mpsc::Receiver<Ended>,
    pulse: Pulse,
    stop: CancellationToken,
) {
    let (patience, most) = BATCH;
    let mut batch = Vec::with_capacity(most);
    loop {
        tokio::select! {
            biased;
            count = ended.recv_many(&mut batch, most) => if count == 0 { return },
            () = stop.cancelled(), if !ended.is_closed() => {
                ended.close();
                continue;
            }
            () = sleep(Duration::from_secs(1)) => {
                pulse.beat();
                continue;
            }
        }
        if batch.len() < most && !stop.is_cancelled() {
            let until = Instant::now() + patience;
            while batch.len() < most {
                let room = most - batch.len();
                match timeout_at(until, ended.recv_many(&mut batch, room)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
        let mut pause = Pause::default();
        while let Err(error) = step(finish_batch(&worker, &batch)).await {
            tracing::warn!(%error, jobs = batch.len(), "cannot finish jobs");
            pulse.beat();
            pause.wait().await;
        }
        pulse.beat();
        batch.clear();
    }
}

async fn renewer(worker: Arc<Worker>, sources: Vec<Arc<Source>>, pulse: Pulse, stuck: Pulse) {
    let mut pause = Pause::default();
    loop {
        let renewed = step(renew_once(&worker, &sources)).await;
        pulse.beat();
        if !worker.held.any_overrun() {
            stuck.beat();
        }
        match renewed {
            Ok(()) => {
                pause.reset();
                sleep(LEASE / 3).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew claims");
                pause.wait().await;
            }
        }
    }
}

/// Wakes the fetchers when something is pushed. Polling covers what it misses.
async fn listener(context: Context, sources: Vec<Arc<Source>>) {
    let queues: Vec<Queue> = sources.iter().map(|source| source.queue.clone()).collect();
    let mut pause = Pause::default();
    loop {
        match queue::wakes(&context.redis, &queues).await {
            Ok(wakes) => {
                pause.reset();
                let mut wakes = std::pin::pin!(wakes);
                while let Some(index) = wakes.next().await {
                    if let Some(source) = sources.get(index) {
                        source.wake.notify_one();
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot listen to Redis: polling"),
        }
        pause.wait().await;
    }
}

/// Keeps up with which queues are paused.
async fn pauses(context: Context, sources: Vec<Arc<Source>>) {
    loop {
        if let Err(error) = step(read_pauses(&context, &sources)).await {
            tracing::debug!(%error, "cannot read which queues are paused");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn read_pauses(context: &Context, sources: &[Arc<Source>]) -> anyhow::Result<()> {
    let paused = ledger::paused(&mut *context.db.conn().await?).await?;
    for source in sources {
        source.set_paused(paused.iter().any(|name| name == source.queue.name()));
    }
    Ok(())
}

async fn step<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(STEP, step)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", STEP.as_secs())))
}

/// The pause after an error: 100 ms, doubled up to a second.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Pause {
    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(1));
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The machine's name, for people who look for a worker.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned())
}
