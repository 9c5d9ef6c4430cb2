//! Accounts: how they come to be, and the links that are mailed to their owners, which confirm an address or set a
//! password. A link is the authority; who follows it need not be logged in. What a logged-in owner does is in [`me`].

mod me;
pub(crate) mod pages;

use std::time::Duration;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use common::{
    audit::{self, Act},
    credentials::{Login, Session, Sessions},
    error::{Code, Error},
    ids::UserId,
    jobs::{Job as _, Letter, SendMail},
    metrics,
    one_time::{self, Link, OneTimeToken, TokenPurpose},
    secrets::Purpose,
    users::{NewUser, User, is_password},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

use crate::{
    answer::tagged,
    auth::{Address, Auth, hashed},
    config::Registration,
    error::{Problem, Result},
    extract::Json,
    limits::Bucket,
    routes::{Routes, routes},
    state::AppState,
};

/// How long it takes to answer somebody who forgot a password, whether there is such an account or not: longer than
/// either takes by itself.
const FORGOT_TAKES: Duration = Duration::from_millis(250);

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(register))
        .merge(me::routes())
        .routes(routes!(verify_email))
        .routes(routes!(resend))
        .routes(routes!(forgot))
        .routes(routes!(reset))
}

/// What is answered where an address has to be confirmed first.
#[derive(Debug, Serialize, ToSchema)]
struct ConfirmationSent {
    /// What happens next.
    #[schema(example = "We have sent a mail to this address: follow the link in it.")]
    detail: &'static str,
}

/// Register
///
/// 201 with the account, and 409 for a known address. Where addresses have to be confirmed it is 202 for known and
/// unknown ones alike, and everything else is in the mail that goes there.
#[utoipa::path(
    post, path = "/auth/register", tag = "accounts", operation_id = "register", request_body = NewUser, security(()),
    responses(
        (status = 201, description = "The account", body = User),
        (status = 202, description = "A mail is on its way to the address", body = ConfirmationSent),
        Problem,
    ),
)]
async fn register(
    State(app): State<AppState>,
    address: Address,
    Json(new): Json<NewUser>,
) -> Result<Response> {
    app.limits.take_address(Bucket::Register, address.0).await?;
    if app.settings.http.registration == Registration::Closed {
        return Err(Error::Forbidden(Code::RegistrationClosed).into());
    }
    let hash = hashed(&app, new.password.clone()).await?;
    if app.settings.accounts.require_email_verification {
        return register_by_mail(&app, &new, &hash).await;
    }
    let mut tx = app.db.begin().await?;
    let registered = User::register(&mut tx, &new, &hash).await;
    let registered = audit::after(&mut tx, registered, |user| Act::own(user.id, "account.registered")).await;
    let user = tx.finish(registered).await?;
    metrics::auth_event("register", "ok");
    Ok((StatusCode::CREATED, tagged(user)).into_response())
}

/// The same answer for an address that has an account and for one that has none: a mail tells them apart.
async fn register_by_mail(app: &AppState, new: &NewUser, hash: &str) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let registered = async {
        let id = User::register(&mut tx, new, hash).await?.id;
        mail_link(&mut tx, id, TokenPurpose::VerifyEmail, |token_id| Letter::VerifyEmail { token_id }).await
    };
    let registered = registered.await;
    match tx.finish(registered).await {
        Ok(()) => metrics::auth_event("register", "ok"),
        Err(Error::Conflict { code: Code::EmailTaken, .. }) => {
            metrics::auth_event("register", "known");
            let known = Login::find(&mut *app.db.conn().await?, &new.email).await?;
            if let Some(known) = known.filter(|known| known.is_active) {
                let mut tx = app.db.begin().await?;
                let letter = |token_id| Letter::AlreadyRegistered { token_id };
                let told = mail_link(&mut tx, known.user_id, TokenPurpose::ResetPassword, letter).await;
                tx.finish(told).await?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    let detail = "We have sent a mail to this address: follow the link in it.";
    Ok((StatusCode::ACCEPTED, axum::Json(ConfirmationSent { detail })).into_response())
}

/// The token of a link that was mailed.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    /// What stands behind `token=` in the link.
    #[garde(length(bytes, max = 200))]
    #[schema(example = "tto_…")]
    token: String,
}

/// Confirm an address
///
/// With the token of the mailed link, which is good for 24 hours and once: that of a new account, or the one that an
/// account is to have instead.
#[utoipa::path(
    post, path = "/auth/verify-email", tag = "accounts", operation_id = "verify_email", request_body = Token, security(()),
    responses((status = 204, description = "Confirmed"), Problem),
)]
async fn verify_email(
    State(app): State<AppState>,
    address: Address,
    Json(token): Json<Token>,
) -> Result<StatusCode> {
    app.limits.take_address(Bucket::Link, address.0).await?;
    confirm(&app, &token.token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Confirms the address that a token was mailed to, and gives it to the account if it has another.
async fn confirm(app: &AppState, token: &str) -> Result<()> {
    const PURPOSES: [TokenPurpose; 2] = [TokenPurpose::VerifyEmail, TokenPurpose::ChangeEmail];

    let link = read(app, token, &PURPOSES)?;
    let mut tx = app.db.begin().await?;
    let confirmed = async {
        let redeemed = link.redeem(&mut tx).await?;
        match redeemed.purpose {
            TokenPurpose::ChangeEmail => {
                User::change_email(&mut tx, redeemed.user_id, &redeemed.email).await?;
            }
            _ => User::verify_email(&mut tx, redeemed.user_id).await?,
        }
        one_time::end(&mut tx, redeemed.user_id, &[redeemed.purpose]).await?;
        let done = match redeemed.purpose {
            TokenPurpose::ChangeEmail => "account.email_changed",
            _ => "account.email_verified",
        };
        audit::record(&mut tx, Act::own(redeemed.user_id, done)).await
    };
    let confirmed = confirmed.await;
    tx.finish(confirmed).await?;
    metrics::auth_event("verify_email", "ok");
    Ok(())
}

fn read(app: &AppState, token: &str, purposes: &[TokenPurpose]) -> Result<Link> {
    let keys = app.secrets.derive(Purpose::OneTime);
    Ok(Link::read(token, purposes, &keys, app.db.clock().instant())?)
}

/// Mail the confirmation again
///
/// Five an hour at most; what was mailed before stays good. Nothing happens if the address is confirmed.
#[utoipa::path(
    post, path = "/auth/verify-email/resend", tag = "accounts", operation_id = "resend_verification",
    responses((status = 202, description = "It is on its way"), Problem),
)]
async fn resend(State(app): State<AppState>, auth: Auth) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let sent = async {
        if User::find(tx.conn(), auth.viewer).await?.email_verified {
            return Ok(());
        }
        mail_link(&mut tx, auth.viewer.user_id, TokenPurpose::VerifyEmail, |token_id| Letter::VerifyEmail {
            token_id,
        })
        .await
    };
    let sent = sent.await;
    tx.finish(sent).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Makes a link and the job that mails it, unless enough of them were mailed within the hour.
