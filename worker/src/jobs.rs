//! From a job's kind to its work: the one `match`, exhaustive, so that a kind without work does not compile. The
//! work of a kind is in `jobs/<kind>.rs`.

mod archive_completed;
#[cfg(feature = "testing")]
mod probe;
mod prune_history;
mod purge_archived;
mod send_reminder;

use common::{
    db::{Db, Tx},
    error::Result,
    jobs::AnyJob,
};

use crate::{
    context::Context,
    job::{JobError, Run as _},
};

/// Does the work of a job.
///
/// # Errors
/// As the kind says.
pub(crate) async fn run(job: AnyJob, context: &Context) -> Result<(), JobError> {
    match job {
        AnyJob::SendReminder(job) => job.run(context).await,
        AnyJob::ArchiveCompleted(job) => job.run(context).await,
        AnyJob::PurgeArchived(job) => job.run(context).await,
        AnyJob::PruneHistory(job) => job.run(context).await,
        #[cfg(feature = "testing")]
        AnyJob::Probe(job) => job.run(context).await,
    }
}

/// Rows that one statement of housekeeping touches at most.
const BATCH: i64 = 1_000;

/// Repeats `step`, which does a batch, commits and answers how many it did, until that was less than [`BATCH`]: no lock
/// is held for long, and what was done stays done.
async fn in_batches<F>(db: &Db, what: &'static str, step: impl Fn(Tx) -> F) -> Result<(), JobError>
where
    F: Future<Output = Result<usize>>,
{
    let mut total = 0;
    loop {
        let done = step(db.begin().await?).await?;
        total += done;
        if done < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            tracing::info!(what, count = total, "housekeeping done");
            return Ok(());
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
