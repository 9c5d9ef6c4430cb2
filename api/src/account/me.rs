//! `/me`: what a person sees and changes of their own account. What guards it takes the present password.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use common::{
    access::Versioned as _,
    audit::{self, Act},
    credentials::{Login, Session, Sessions},
    db::Tx,
    error::{Code, Error},
    ids::UserId,
    jobs::{Job as _, Letter, SendMail},
    metrics,
    one_time::{self, OneTimeToken, TokenPurpose},
    users::{User, UserPatch, is_address, is_password},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{tagged, unless_known},
    auth::{Auth, fits, hashed},
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json},
    limits::Bucket,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(super) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(me, update_me, delete_me))
        .routes(routes!(restore))
        .routes(routes!(change_password))
        .routes(routes!(change_email))
}

/// Read my account
#[utoipa::path(
    get, path = "/me", tag = "accounts", operation_id = "get_me", params(IfNoneMatch),
    responses(
        (status = 200, description = "The account", body = User, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn me(State(app): State<AppState>, auth: Auth, if_none_match: IfNoneMatch) -> Result<Response> {
    let user = User::find(&mut *app.db.conn().await?, auth.viewer).await?;
    Ok(unless_known(&if_none_match, user))
}

/// The account after a change.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedUser {
    #[serde(flatten)]
    user: User,
    /// How many planned reminders moved with the person's clock.
    moved_reminders: usize,
}

/// Change my account
///
/// A JSON merge patch (RFC 7396). Reminders that hang on my clock move with my time zone and the start of my day;
/// nothing that was sent is sent again.
#[utoipa::path(
    patch, path = "/me", tag = "accounts", operation_id = "update_me", params(IfMatch),
    request_body(content((UserPatch = "application/json"), (UserPatch = "application/merge-patch+json"))),
    responses(
        (status = 200, description = "The account as it is now", body = ChangedUser, headers(("ETag" = String, description = "Its version"))),
        Problem,
    ),
)]
async fn update_me(
    State(app): State<AppState>,
    auth: Auth,
    if_match: IfMatch,
    Json(patch): Json<UserPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = User::patch(&mut tx, auth.viewer, &if_match.expected(User::TAG), &patch).await;
    let (user, moved_reminders) = tx.finish(patched).await?;
    Ok(([(header::ETAG, user.etag())], axum::Json(ChangedUser { user, moved_reminders })).into_response())
}

/// When an account will be deleted.
#[derive(Debug, Serialize, ToSchema)]
struct Deletion {
    /// Until then it can be taken back.
    deletes_at: DateTime<Utc>,
}

/// Delete my account
///
/// With everything in it, in seven days. Until then it works as before, and logging in anew, or
/// `POST /me/restore`, takes the deletion back. The last active administrator cannot be deleted.
#[utoipa::path(
    delete, path = "/me", tag = "accounts", operation_id = "delete_me",
    responses((status = 202, description = "It will be deleted", body = Deletion), Problem),
)]
async fn delete_me(State(app): State<AppState>, auth: Auth) -> Result<Response> {
    auth.session()?;
    let mut tx = app.db.begin().await?;
    let requested = User::request_deletion(&mut tx, auth.viewer).await;
    let act = Act::own(auth.viewer.user_id, "account.deletion_requested");
    let requested = audit::after(&mut tx, requested, |_| act).await;
    let deletes_at = tx.finish(requested).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(Deletion { deletes_at })).into_response())
}

/// Keep my account
///
/// Takes a deletion back that was asked for. Nothing happens if none was.
#[utoipa::path(
    post, path = "/me/restore", tag = "accounts", operation_id = "restore_me",
    responses((status = 200, description = "The account, which stays", body = User), Problem),
)]
async fn restore(State(app): State<AppState>, auth: Auth) -> Result<Response> {
    auth.session()?;
    let mut tx = app.db.begin().await?;
    let kept = async {
        User::keep(&mut tx, auth.viewer.user_id).await?;
        audit::record(&mut tx, Act::own(auth.viewer.user_id, "account.deletion_taken_back")).await?;
        User::find(tx.conn(), auth.viewer).await
    };
    let kept = kept.await;
    Ok(tagged(tx.finish(kept).await?))
}

