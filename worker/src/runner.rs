//! How a job is run, and how a process runs jobs: one apalis worker per queue. What surrounds every run belongs here
//! (its span, its metrics, its time limit, its panics), nothing that only one kind needs.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apalis::prelude::{Task, WorkerBuilder, WorkerError};
use common::{health::Health, ids::JobId, metrics, telemetry::Origin};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tracing::Instrument as _;

use crate::{
    backend::{Desk, Job, Ledger, Worker},
    context::Context,
    job::Outcome,
    jobs,
};

/// How long a job is parked whose kind belongs to a newer build.
const PARKED: chrono::Duration = chrono::Duration::minutes(1);
/// How often the log says that jobs of a kind are parked.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What a worker process works on.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of queues, and how many jobs of each may run at once.
    pub queues: Vec<(String, usize)>,
    /// How long running jobs may go on after the process is told to stop.
    pub grace: Duration,
}

/// Works until `stop`, then stops within the grace and a few seconds.
///
/// # Errors
/// If a queue is worked on no more although nobody stopped it. The process should end: it would look alive.
pub async fn run(
    context: Context,
    options: Options,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut loops = Desk::new(context, &options.queues).start(&health);
    let worker = loops.worker.clone();
    let mut workers = JoinSet::new();
    for (source, backend) in std::mem::take(&mut loops.backends) {
        let (worker, stop) = (worker.clone(), stop.clone());
        workers.spawn(work(worker, source.concurrency(), backend, stop));
    }
    tracing::info!(worker.name = worker.name, queues = ?options.queues, "working");

    let result = tokio::select! {
        // An idle apalis worker ends with `stop` itself: that is asked first.
        biased;
        () = stop.cancelled() => Ok(()),
        Some(ended) = workers.join_next() => Err(anyhow::anyhow!("a queue is worked on no more: {ended:?}")),
    };
    health.stopping();
    loops.stop(options.grace, &health).await;
    // A handler that holds its thread does not end; nobody waits for it.
    workers.abort_all();
    result
}

/// Runs what Redis holds for these queues until nothing is left, one job after another, and answers how many it ran.
/// For tests: the same steps as [`run`], without waiting for anything.
///
/// # Errors
/// If Redis or PostgreSQL fails.
pub async fn drain(context: &Context, queues: &[&str]) -> anyhow::Result<usize> {
    let queues: Vec<_> = queues.iter().map(|name| ((*name).to_owned(), 50)).collect();
    Desk::new(context.clone(), &queues).drain(run_one).await
}

/// The apalis worker of one queue.
async fn work(worker: Arc<Worker>, concurrency: usize, backend: Ledger, stop: CancellationToken) {
    let name = format!("{}:{concurrency}", worker.name);
    let service =
        ServiceBuilder::new().concurrency_limit(concurrency).service_fn(move |task: Task<Arc<Job>>| {
            let worker = worker.clone();
            async move {
                run_one(worker, task.args).await;
                Ok::<(), Infallible>(())
            }
        });
    let stopped = async move {
        stop.cancelled().await;
        Ok::<(), WorkerError>(())
    };
    if let Err(error) = WorkerBuilder::new(name).backend(backend).build(service).run_until(stopped).await {
        tracing::error!(%error, "apalis has ended a worker");
    }
}

