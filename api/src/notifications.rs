//! `/me/notifications`: what a person wants to be told by mail, and when. `/me/digest`: their daily summary.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use common::{
    access::Versioned as _,
    mail::{self, links::Links},
    notifications::{Notifications, Preferences, PreferencesPatch},
    summaries::{Content, Run},
    suppressions::MailKind,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    auth::Auth,
    error::{ApiError, Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json},
    idempotency::Idempotency,
    limits::Bucket,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(get, update))
        .routes(routes!(pause))
        .routes(routes!(preview))
        .routes(routes!(send))
        .routes(routes!(runs))
}

fn answer(notifications: Notifications) -> Response {
    ([(header::ETAG, notifications.preferences.etag())], axum::Json(notifications)).into_response()
}

/// Read my notification preferences
///
/// With what keeps my address from getting mail, if anything does.
#[utoipa::path(
    get, path = "/me/notifications", tag = "notifications", operation_id = "get_notifications", params(IfNoneMatch),
    responses(
        (status = 200, description = "The preferences", body = Notifications,
            headers(("ETag" = String, description = "Their version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(State(app): State<AppState>, auth: Auth, if_none_match: IfNoneMatch) -> Result<Response> {
    let notifications = Preferences::find(&mut *app.db.conn().await?, auth.viewer).await?;
    let etag = notifications.preferences.etag();
    if if_none_match.matches(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(answer(notifications))
}

/// Change my notification preferences
///
/// A JSON merge patch (RFC 7396). The next summary is planned anew: there is at most one for each of my local days, and
/// if its time has just been moved into the past, today's is sent at once.
#[utoipa::path(
    patch, path = "/me/notifications", tag = "notifications", operation_id = "update_notifications", params(IfMatch),
    request_body(content(
        (PreferencesPatch = "application/json"),
        (PreferencesPatch = "application/merge-patch+json"),
    )),
    responses(
        (status = 200, description = "The preferences as they are now", body = Notifications,
            headers(("ETag" = String, description = "Their version"))),
        Problem,
    ),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    if_match: IfMatch,
    Json(patch): Json<PreferencesPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched =
        Preferences::patch(&mut tx, auth.viewer, &if_match.expected(Preferences::TAG), &patch).await;
    Ok(answer(tx.finish(patched).await?))
}

/// How long to be left alone.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
struct Pause {
    /// An instant ahead.
    #[schema(example = "2030-01-04T08:00:00Z")]
    until: DateTime<Utc>,
}

/// Pause my mails
///
/// Reminders and summaries that fall due until then are skipped, and their history says so. Mail about the account
/// itself is not paused. `PATCH /me/notifications` with `paused_until: null` ends a pause.
#[utoipa::path(
    post, path = "/me/notifications/pause", tag = "notifications", operation_id = "pause_notifications",
    params(Idempotency), request_body = Pause,
    responses((status = 200, description = "The preferences as they are now", body = Notifications), Problem),
)]
async fn pause(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(Pause { until }): Json<Pause>,
) -> Result<Response> {
    idempotency.once(&app.db, async |tx| Ok(answer(Preferences::pause(tx, auth.viewer, until).await?))).await
}

/// A summary as it would be sent now.
#[derive(Debug, Serialize, ToSchema)]
struct Preview {
    /// The subject of the mail.
    #[schema(example = "Tue 1 Dec 2026: 3 overdue, 2 due today")]
    subject: String,
    /// Its plain part.
    text: String,
    /// Whether there is nothing to say: then no mail comes, unless `digest_skip_empty` is off.
    empty: bool,
    /// What it is made of.
    content: Content,
}

/// Preview my daily summary
///
/// As it would be sent now, made in the same way; nothing is sent. With `Accept: text/html` the HTML part of the mail.
#[utoipa::path(
    post, path = "/me/digest/preview", tag = "notifications", operation_id = "preview_digest",
    responses(
        (status = 200, description = "The summary", content((Preview = "application/json"), (String = "text/html"))),
        Problem,
    ),
)]
async fn preview(State(app): State<AppState>, auth: Auth, headers: HeaderMap) -> Result<Response> {
    let content =
        Content::preview(&app.db, auth.viewer, app.settings.archiving.archive_done_after_days.into()).await?;
    let url = &app.settings.public.public_url;
    let stop = Links::new(&app.secrets).unsubscribe(url, auth.viewer.user_id, MailKind::DailySummary);
    let mail = mail::daily_summary(&content, content.at, url, &stop)
        .map_err(|error| ApiError::from(common::error::Error::Internal(error.into())))?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim().starts_with("text/html")) {
        return Ok(Html(mail.html).into_response());
    }
    let empty = content.is_empty();
    Ok(axum::Json(Preview { subject: mail.subject, text: mail.text, empty, content }).into_response())
}

/// Send me a summary now
///
/// Beside that of the day, also if it is empty. At most five an hour.
#[utoipa::path(
    post, path = "/me/digest/send", tag = "notifications", operation_id = "send_digest", params(Idempotency),
    responses(
        (status = 202, description = "It is on its way; `GET /me/digest/runs` says what becomes of it", body = Run),
        Problem,
    ),
)]
async fn send(State(app): State<AppState>, auth: Auth, idempotency: Idempotency) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            // A replay costs nothing.
            app.limits.take(Bucket::Digest, &auth.viewer.user_id.to_string()).await?;
            let run = Run::request(tx, auth.viewer).await?;
            let location = [(header::LOCATION, "/api/v1/me/digest/runs")];
            Ok((StatusCode::ACCEPTED, location, axum::Json(run)).into_response())
        })
        .await
}

/// My latest summaries.
#[derive(Debug, Serialize, ToSchema)]
struct Runs {
    /// The newest first, at most 100.
    data: Vec<Run>,
}

/// Why did my summary come, or why not?
///
/// The latest runs, the newest first: for which day, in which state, and for which reason.
#[utoipa::path(
    get, path = "/me/digest/runs", tag = "notifications", operation_id = "list_digest_runs",
    responses((status = 200, description = "The latest runs", body = Runs), Problem),
)]
async fn runs(State(app): State<AppState>, auth: Auth) -> Result<axum::Json<Runs>> {
    Ok(axum::Json(Runs { data: Run::list(&mut *app.db.conn().await?, auth.viewer).await? }))
}
