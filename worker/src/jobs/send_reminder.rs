use std::time::Duration;

use anyhow::anyhow;
use common::{
    allowance::Allowance,
    ids::{FireId, JobId, UserId},
    jobs::{Job as _, SendReminder},
    mail::{
        self, Line, Mail,
        links::{Action, ActionLink, Links},
    },
    reminders::{self, Claim, Ending, FireReason, Reason, Recipient},
    suppressions::{self, MailKind},
    telemetry::Origin,
};
use tokio::time::Instant;

use super::unsubscribe;
use crate::{
    context::Context,
    job::{JobError, Run},
    runner::Running,
    smtp::{Failure, Header, Smtp, later, refused},
};

/// No further mail is begun after so long: what has begun must end within the kind's timeout.
const ENOUGH: Duration = Duration::from_secs(25);

impl Run for SendReminder {
    /// Sends a person what is due now: one mail for all of it, and one for each that an earlier try left in doubt.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let running = Running::current();
        let attempt = Attempt {
            job: running.map(|running| running.id),
            is_last: running.is_some_and(|running| running.attempt >= Self::POLICY.max_attempts),
        };
        deliver(context, self.user_id, attempt).await
    }
}

/// Whose try this is.
#[derive(Debug, Clone, Copy, Default)]
struct Attempt {
    job: Option<JobId>,
    is_last: bool,
}

async fn deliver(context: &Context, user: UserId, attempt: Attempt) -> Result<(), JobError> {
    let Some(smtp) = &context.smtp else {
        return Err(later(context));
    };
    let started = Instant::now();
    while let Some(recipient) = waiting(context, user).await? {
        if let Some(held) = held(context, user, &recipient).await? {
            return held;
        }
        if started.elapsed() > ENOUGH {
            return Err(JobError::Snooze(context.db.clock().instant()));
        }
        let (claim, failure) = match try_one(context, smtp, user, attempt, &recipient).await? {
            Try::Done => return Ok(()),
            Try::Sent => continue,
            Try::Failed(claim, failure) => (claim, failure),
        };
        let gave_up = match failure {
            Failure::Auth { error } => {
                give_back(context, claim.as_ref(), false).await?;
                return Err(refused(context, &error).await);
            }
            Failure::Temporary { error, ambiguous } if !attempt.is_last => {
                give_back(context, claim.as_ref(), ambiguous).await?;
                return Err(anyhow!("{error}").into());
            }
            // What the world refuses for good is settled in its own row, and the job is done.
            Failure::Temporary { error, .. } => {
                give_up(context, user, attempt, claim, Reason::GaveUp, &error).await?
            }
            Failure::Rejected { reply } => {
                let gave_up = give_up(context, user, attempt, claim, Reason::Rejected, &reply).await?;
                // What this suppresses is the next mail: this one was refused, and says so.
                let mut conn = context.db.conn().await?;
                suppressions::bounced(&mut conn, context.db.clock().now(), user, &reply).await?;
                gave_up
            }
        };
        if !gave_up {
            return Ok(());
        }
    }
    Ok(())
}

async fn waiting(context: &Context, user: UserId) -> Result<Option<Recipient>, JobError> {
    let mut conn = context.db.conn().await?;
    let per_day = context.settings.mail_per_user_per_day;
    Ok(reminders::waiting(&mut conn, context.db.clock().now(), user, per_day).await?)
}

/// How the job ends if nothing may be sent to this person now: not to an address that they have not confirmed, and not
/// more than a day allows. What is over that waits for the next day, when one mail has all of it.
async fn held(
    context: &Context,
    user: UserId,
    recipient: &Recipient,
) -> Result<Option<Result<(), JobError>>, JobError> {
    let unverified = context.settings.require_email_verification && !recipient.email_verified;
    let (reason, ending) = match recipient.allowance() {
        _ if unverified => (Reason::Unwanted(FireReason::Unverified), Ok(())),
        Allowance::Until(tomorrow) => (Reason::MailLimit, Err(JobError::Snooze(tomorrow))),
        Allowance::Left => return Ok(None),
    };
    reminders::hold(&mut *context.db.conn().await?, context.db.clock().now(), user, reason).await?;
    Ok(Some(ending))
}

enum Try {
    /// There is nothing more to send.
    Done,
    /// There may be more.
    Sent,
    /// With the claim, if it came so far.
    Failed(Option<Claim>, Failure),
}

