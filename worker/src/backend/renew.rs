use std::{collections::HashSet, sync::Arc, time::Instant};

use common::{
    ids::JobId,
    ledger::{self, ClaimKey},
};
use futures::future::join_all;

use super::{Job, LEASE, Source, Worker};

/// Says once, in the ledger and in Redis, that this process is alive and holds its jobs; stops those that it lost.
///
/// # Errors
/// If PostgreSQL or Redis fails.
pub(super) async fn renew_once(worker: &Worker, sources: &[Arc<Source>]) -> anyhow::Result<()> {
    let jobs = worker.held.alive();
    let leases = join_all(sources.iter().map(|source| async {
        let held = jobs.iter().filter(|job| Arc::ptr_eq(&job.source, source)).map(|job| job.claim.id);
        let ids: Vec<JobId> = held.chain(source.orphans().iter().map(|leased| leased.id)).collect();
        source.queue.renew(&ids, LEASE).await
    }));
    let (alive, leases) = tokio::join!(renew_in_ledger(worker, &jobs), leases);
    alive?;
    Ok(leases.into_iter().collect::<Result<(), _>>()?)
}

async fn renew_in_ledger(worker: &Worker, jobs: &[Arc<Job>]) -> anyhow::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut claims: Vec<ClaimKey> = jobs.iter().map(|job| job.key()).collect();
    claims.sort_unstable();
    let mut conn = worker.context.db.conn().await?;
    let since = Instant::now();
    let renewed = ledger::renew(&mut conn, &claims, LEASE).await?;
    worker.held.renewed(&renewed, since);
    let renewed: HashSet<ClaimKey> = renewed.into_iter().collect();
    claims.retain(|claim| !renewed.contains(claim));
    if claims.is_empty() {
        return Ok(());
    }
    // Locked, because they are just being finished, or lost.
    let lost = ledger::lost(&mut conn, &claims).await?;
    for job in jobs.iter().filter(|job| lost.contains(&job.key())) {
        worker.lose(job);
    }
    Ok(())
}
