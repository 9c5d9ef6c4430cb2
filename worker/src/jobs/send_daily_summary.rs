use std::time::Duration;

use anyhow::anyhow;
use common::{
    allowance::{self, Allowance},
    ids::{JobId, UserId},
    jobs::{Job as _, SendDailySummary},
    mail,
    summaries::{self, Claim, Ending, Reason, Rules},
    suppressions::{self, MailKind},
    telemetry::Origin,
};

use crate::{
    context::Context,
    job::{JobError, Run},
    jobs::{count_mail, unsubscribe},
    runner::Running,
    smtp::{Failure, Header, Smtp, later, refused},
};

impl Run for SendDailySummary {
    /// Sends a person their summary, if it is still wanted and in time. Unlike a reminder it is not repeated when an
    /// earlier try was cut short after the mail had been handed over (semantics §5.4).
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let running = Running::current();
        let job = running.map(|running| running.id);
        let is_last = running.is_some_and(|running| running.attempt >= Self::POLICY.max_attempts);
        deliver(context, &self, job, is_last).await
    }
}

async fn deliver(
    context: &Context,
    summary: &SendDailySummary,
    job: Option<JobId>,
    is_last: bool,
) -> Result<(), JobError> {
    let rules = rules(context);
    let run = summary.run_id;
    let Some(waiting) = summaries::waiting(&context.db, run, job, rules).await? else { return Ok(()) };
    let Some(smtp) = &context.smtp else { return Err(later(context)) };
    // Over the day's limit it waits for the next day, and is settled as too late then.
    if let Allowance::Until(tomorrow) = allowance_left(context, summary.user_id).await? {
        return Err(JobError::Snooze(tomorrow));
    }
    let Err(failure) = try_once(context, smtp, summary, job, &waiting.email).await? else { return Ok(()) };
    match failure {
        Failure::Auth { error } => {
            settle(context, summary, &Ending::Again { error: None }).await?;
            Err(refused(context, &error).await)
        }
        Failure::Temporary { error, ambiguous: true } => {
            settle(context, summary, &Ending::Unknown { error: &error }).await
        }
        Failure::Temporary { error, ambiguous: false } if !is_last => {
            settle(context, summary, &Ending::Again { error: Some(&error) }).await?;
            Err(anyhow!("{error}").into())
        }
        // What the world refuses for good is settled in its own row, and the job is done.
        Failure::Temporary { error, .. } => {
            settle(context, summary, &Ending::Failed { reason: Reason::GaveUp, reply: &error }).await
        }
        Failure::Rejected { reply } => {
            settle(context, summary, &Ending::Failed { reason: Reason::Rejected, reply: &reply }).await?;
            let mut conn = context.db.conn().await?;
            Ok(suppressions::bounced(&mut conn, context.db.clock().now(), summary.user_id, &reply).await?)
        }
    }
}

async fn allowance_left(context: &Context, user: UserId) -> Result<Allowance, JobError> {
    let (mut conn, now) = (context.db.conn().await?, context.db.clock().now());
    Ok(allowance::left(&mut conn, now, user, context.settings.mail_per_user_per_day).await?)
}

fn rules(context: &Context) -> Rules<'_> {
    Rules {
        verified_only: context.settings.require_email_verification,
        archive_after_days: context.settings.archive_done_after_days,
        host: mail::host(&context.settings.public_url),
    }
}

/// The server is made to wait for the text, and only then it is decided what the text is.
async fn try_once(
    context: &Context,
    smtp: &Smtp,
    summary: &SendDailySummary,
    job: Option<JobId>,
    email: &str,
) -> Result<Result<(), Failure>, JobError> {
    let draft = match smtp.open(email).await {
        Ok(draft) => draft,
        Err(failure) => return Ok(Err(failure)),
    };
    let rules = rules(context);
    let Some(claim) = summaries::claim(&context.db, summary.run_id, job, rules).await? else {
        draft.abandon().await;
        return Ok(Ok(()));
    };
    let Claim { message_id, origin, scheduled_at, content, .. } = &claim;
    let stop = unsubscribe(context, summary.user_id, MailKind::DailySummary);
    let mail = mail::daily_summary(content, *scheduled_at, &context.settings.public_url, &stop.url)?;
    let own = Origin::current();
    let header = Header {
        message_id,
        list_id: format!("daily-summary.{}", rules.host),
        thread: None,
        unsubscribe: Some(stop),
        date: content.at,
        origin: if origin.request_id.is_some() { origin } else { &own },
    };
    match draft.send(&mail, &header).await {
        Ok(reply) => {
            settle(context, summary, &Ending::Sent { reply: &reply }).await?;
            count_mail(context, summary.user_id).await;
            Ok(Ok(()))
        }
        Err(failure) => Ok(Err(failure)),
    }
}

/// Writes what became of a try, and does not give up easily: one that was accepted and is not noted as sent stays in
/// doubt.
async fn settle(context: &Context, summary: &SendDailySummary, ending: &Ending<'_>) -> Result<(), JobError> {
    let mut pauses = [200, 500, 1000, 2000, 4000].map(Duration::from_millis).into_iter();
    loop {
        match (summaries::settle(&context.db, summary.run_id, ending).await, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), None) => return Err(error.into()),
            (Err(_), Some(pause)) => tokio::time::sleep(pause).await,
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
