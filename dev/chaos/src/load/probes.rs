use std::{sync::Arc, time::Duration};

use common::{
    db::Db,
    jobs::{Act, Job as _, Probe},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::Effects,
    journal::{Journal, What},
};

/// Which probes are enqueued.
#[derive(Debug, Clone)]
pub struct Probes {
    /// So many in one transaction.
    pub batch: usize,
    /// One transaction after each such pause.
    pub every: Duration,
    /// Their work takes so many milliseconds.
    pub takes: std::ops::Range<u64>,
}

/// Enqueues probes until `stop`. A transaction whose commit is not answered may or may not have happened.
pub async fn enqueue(
    journal: Arc<Journal>,
    db: Db,
    effects: Effects,
    probes: Probes,
    seed: u64,
    stop: CancellationToken,
) {
    let mut chance = StdRng::seed_from_u64(seed);
    while !stop.is_cancelled() {
        let takes: Vec<u64> = (0..probes.batch).map(|_| chance.random_range(probes.takes.clone())).collect();
        if let Err(error) = commit(&journal, &db, &effects, &takes).await {
            tracing::debug!(%error, "probes may not have been enqueued");
        }
        stop.run_until_cancelled(sleep(probes.every)).await;
    }
}

async fn commit(journal: &Journal, db: &Db, effects: &Effects, takes: &[u64]) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let mut jobs = Vec::new();
    for (number, millis) in takes.iter().enumerate() {
        let log = Some(effects.path().to_owned());
        let probe = Probe { lane: format!("lane-{}", number % 10), log, act: Act::Work(*millis) };
        jobs.push(probe.enqueue(&mut tx).await?);
    }
    for job in &jobs {
        journal.note(What::Enqueues { job: *job });
    }
    tx.commit().await?;
    for job in jobs {
        journal.note(What::Enqueued { job });
    }
    Ok(())
}
