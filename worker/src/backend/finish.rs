use std::{collections::HashSet, sync::Arc};

use common::{
    ids::JobId,
    ledger::{self, Finish},
    queue::Leased,
};

use super::{Job, Source, Worker};
use crate::job::Outcome;

/// A job whose attempt is over.
pub(super) struct Ended {
    job: Arc<Job>,
    finish: Finish,
    released: bool,
}

impl Ended {
    pub(super) fn new(job: Arc<Job>, outcome: Outcome) -> Self {
        let released = outcome == Outcome::Released;
        let finish = outcome.finish(&job.claim, job.policy().as_ref(), rand::random());
        Self { job, finish, released }
    }
}

/// Writes how attempts ended into the ledger, then tells Redis of exactly those that the ledger accepted: a late
/// finish must not take away another worker's lease.
///
/// # Errors
/// If PostgreSQL fails; the same batch may be given again.
pub(super) async fn finish_batch(worker: &Worker, batch: &[Ended]) -> anyhow::Result<()> {
    let db = &worker.context.db;
    let finishes: Vec<Finish> = batch.iter().map(|ended| ended.finish.clone()).collect();
    let mut conn = db.conn().await?;
    #[cfg(feature = "testing")]
    let finishes = super::sabotage::with_present_fences(&mut conn, finishes).await?;
    let accepted: HashSet<JobId> =
        ledger::finish(&mut conn, db.clock(), finishes).await?.into_iter().collect();
    drop(conn);
    worker.held.forget(batch.iter().map(|ended| &*ended.job));

    let mut done: Vec<(&Source, Vec<JobId>, Vec<Leased>)> = Vec::new();
    for Ended { job, released, .. } in batch {
        let id = job.claim.id;
        if !accepted.contains(&id) {
            tracing::warn!(job.id = %id, job.kind = job.claim.kind, fence = job.claim.fence,
                "a result came too late: the job is finished or another worker's");
            continue;
        }
        let source = &*job.source;
        let index = done.iter().position(|(other, ..)| std::ptr::eq(*other, source)).unwrap_or_else(|| {
            done.push((source, Vec::new(), Vec::new()));
            done.len() - 1
        });
        let (_, acks, releases) = &mut done[index];
        if *released { releases.push(job.leased()) } else { acks.push(id) }
    }
    for (source, acks, releases) in done {
        let told = async {
            source.queue.ack(&acks).await?;
            source.queue.release(&releases).await
        };
        if let Err(error) = told.await {
            // The leases will end, and whoever fetches the ids then learns from the ledger that they are settled.
            tracing::warn!(%error, queue = source.queue.name(), "cannot tell Redis which jobs are finished");
        }
    }
    Ok(())
}