/// Another password, and the present one.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    /// The present one.
    #[garde(length(bytes, max = 1024))]
    #[schema(example = "correct horse battery", format = Password)]
    current_password: String,
    /// 12 characters or more, at most 1,024 bytes, and none of those that are tried first.
    #[garde(custom(is_password))]
    #[schema(min_length = 12, max_length = 1024, example = "another horse battery", format = Password)]
    new_password: String,
}

/// Change my password
///
/// All other sessions end, and so do links that were mailed; this session and API tokens stay.
#[utoipa::path(
    put, path = "/me/password", tag = "accounts", operation_id = "change_password", request_body = PasswordChange,
    responses((status = 204, description = "Changed"), Problem),
)]
async fn change_password(
    State(app): State<AppState>,
    auth: Auth,
    Json(change): Json<PasswordChange>,
) -> Result<StatusCode> {
    let (user, session) = (auth.viewer.user_id, auth.session()?);
    let login = present(&app, user, change.current_password).await?;
    let hash = hashed(&app, change.new_password).await?;
    let mut tx = app.db.begin().await?;
    let changed = async {
        still(&mut tx, &login).await?;
        User::set_password(&mut tx, user, &hash).await?;
        audit::record(&mut tx, Act::own(user, "account.password_changed")).await?;
        one_time::end(&mut tx, user, &[TokenPurpose::ResetPassword, TokenPurpose::ChangeEmail]).await?;
        Session::end(&mut tx, user, Sessions::Others(session)).await
    };
    let changed: Result<_, Error> = changed.await;
    let ended = tx.finish(changed).await?;
    app.tokens.end(&ended);
    metrics::auth_event("change_password", "ok");
    Ok(StatusCode::NO_CONTENT)
}

/// Another address, and the password.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmailChange {
    /// Where mail is to go.
    #[garde(custom(is_address))]
    #[schema(example = "ann@example.org")]
    new_email: String,
    /// The present password.
    #[garde(length(bytes, max = 1024))]
    #[schema(example = "correct horse battery", format = Password)]
    current_password: String,
}

/// Change my address
///
/// A link is mailed to the new address, good for 24 hours and once, and a notice to the present one. Nothing changes
/// before the link is followed. The answer is the same for an address that has an account already; five an hour are
/// mailed at most.
#[utoipa::path(
    put, path = "/me/email", tag = "accounts", operation_id = "change_email", request_body = EmailChange,
    responses((status = 202, description = "The mails are on their way"), Problem),
)]
async fn change_email(
    State(app): State<AppState>,
    auth: Auth,
    Json(change): Json<EmailChange>,
) -> Result<StatusCode> {
    auth.session()?;
    let user = auth.viewer.user_id;
    let login = present(&app, user, change.current_password).await?;
    let mut tx = app.db.begin().await?;
    let asked = async {
        still(&mut tx, &login).await?;
        if User::find(tx.conn(), auth.viewer).await?.email.eq_ignore_ascii_case(&change.new_email) {
            let detail = "This is your address already.";
            return Err(Error::invalid("/new_email", Code::Duplicate, detail));
        }
        if let Some(token_id) = OneTimeToken::for_address(&mut tx, user, &change.new_email).await? {
            for letter in [Letter::ChangeEmail { token_id }, Letter::EmailChangeRequested { token_id }] {
                SendMail { user_id: user, letter }.enqueue(&mut tx).await?;
            }
        }
        Ok(())
    };
    let asked = asked.await;
    tx.finish(asked).await?;
    metrics::auth_event("change_email", "ok");
    Ok(StatusCode::ACCEPTED)
}

/// What the person logs in with, after they have named their present password.
async fn present(app: &AppState, user: UserId, password: String) -> Result<Login> {
    app.limits.take(Bucket::Password, &user.to_string()).await?;
    let login = Login::of_user(&mut *app.db.conn().await?, user).await?;
    let good = fits(app, login.as_ref(), password).await?;
    login.filter(|_| good).ok_or_else(|| {
        metrics::auth_event("present_password", "refused");
        Error::Forbidden(Code::WrongPassword).into()
    })
}

/// Refuses if the password that was named is not the present one any more.
async fn still(tx: &mut Tx, login: &Login) -> Result<(), Error> {
    if login.still_holds(tx).await? { Ok(()) } else { Err(Error::Forbidden(Code::WrongPassword)) }
}
