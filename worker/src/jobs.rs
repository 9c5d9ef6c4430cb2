//! From a job's kind to its work: the one `match`, exhaustive, so that a kind without work does not compile. The
//! work of a kind is in `jobs/<kind>.rs`.

#[cfg(feature = "testing")]
mod probe;

use common::jobs::AnyJob;

#[cfg(feature = "testing")]
use crate::job::Run as _;
use crate::{context::Context, job::JobError};

/// Does the work of a job.
///
/// # Errors
/// As the kind says.
pub(crate) async fn run(job: AnyJob, context: &Context) -> Result<(), JobError> {
    match job {
        #[cfg(feature = "testing")]
        AnyJob::Probe(job) => job.run(context).await,
        AnyJob::SendReminder(_)
        | AnyJob::ArchiveCompleted(_)
        | AnyJob::PurgeArchived(_)
        | AnyJob::PruneHistory(_) => {
            let _ = context;
            Err(JobError::Dead("this kind has no work yet".to_owned()))
        }
    }
}