/// Runs a job and sees to its end. The handler has a task of its own: one that holds its thread does not stop the
/// queue, a panic ends only itself, and a job that was lost can be stopped.
pub(crate) async fn run_one(worker: Arc<Worker>, job: Arc<Job>) {
    if !worker.begin(&job).await {
        return;
    }
    let claim = &job.claim;
    let started = Instant::now();
    metrics::job_started(&claim.queue, Duration::try_from_secs_f64(claim.waited).unwrap_or_default());
    let span = tracing::info_span!("job", job.id = %claim.id, job.kind = claim.kind, job.attempt = claim.attempt,
        request_id = claim.request_id, traceparent = claim.traceparent);
    let origin = Origin { request_id: claim.request_id.clone(), traceparent: claim.traceparent.clone() };
    let running = Running { id: claim.id, attempt: claim.attempt };
    let attempt = running.scope(origin.scope(attempt(worker.context.clone(), job.clone())));
    let task = tokio::spawn(attempt.instrument(span.clone()));
    #[cfg(feature = "testing")]
    if crate::backend::sabotage::finish_early(&worker, &job).await {
        let _ = task.await;
        return;
    }
    worker.can_abort(&job, task.abort_handle());
    let outcome = match task.await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => Outcome::Retry(format!("panic: {}", text_of(&*error.into_panic()))),
        // Stopped, by somebody who knows how it ends.
        Err(_) => return,
    };
    let name = outcome.name(claim);
    metrics::job_finished(&claim.queue, &claim.kind, name, started.elapsed());
    match &outcome {
        Outcome::Done | Outcome::Snooze(_) | Outcome::Released => {
            tracing::debug!(parent: &span, outcome = name, "job ended")
        }
        Outcome::Cancel(reason) => tracing::info!(parent: &span, reason, "job is not wanted any more"),
        Outcome::Retry(error) => tracing::warn!(parent: &span, error = head(error), "job failed"),
        Outcome::Dead(reason) => tracing::error!(parent: &span, reason = head(reason), "job is dead"),
        Outcome::Parked(_) => {
            if let Some(jobs) = worker.parked.note(&claim.kind, started) {
                tracing::error!(job.kind = claim.kind, job.id = %claim.id, jobs,
                    "jobs parked: this build does not know their kind, which belongs to a newer one");
            }
        }
    }
    worker.end(&job, outcome).await;
}

/// The handler within its time.
async fn attempt(context: Context, job: Arc<Job>) -> Outcome {
    match &job.work {
        None => Outcome::Parked(context.db.clock().instant() + PARKED),
        Some(Err(error)) => Outcome::Dead(format!("cannot read its arguments: {error}")),
        Some(Ok(work)) => {
            match tokio::time::timeout(job.timeout(), jobs::run(work.clone(), &context)).await {
                Ok(result) => result.into(),
                Err(_) => Outcome::Retry(format!("not done within {} s", job.timeout().as_secs_f64())),
            }
        }
    }
}

/// Which kinds were parked, so that a thousand jobs of a newer build are a line a minute and not a thousand.
#[derive(Default)]
pub(crate) struct Parked(Mutex<HashMap<String, (Option<Instant>, usize)>>);

impl Parked {
    /// Notes that a job of a kind was parked. Answers how many were since it last answered, once a minute.
    fn note(&self, kind: &str, now: Instant) -> Option<usize> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, jobs) = kinds.entry(kind.to_owned()).or_default();
        *jobs += 1;
        if told.is_some_and(|told| now.duration_since(told) < TOLD_EVERY) {
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(jobs))
    }
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// The beginning of a text, for a log line; the ledger has more of it.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(300)]
}

/// The job that runs here, for a handler that has to know.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// The job.
    pub id: JobId,
    /// Which try it is, from 1.
    pub attempt: i16,
}

tokio::task_local! {
    static RUNNING: Running;
}

impl Running {
    /// The job that runs here, if one does.
    #[must_use]
    pub fn current() -> Option<Self> {
        RUNNING.try_with(|running| *running).ok()
    }

    /// Does `work` as this job.
    pub(crate) async fn scope<F: Future>(self, work: F) -> F::Output {
        RUNNING.scope(self, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_jobs_are_told_once_a_minute_and_kind() {
        let (parked, start) = (Parked::default(), Instant::now());
        let note = |kind, seconds| parked.note(kind, start + Duration::from_secs(seconds));
        assert_eq!(note("teleport", 0), Some(1));
        for second in 1..60 {
            assert_eq!(note("teleport", second), None);
        }
        assert_eq!(note("levitate", 59), Some(1), "another kind");
        assert_eq!(note("teleport", 60), Some(60), "with those that went untold");
        assert_eq!(note("teleport", 61), None);
    }
}
