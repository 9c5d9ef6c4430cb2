//! Links that are mailed to people: an address confirmed, a password set. A link is the authority; who follows it need
//! not be logged in.

pub(crate) mod pages;

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use common::{
    credentials::{Login, Session},
    error::Error,
    ids::UserId,
    jobs::{Job as _, Letter, SendMail},
    metrics,
    one_time::{self, Link, OneTimeToken, TokenPurpose},
    secrets::Purpose,
    users::{User, is_password},
};
use garde::Validate;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::{self, Address, Auth},
    error::{Problem, Result},
    extract::Json,
    limits::Bucket,
    state::AppState,
};

/// How long it takes to answer somebody who forgot a password, whether there is such an account or not: longer than
/// either takes by itself.
const FORGOT_TAKES: Duration = Duration::from_millis(250);

/// The routes of this resource.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(verify_email))
        .routes(routes!(resend))
        .routes(routes!(forgot))
        .routes(routes!(reset))
}

/// The token of a link that was mailed.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    /// What stands behind `token=` in the link.
    #[garde(length(bytes, max = 200))]
    #[schema(example = "tto_…")]
    token: String,
}

/// Confirm an address
///
/// With the token of the mailed link, which is good for 24 hours and once.
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

/// Confirms the address that a token was mailed to.
async fn confirm(app: &AppState, token: &str) -> Result<()> {
    let link = read(app, token, &[TokenPurpose::VerifyEmail])?;
    let mut tx = app.db.begin().await?;
    let confirmed = async {
        let redeemed = link.redeem(&mut tx).await?;
        User::verify_email(&mut tx, redeemed.user_id).await?;
        one_time::end(&mut tx, redeemed.user_id, &[TokenPurpose::VerifyEmail]).await
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
    /// 12 characters or more; at most 1,024 bytes.
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
    let hash = auth::hashed(app, password).await?;
    let mut tx = app.db.begin().await?;
    let set = async {
        let user = link.redeem(&mut tx).await?.user_id;
        User::set_password(&mut tx, user, &hash).await?;
        User::verify_email(&mut tx, user).await?;
        one_time::end(&mut tx, user, &PURPOSES).await?;
        Session::end(&mut tx, user, None).await
    };
    let set: Result<_, Error> = set.await;
    let ended = tx.finish(set).await?;
    app.tokens.end(&ended);
    metrics::auth_event("reset_password", "ok");
    Ok(())
}
