//! Daily summaries whose time has come become jobs (semantics §7), as reminders do in `due.rs`.

use std::time::{Duration, Instant};

use common::{
    db::Db,
    error::Result,
    metrics,
    summaries::{self, DigestState, Taken},
};

use crate::rounds::Round;

/// The longest sleep: the settings may have moved one nearer meanwhile.
const POLL: Duration = Duration::from_secs(1);
/// Between rounds that find due what they cannot have: another scheduler holds it just now.
const SHORT: Duration = Duration::from_millis(50);
/// How often runs are looked for whose job has ended without them, and people who have no preferences.
const MEND_EVERY: Duration = Duration::from_secs(60);

/// The loop of daily summaries.
pub struct Summaries {
    db: Db,
    mended: Option<Instant>,
}

impl Summaries {
    /// A loop that has not looked yet.
    pub fn new(db: Db) -> Self {
        Self { db, mended: None }
    }
}

impl Round for Summaries {
    const NAME: &'static str = "summaries";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        if self.mended.is_none_or(|at| at.elapsed() >= MEND_EVERY) {
            recover(&self.db).await?;
            if adopt(&self.db).await? < summaries::BATCH {
                self.mended = Some(Instant::now());
            }
        }
        let now = self.db.clock().now();
        let next = summaries::until_next(&mut *self.db.conn().await?, now).await?;
        match next {
            Some(until) if until.is_zero() => {
                let full = queue_due(&self.db).await?.people >= summaries::BATCH;
                Ok(if full { Duration::ZERO } else { SHORT })
            }
            Some(until) => Ok(until.min(POLL)),
            None => Ok(POLL),
        }
    }
}

/// One round: up to [`summaries::BATCH`] people, whose jobs are pushed at commit.
///
/// # Errors
/// If the database is away.
pub async fn queue_due(db: &Db) -> Result<Taken> {
    let mut tx = db.begin().await?;
    let taken = summaries::queue_due(&mut tx).await;
    let taken = tx.finish(taken).await?;
    for _ in 0..taken.too_late {
        metrics::digest_settled(DigestState::SkippedLate.as_str());
    }
    Ok(taken)
}

/// Settles runs whose job has ended without them, and answers how many: it should be none.
///
/// # Errors
/// If the database is away.
pub async fn recover(db: &Db) -> Result<usize> {
    let mut tx = db.begin().await?;
    let recovered = summaries::recover(&mut tx).await;
    let recovered = tx.finish(recovered).await?;
    for run in &recovered {
        metrics::digest_settled(run.state.as_str());
    }
    if !recovered.is_empty() {
        tracing::warn!(count = recovered.len(), "daily summaries whose job had ended without them");
    }
    Ok(recovered.len())
}

/// Gives people their preferences who have none yet, and answers how many.
///
/// # Errors
/// If the database is away.
pub async fn adopt(db: &Db) -> Result<usize> {
    let mut tx = db.begin().await?;
    let adopted = summaries::adopt(&mut tx).await;
    tx.finish(adopted).await
}
