//! Reminders whose time has come become jobs (semantics §5.1). The loop sleeps until the next is due, so that none waits
//! for a poll, and never longer than half a second, because a nearer one may be planned meanwhile.

use std::time::{Duration, Instant};

use common::{
    db::Db,
    error::Result,
    metrics,
    reminders::{self, FireReason, FireState, Taken},
};

use crate::rounds::Round;

/// The longest sleep.
const POLL: Duration = Duration::from_millis(500);
/// Between rounds that find due what they cannot have: another scheduler, or a change of the task, holds it just now.
const SHORT: Duration = Duration::from_millis(10);
/// How often fires are looked for whose job has ended without them.
const RECOVER_EVERY: Duration = Duration::from_secs(60);

/// The loop of the due step.
pub struct Due {
    db: Db,
    late_per_second: u16,
    recovered: Option<Instant>,
}

impl Due {
    /// A loop that has not looked yet. Of people with late reminders it lets `late_per_second` go.
    pub fn new(db: Db, late_per_second: u16) -> Self {
        Self { db, late_per_second, recovered: None }
    }
}

impl Round for Due {
    const NAME: &'static str = "due";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        if self.recovered.is_none_or(|at| at.elapsed() >= RECOVER_EVERY) {
            recover(&self.db).await?;
            self.recovered = Some(Instant::now());
        }
        let now = self.db.clock().now();
        let next = reminders::until_next(&mut *self.db.conn().await?, now).await?;
        match next {
            Some(until) if until.is_zero() => {
                let full = queue_due(&self.db, self.late_per_second).await?.is_full();
                Ok(if full { Duration::ZERO } else { SHORT })
            }
            Some(until) => Ok(until.min(POLL)),
            None => Ok(POLL),
        }
    }
}

/// One round: up to [`reminders::BATCH`] fires become jobs, which are pushed at commit, apart from late ones that have to
/// wait for their turn.
///
/// # Errors
/// If the database is away.
pub async fn queue_due(db: &Db, late_per_second: u16) -> Result<Taken> {
    let mut tx = db.begin().await?;
    let taken = reminders::queue_due(&mut tx, late_per_second).await?;
    tx.commit().await?;
    for _ in 0..taken.too_late {
        metrics::fire_settled(FireState::Skipped.as_str(), FireReason::TooLate.as_str(), None);
    }
    Ok(taken)
}

/// Gives fires back whose job has ended without them, and answers how many: it should be none.
///
/// # Errors
/// If the database is away.
pub async fn recover(db: &Db) -> Result<usize> {
    let mut tx = db.begin().await?;
    let recovered = reminders::recover(&mut tx).await?;
    tx.commit().await?;
    for fire in &recovered {
        if let Some(reason) = &fire.reason {
            metrics::fire_settled(fire.state.as_str(), reason, None);
        }
    }
    if !recovered.is_empty() {
        tracing::warn!(count = recovered.len(), "fires whose job had ended without them");
    }
    Ok(recovered.len())
}
