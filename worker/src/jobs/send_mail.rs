use anyhow::anyhow;
use common::{
    allowance::{self, Allowance},
    db::{RunQueryDsl as _, sql},
    ids::{EndpointId, JobId, OneTimeTokenId, UserId},
    jobs::{Job as _, Letter, SendMail},
    ledger, mail,
    one_time::{OneTimeToken, TokenPurpose},
    secrets::Purpose,
    suppressions::{self, MailKind},
    telemetry::Origin,
    users::Addressee,
};
use diesel::{
    QueryableByName,
    sql_types::{Nullable, Text, Uuid},
};
use serde_json::{Value, json};

use super::count_mail;
use crate::{
    context::Context,
    job::{JobError, Run},
    runner::Running,
    smtp::{Failure, Header, Smtp, later, refused},
};

impl Run for SendMail {
    /// Sends a letter about an account. What became of it is in the job's `result`. A crash between the server's
    /// acceptance and the end of the job repeats the mail, under the same message id.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let Some(smtp) = &context.smtp else { return Err(later(context)) };
        let running = Running::current();
        let job = running.map_or_else(JobId::new, |running| running.id);
        let is_last = running.is_some_and(|running| running.attempt >= Self::POLICY.max_attempts);
        let letter = compose(context, &self).await?;
        let host = mail::host(&context.settings.public_url);
        let message_id = format!("<{}@{host}>", job.uuid().simple());
        let header = Header {
            message_id: &message_id,
            list_id: format!("account.{host}"),
            thread: None,
            unsubscribe: None,
            date: context.db.clock().instant(),
            origin: &Origin::current(),
        };
        if matches!(self.letter, Letter::Test { .. }) {
            return try_out(context, smtp, job, &letter, &header).await;
        }
        let result = match smtp.send(&letter.to, &letter.mail, &header).await {
            Ok(reply) => {
                tracing::info!(mail.message_id = message_id, "account mail sent");
                count_mail(context, self.user_id).await;
                json!({"sent": reply, "message_id": message_id})
            }
            Err(Failure::Auth { error }) => return Err(refused(context, &error).await),
            Err(Failure::Temporary { error, .. }) if !is_last => return Err(anyhow!("{error}").into()),
            // What the world refuses for good is not a fault of ours: the job is done, and says so.
            Err(Failure::Temporary { error, .. }) => json!({"gave_up": error}),
            Err(Failure::Rejected { reply }) => json!({"rejected": reply}),
        };
        say(context, job, result).await;
        Ok(())
    }
}

/// A letter, ready to be sent.
struct Composed {
    to: String,
    mail: mail::Mail,
}

/// Writes the letter from what is true now, unless it is not wanted any more.
async fn compose(context: &Context, job: &SendMail) -> Result<Composed, JobError> {
    let addressee = Addressee::load(&mut *context.db.conn().await?, job.user_id).await?;
    let addressee = addressee.ok_or_else(|| not_wanted("the account is gone or switched off"))?;
    let write = |letter: mail::Letter<'_>| {
        let host = mail::host(&context.settings.public_url);
        mail::letter(&letter, addressee.time_zone.tz(), host)
    };
    let mut to = addressee.email.clone();
    let mail = match &job.letter {
        Letter::VerifyEmail { token_id } => {
            let (url, token) = link(context, *token_id).await?;
            write(mail::Letter::VerifyEmail { url: &url, expires_at: token.expires_at })?
        }
        Letter::ResetPassword { token_id } => {
            let (url, token) = link(context, *token_id).await?;
            let (url, expires_at) = (url.as_str(), token.expires_at);
            match token.purpose {
                TokenPurpose::SetPassword => write(mail::Letter::SetPassword { url, expires_at })?,
                _ => write(mail::Letter::ResetPassword { url, expires_at })?,
            }
        }
        Letter::AlreadyRegistered { token_id } => {
            let (url, token) = link(context, *token_id).await?;
            write(mail::Letter::AlreadyRegistered { url: &url, expires_at: token.expires_at })?
        }
        Letter::ChangeEmail { token_id } => {
            let (url, token) = link(context, *token_id).await?;
            to = token.email;
            write(mail::Letter::ChangeEmail { url: &url, expires_at: token.expires_at })?
        }
        Letter::EmailChangeRequested { token_id } => {
            let addresses = OneTimeToken::addresses(&mut *context.db.conn().await?, *token_id).await?;
            let (from, new) = addresses.ok_or_else(|| not_wanted("the link is gone"))?;
            to = from;
            write(mail::Letter::EmailChangeRequested { to: &new })?
        }
        Letter::DeletionRequested {} => {
            let deletes_at = addressee.deletes_at();
            let deletes_at = deletes_at.ok_or_else(|| not_wanted("the deletion was taken back"))?;
            write(mail::Letter::DeletionRequested { deletes_at })?
        }
        Letter::WebhookDisabled { endpoint_id } => {
            may_be_told(context, job.user_id, &addressee).await?;
            let endpoint = disabled_endpoint(context, job.user_id, *endpoint_id).await?;
            let (endpoint, description) = (&endpoint.url, endpoint.description.as_deref());
            write(mail::Letter::WebhookDisabled { endpoint, description })?
        }
        Letter::Test { to: other } => {
            to = other.clone().unwrap_or(to);
            write(mail::Letter::Test)?
        }
    };
    Ok(Composed { to, mail })
}