pub(crate) async fn mail_link(
    tx: &mut common::db::Tx,
    user_id: UserId,
    purpose: TokenPurpose,
    letter: impl FnOnce(common::ids::OneTimeTokenId) -> Letter,
) -> common::error::Result<()> {
    if let Some(token_id) = OneTimeToken::create(tx, user_id, purpose).await? {
        SendMail { user_id, letter: letter(token_id) }.enqueue(tx).await?;
    }
    Ok(())
}

/// Who forgot their password.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct Forgotten {
    /// The address of the account.
    #[garde(length(bytes, max = 254))]
    #[schema(example = "ann@example.com")]
    email: String,
}

/// Forgot a password
///
/// The answer is the same, and takes as long, whether there is such an account or not. A link that sets another
/// password is mailed to the account's address; it is good for an hour and once.
#[utoipa::path(
    post, path = "/auth/password/forgot", tag = "accounts", operation_id = "forgot_password", request_body = Forgotten,
    security(()), responses((status = 202, description = "If there is such an account, the link is on its way"), Problem),
)]
async fn forgot(
    State(app): State<AppState>,
    address: Address,
    Json(forgotten): Json<Forgotten>,
) -> Result<StatusCode> {
    app.limits.take_address(Bucket::Link, address.0).await?;
    let answer_at = Instant::now() + FORGOT_TAKES;
    let login = Login::find(&mut *app.db.conn().await?, &forgotten.email).await?;
    if let Some(login) = login.filter(|login| login.is_active) {
        let mut tx = app.db.begin().await?;
        let mailed = mail_link(&mut tx, login.user_id, TokenPurpose::ResetPassword, |token_id| {
            Letter::ResetPassword { token_id }
        });
        let mailed = mailed.await;
        tx.finish(mailed).await?;
    }
    metrics::auth_event("forgot_password", "ok");
    sleep_until(answer_at).await;
    Ok(StatusCode::ACCEPTED)
}

/// Another password.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// What stands behind `token=` in the link.
    #[garde(length(bytes, max = 200))]
    #[schema(example = "tto_…")]
    token: String,
    /// 12 characters or more, at most 1,024 bytes, and none of those that are tried first.
    #[garde(custom(is_password))]
    #[schema(min_length = 12, max_length = 1024, example = "correct horse battery", format = Password)]
    password: String,
}

/// Set another password
///
/// With the token of the mailed link. All sessions of the account end.
#[utoipa::path(
    post, path = "/auth/password/reset", tag = "accounts", operation_id = "reset_password", request_body = NewPassword,
    security(()), responses((status = 204, description = "It is set"), Problem),
)]
async fn reset(
    State(app): State<AppState>,
    address: Address,
    Json(new): Json<NewPassword>,
) -> Result<StatusCode> {
    app.limits.take_address(Bucket::Link, address.0).await?;
    set_password(&app, &new.token, new.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the password of whom a token was mailed to. Whoever could read the mail has shown that the address is theirs.
async fn set_password(app: &AppState, token: &str, password: String) -> Result<()> {
    const PURPOSES: [TokenPurpose; 2] = [TokenPurpose::ResetPassword, TokenPurpose::SetPassword];

    let link = read(app, token, &PURPOSES)?;
    let hash = hashed(app, password).await?;
    let mut tx = app.db.begin().await?;
    let set = async {
        let user = link.redeem(&mut tx).await?.user_id;
        User::set_password(&mut tx, user, &hash).await?;
        User::verify_email(&mut tx, user).await?;
        one_time::end(&mut tx, user, &PURPOSES).await?;
        one_time::end(&mut tx, user, &[TokenPurpose::ChangeEmail]).await?;
        audit::record(&mut tx, Act::own(user, "account.password_reset")).await?;
        Session::end(&mut tx, user, Sessions::All).await
    };
    let set: Result<_, Error> = set.await;
    let ended = tx.finish(set).await?;
    app.tokens.end(&ended);
    metrics::auth_event("reset_password", "ok");
    Ok(())
}