/// One mail: the server is made to wait for its text, and only then it is decided what the text is.
async fn try_one(
    context: &Context,
    smtp: &Smtp,
    user: UserId,
    attempt: Attempt,
    recipient: &Recipient,
) -> Result<Try, JobError> {
    let draft = match smtp.open(&recipient.email).await {
        Ok(draft) => draft,
        Err(failure) => return Ok(Try::Failed(None, failure)),
    };
    let host = mail::host(&context.settings.public_url);
    let Some(claim) = reminders::claim(&context.db, user, attempt.job, host).await? else {
        draft.abandon().await;
        return Ok(Try::Done);
    };
    let mail = render(context, user, &claim, recipient)?;
    let own = Origin::current();
    let header = Header {
        message_id: &claim.message_id,
        list_id: format!("reminder.{host}"),
        thread: thread(&claim, host),
        unsubscribe: Some(unsubscribe(context, user, MailKind::Reminder)),
        date: claim.now,
        origin: if claim.origin.request_id.is_some() { &claim.origin } else { &own },
    };
    match draft.send(&mail, &header).await {
        Ok(reply) => {
            tracing::info!(mail.message_id = claim.message_id, fires = claim.fires.len(), "reminder sent");
            settle(context, &claim, &Ending::Sent { reply: &reply }).await?;
            Ok(if claim.is_more { Try::Sent } else { Try::Done })
        }
        Err(failure) => Ok(Try::Failed(Some(claim), failure)),
    }
}

/// All mails of one task make a thread. A mail about several tasks is in none: it would tie their threads together.
fn thread(claim: &Claim, host: &str) -> Option<String> {
    let first = claim.fires.first()?.task_id;
    let alone = claim.fires.iter().all(|fire| fire.task_id == first);
    alone.then(|| format!("<task-{}@{host}>", first.uuid().simple()))
}

fn render(context: &Context, user: UserId, claim: &Claim, recipient: &Recipient) -> Result<Mail, JobError> {
    let links = Links::new(&context.secrets);
    let url = &context.settings.public_url;
    let actions = |fire: FireId| {
        let link =
            |action: Action| (action.label(), links.action(url, ActionLink { fire, action }, claim.now));
        Action::ALL.map(link).to_vec()
    };
    let lines: Vec<Line<'_>> = claim
        .fires
        .iter()
        .map(|fire| Line {
            title: &fire.title,
            project: fire.project.as_deref(),
            due: fire.due(),
            priority: &fire.priority,
            description: fire.description.as_deref(),
            fire_at: fire.fire_at,
            actions: actions(fire.id),
        })
        .collect();
    let stop = links.unsubscribe(url, user, MailKind::Reminder);
    Ok(mail::reminder(&lines, recipient.time_zone.tz(), claim.now, mail::host(url), &stop)?)
}

/// Back to `queued`: the next try takes it.
async fn give_back(context: &Context, claim: Option<&Claim>, ambiguous: bool) -> Result<(), JobError> {
    match claim {
        Some(claim) => settle(context, claim, &Ending::Again { ambiguous }).await,
        None => Ok(()),
    }
}

/// Dead. What was refused before it was claimed is claimed for that; false if there was nothing to claim.
async fn give_up(
    context: &Context,
    user: UserId,
    attempt: Attempt,
    claim: Option<Claim>,
    reason: Reason,
    reply: &str,
) -> Result<bool, JobError> {
    let host = mail::host(&context.settings.public_url);
    let claim = match claim {
        Some(claim) => Some(claim),
        None => reminders::claim(&context.db, user, attempt.job, host).await?,
    };
    match claim {
        Some(claim) => settle(context, &claim, &Ending::Dead { reason, reply }).await.map(|()| true),
        None => Ok(false),
    }
}

/// Writes what became of a mail, and does not give up easily: a mail that was accepted and is not noted as sent is
/// sent again.
async fn settle(context: &Context, claim: &Claim, ending: &Ending<'_>) -> Result<(), JobError> {
    let mut pauses = [200, 500, 1000, 2000, 4000].map(Duration::from_millis).into_iter();
    loop {
        match (reminders::settle(&context.db, claim, ending).await, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), None) => return Err(error.into()),
            (Err(_), Some(pause)) => tokio::time::sleep(pause).await,
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
