//! `tasktracker-api admin`: how the first administrator comes in. Whoever runs it has the database's password and the
//! keys, and so may do anything already. Links go to standard output, never to a log.

use common::{
    audit,
    db::{Db, Tx},
    dispatcher::Outbox,
    error::{Error, Result},
    ids::UserId,
    one_time::{OneTimeToken, TokenPurpose},
    secrets::{Key, Purpose},
    users::{Account, AccountFilter, InitialAdmin, User, address_problem},
};

use crate::config::{AdminCommand, AdminTask, AuditCommand, AuditTask};

/// Runs a command, and answers what to print.
///
/// # Errors
/// If the database is away, or there is no such account.
pub async fn run(config: AdminCommand) -> anyhow::Result<String> {
    let db = config.database.open(Outbox::default())?;
    let keys = config.secrets.secret_keys.derive(Purpose::OneTime);
    match &config.task {
        AdminTask::Create { email, name } => create(&db, &keys, &config.public.public_url, email, name).await,
        AdminTask::Link { email } => link(&db, &keys, &config.public.public_url, email).await,
    }
}

/// Looks through the audit trail, and answers what to print and whether all is well.
///
/// # Errors
/// If the database is away.
pub async fn verify(config: AuditCommand) -> anyhow::Result<(String, bool)> {
    let AuditTask::Verify = config.task;
    let db = config.database.open(Outbox::default())?;
    let found = audit::verify(&mut *db.conn().await?).await?;
    let mut text = format!(
        "{} rows under {} seals are as they were written; {} are not sealed yet.\n",
        found.rows, found.seals, found.unsealed
    );
    for broken in &found.broken {
        text += &format!("NOT AS WRITTEN: {broken}\n");
    }
    Ok((text, found.broken.is_empty()))
}

/// Makes `email` an administrator, and answers what to tell whoever asked.
async fn create(
    db: &Db,
    keys: &[Key],
    public_url: &url::Url,
    email: &str,
    name: &str,
) -> anyhow::Result<String> {
    let mut tx = db.begin().await?;
    let made = async {
        let (id, is_new) = User::make_admin(&mut tx, email, name).await?;
        let account = Account::find(tx.conn(), id).await?;
        let token = if account.has_password { None } else { Some(issue(&mut tx, keys, id).await?) };
        Ok((is_new, token))
    };
    let made: Result<_> = made.await;
    let (is_new, token) = tx.finish(made).await?;
    let what = if is_new { "has an account now, and is an administrator" } else { "is an administrator now" };
    Ok(match token {
        Some(token) => format!("{email} {what}.\n{}", told(public_url, &token)),
        None => format!("{email} {what}, and logs in with the password of before.\n"),
    })
}

/// Another link for an account.
async fn link(db: &Db, keys: &[Key], public_url: &url::Url, email: &str) -> anyhow::Result<String> {
    let filter = AccountFilter { email: Some(email.to_owned()), limit: Some(1), ..AccountFilter::default() };
    let page = Account::list(&mut *db.conn().await?, &filter, keys).await?;
    let Some(account) = page.data.into_iter().next() else {
        anyhow::bail!("{email} has no account; `tasktracker-api admin create {email}` makes one");
    };
    let mut tx = db.begin().await?;
    let issued = issue(&mut tx, keys, account.id).await;
    let token = tx.finish(issued).await?;
    Ok(told(public_url, &token))
}

fn told(public_url: &url::Url, token: &str) -> String {
    let base = public_url.as_str().trim_end_matches('/');
    format!("Set a password within 24 hours, once:\n{base}/account/reset?token={token}\n")
}

/// Makes a link that sets a password once.
async fn issue(tx: &mut Tx, keys: &[Key], user: UserId) -> Result<String> {
    let now = tx.clock().now();
    let too_many = || Error::TooManyRequests { retry_after: std::time::Duration::from_secs(3600) };
    let id = OneTimeToken::create(tx, user, TokenPurpose::SetPassword).await?.ok_or_else(too_many)?;
    let token = OneTimeToken::load(tx.conn(), now, id).await?.ok_or(Error::NotFound("account"))?;
    token.sign(keys)
}

/// Makes the account of `INITIAL_ADMIN_EMAIL`, as soon as the database is there and its schema is current.
pub(crate) async fn make_initial(db: Db, email: String) {
    loop {
        match try_initial(&db, &email).await {
            Ok(InitialAdmin::Made(id)) => {
                tracing::info!(user.id = %id, "made the initial administrator; `tasktracker-api admin link` prints a link that sets the password");
            }
            Ok(InitialAdmin::NotNeeded) => tracing::debug!("there is an administrator"),
            Ok(InitialAdmin::AddressTaken) => tracing::warn!(
                "INITIAL_ADMIN_EMAIL has an account already, which is not promoted; `tasktracker-api admin create` does that"
            ),
            Err(error) => {
                tracing::debug!(%error, "cannot make the initial administrator yet");
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                continue;
            }
        }
        return;
    }
}

async fn try_initial(db: &Db, email: &str) -> Result<InitialAdmin> {
    let mut tx = db.begin().await?;
    let made = User::make_initial_admin(&mut tx, email).await;
    tx.finish(made).await
}

/// An address, for clap.
pub(crate) fn address(text: &str) -> Result<String, String> {
    match address_problem(text) {
        None => Ok(text.to_owned()),
        Some(problem) => Err(problem),
    }
}
