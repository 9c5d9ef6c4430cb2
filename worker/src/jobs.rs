//! From a job's kind to its work: the one `match`, exhaustive, so that a kind without work does not compile. The
//! work of a kind is in `jobs/<kind>.rs`.

mod archive_completed;
mod fan_out_event;
mod generate_report;
#[cfg(feature = "testing")]
mod probe;
mod prune_history;
mod purge_archived;
mod seal_audit;
mod send_daily_summary;
mod send_mail;
mod send_reminder;
mod send_webhook;

pub use self::send_webhook::Turns;

use common::{
    allowance,
    db::{Db, Tx},
    error::Result,
    ids::UserId,
    jobs::AnyJob,
    mail::links::{self, Links},
    suppressions::MailKind,
};

use crate::{
    context::Context,
    job::{JobError, Run as _},
    smtp::Unsubscribe,
};

/// Does the work of a job.
///
/// # Errors
/// As the kind says.
pub(crate) async fn run(job: AnyJob, context: &Context) -> Result<(), JobError> {
    match job {
        AnyJob::SendReminder(job) => job.run(context).await,
        AnyJob::FanOutEvent(job) => job.run(context).await,
        AnyJob::SendWebhook(job) => job.run(context).await,
        AnyJob::SendMail(job) => job.run(context).await,
        AnyJob::SendDailySummary(job) => job.run(context).await,
        AnyJob::ArchiveCompleted(job) => job.run(context).await,
        AnyJob::PurgeArchived(job) => job.run(context).await,
        AnyJob::PruneHistory(job) => job.run(context).await,
        AnyJob::SealAudit(job) => job.run(context).await,
        AnyJob::GenerateReport(job) => job.run(context).await,
        #[cfg(feature = "testing")]
        AnyJob::Probe(job) => job.run(context).await,
    }
}

/// Counts a mail that the server has accepted. Best effort: it must not be sent again because this cannot be written.
async fn count_mail(context: &Context, user: UserId) {
    let counted =
        async { allowance::count(&mut *context.db.conn().await?, context.db.clock().now(), user).await };
    if let Err(error) = counted.await {
        tracing::warn!(%error, "cannot count a mail");
    }
}

/// Where a person stops mails of a kind, for the header of such a mail.
fn unsubscribe(context: &Context, user: UserId, kind: MailKind) -> Unsubscribe {
    let url = &context.settings.public_url;
    let page = Links::new(&context.secrets).unsubscribe(url, user, kind);
    Unsubscribe { url: page, one_click: links::takes_one_click(url), bulk: kind == MailKind::DailySummary }
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
#[cfg(all(test, feature = "testing"))]
mod twice;