fn not_wanted(reason: &str) -> JobError {
    JobError::Cancel(reason.to_owned())
}

/// The URL of a link that is still good, and what is known of it.
async fn link(context: &Context, id: OneTimeTokenId) -> Result<(String, OneTimeToken), JobError> {
    let now = context.db.clock().now();
    let token = OneTimeToken::load(&mut *context.db.conn().await?, now, id).await?;
    let token =
        token.ok_or_else(|| not_wanted("the link was used, has expired, or was for another address"))?;
    let page = match token.purpose {
        TokenPurpose::VerifyEmail | TokenPurpose::ChangeEmail => "/account/verify",
        TokenPurpose::ResetPassword | TokenPurpose::SetPassword => "/account/reset",
    };
    let signed = token.sign(&context.secrets.derive(Purpose::OneTime))?;
    let mut url = context.settings.public_url.clone();
    url.set_path(page);
    url.query_pairs_mut().clear().append_pair("token", &signed);
    Ok((url.into(), token))
}

/// What is not security mail goes only where mail is wanted, and not more often than a day allows.
async fn may_be_told(context: &Context, user: UserId, addressee: &Addressee) -> Result<(), JobError> {
    if context.settings.require_email_verification && !addressee.email_verified {
        return Err(not_wanted("the address is not confirmed"));
    }
    let (mut conn, now) = (context.db.conn().await?, context.db.clock().now());
    if suppressions::held(&mut conn, &addressee.email, MailKind::WebhookNotice).await?.is_some() {
        return Err(not_wanted("the address gets no mail of this kind"));
    }
    match allowance::left(&mut conn, now, user, context.settings.mail_per_user_per_day).await? {
        Allowance::Left => Ok(()),
        Allowance::Until(tomorrow) => Err(JobError::Snooze(tomorrow)),
    }
}

#[derive(QueryableByName)]
struct Endpoint {
    #[diesel(sql_type = Text)]
    url: String,
    #[diesel(sql_type = Nullable<Text>)]
    description: Option<String>,
}

async fn disabled_endpoint(context: &Context, owner: UserId, id: EndpointId) -> Result<Endpoint, JobError> {
    let rows: Vec<Endpoint> = sql!(
        "SELECT url, description FROM webhook_endpoints WHERE id = {id} AND owner_id = {owner} AND state = 'auto_disabled'",
        id: Uuid = id,
        owner: Uuid = owner,
    )
    .load(&mut *context.db.conn().await?)
    .await?;
    rows.into_iter().next().ok_or_else(|| not_wanted("the endpoint is gone or was switched on again"))
}

/// Sends the mail of an administrator who waits for the answer: whatever it is, it is the job's result, and the job is
/// not tried again.
async fn try_out(
    context: &Context,
    smtp: &Smtp,
    job: JobId,
    letter: &Composed,
    header: &Header<'_>,
) -> Result<(), JobError> {
    let (sent, transcript) = smtp.try_out(&letter.to, &letter.mail, header).await;
    let (accepted, reply) = match sent {
        Ok(reply) => (true, reply),
        Err(
            Failure::Auth { error: reply }
            | Failure::Temporary { error: reply, .. }
            | Failure::Rejected { reply },
        ) => (false, reply),
    };
    let result = json!({"accepted": accepted, "to": letter.to, "reply": reply, "transcript": transcript});
    ledger::set_result(&mut *context.db.conn().await?, job, result).await?;
    Ok(())
}

/// Best effort: the mail is with the server, and must not be sent again because this cannot be written.
async fn say(context: &Context, job: JobId, result: Value) {
    let said = async { ledger::set_result(&mut *context.db.conn().await?, job, result).await };
    if let Err(error) = said.await {
        tracing::warn!(%error, "cannot keep what became of a mail");
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
