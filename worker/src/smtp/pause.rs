//! What happens while nobody can send: the queue `mail` is paused, and tried from time to time.

use std::time::Duration;

use common::{error::Result, jobs::MAIL, ledger};
use tokio::time::{MissedTickBehavior, interval};

use super::{Failure, REFUSED_FOR};
use crate::{context::Context, job::JobError};

/// Who pauses the mail queue, as the table `queues` shows it. What somebody else paused, the worker never resumes.
pub(crate) const WORKER: &str = "worker";
/// How often a server that refused to log us in is asked again: more might lock the account.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// The mail server refuses to log us in: no mail would leave, so the queue is paused with its answer as the reason.
/// Answers how the job that found out ends: it waits, and that costs no attempt.
pub(crate) async fn refused(context: &Context, error: &str) -> JobError {
    tracing::error!(error, "the mail server refuses to log in: the mail queue is paused");
    let reason = format!("The mail server refuses us: {error}");
    let pause = async {
        let mut conn = context.db.conn().await?;
        let now = context.db.clock().now();
        ledger::pause_and_probe(&mut conn, now, MAIL, WORKER, &reason, Some(PROBE_EVERY)).await
    };
    if let Err(error) = pause.await {
        tracing::warn!(%error, "cannot pause the mail queue");
    }
    later(context)
}

/// When nobody can send: later, without counting this as a try. The pause is known everywhere by then.
pub(crate) fn later(context: &Context) -> JobError {
    JobError::Snooze(context.db.clock().instant() + REFUSED_FOR)
}

/// If the worker paused the queue and the next probe is due: begins a mail, to see whether the server lets us. If it
/// does, the queue goes on. One process of all does so, at most once a minute.
///
/// # Errors
/// If the database is away.
pub async fn probe_once(context: &Context) -> Result<()> {
    let Some(smtp) = &context.smtp else { return Ok(()) };
    let now = || context.db.clock().now();
    let turn = ledger::take_probe(&mut *context.db.conn().await?, now(), MAIL, WORKER, PROBE_EVERY).await?;
    if !turn {
        return Ok(());
    }
    match smtp.probe().await {
        Ok(()) => {
            ledger::resume(&mut *context.db.conn().await?, MAIL, WORKER).await?;
            tracing::info!("the mail server lets us in again: the mail queue goes on");
        }
        Err(
            Failure::Auth { error } | Failure::Temporary { error, .. } | Failure::Rejected { reply: error },
        ) => {
            tracing::warn!(error, "the mail queue stays paused");
        }
    }
    Ok(())
}

/// Probes whenever it is time to, for as long as the process runs.
pub async fn watch(context: Context) {
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = probe_once(&context).await {
            tracing::debug!(%error, "cannot ask whether to probe the mail server");
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
