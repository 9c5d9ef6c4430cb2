//! `/admin/jobs`: the ledger.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _, response::Response};
use common::{
    audit::{self, Act},
    ids::JobId,
    ledger::{self, JobDetails, JobFilter, JobState, JobSummary, Retried},
    page::Page,
};
use garde::Validate;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use crate::{
    answer::Paged,
    auth::Admin,
    error::{Problem, Result},
    extract::{Path, Query},
    routes::{Routes, routes},
    state::AppState,
};

pub(super) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list))
        .routes(routes!(retry_all))
        .routes(routes!(get))
        .routes(routes!(retry))
        .routes(routes!(cancel))
}

/// List jobs
///
/// Newest first. A page looks through 50,000 jobs at most, so it may be short, or empty, and yet have a next one; what is
/// ready or running is found however old it is.
#[utoipa::path(
    get, path = "/admin/jobs", tag = "operations", operation_id = "list_jobs", params(JobFilter),
    responses((status = 200, description = "A page", body = Page<JobSummary>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    _: Admin,
    Query(filter): Query<JobFilter>,
) -> Result<Paged<Page<JobSummary>>> {
    let page = JobSummary::list(&mut *app.db.conn().await?, &filter, &app.cursor_keys).await?;
    Ok(Paged(page))
}

/// Read a job
///
/// Everything that is known of it: what it is about, its errors, who did what with it, and where it came from. Jobs are
/// deleted some days after their end.
#[utoipa::path(
    get, path = "/admin/jobs/{id}", tag = "operations", operation_id = "get_job", params(("id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobDetails), Problem),
)]
async fn get(State(app): State<AppState>, _: Admin, Path(id): Path<JobId>) -> Result<axum::Json<JobDetails>> {
    Ok(axum::Json(JobDetails::find(&mut *app.db.conn().await?, id).await?))
}

/// Try a job again
///
/// A dead or cancelled job is ready again, due now, with all its attempts. In any other state it is a conflict. What the
/// end of the job has settled stays settled: a reminder that is `dead` is not sent by it.
#[utoipa::path(
    post, path = "/admin/jobs/{id}/retry", tag = "operations", operation_id = "retry_job", params(("id" = JobId, Path)),
    responses((status = 202, description = "It is ready", body = JobDetails), Problem),
)]
async fn retry(State(app): State<AppState>, admin: Admin, Path(id): Path<JobId>) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let retried = ledger::retry(&mut tx, id, &admin.address).await;
    let act = Act::new(admin.user_id, "job.retried", "job", id.uuid());
    let retried = audit::after(&mut tx, retried, |_| act).await;
    let job = tx.finish(retried).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(job)).into_response())
}

/// Cancel a job
///
/// One that waits does not start any more. One that runs is told to stop: its worker does so within seconds, and what
/// it reports until then is refused. What it has done by then stays done. A finished job is a conflict.
#[utoipa::path(
    post, path = "/admin/jobs/{id}/cancel", tag = "operations", operation_id = "cancel_job", params(("id" = JobId, Path)),
    responses((status = 202, description = "It is cancelled", body = JobDetails), Problem),
)]
async fn cancel(State(app): State<AppState>, admin: Admin, Path(id): Path<JobId>) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let cancelled = ledger::cancel(&mut tx, id, &admin.address).await;
    let act = Act::new(admin.user_id, "job.cancelled", "job", id.uuid());
    let cancelled = audit::after(&mut tx, cancelled, |_| act).await;
    let job = tx.finish(cancelled).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(job)).into_response())
}

/// Which jobs are tried again.
#[derive(Debug, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
struct Which {
    /// `dead` or `cancelled`.
    state: JobState,
    /// Of this kind.
    #[param(example = "send_reminder")]
    kind: Option<String>,
    /// In this queue.
    #[param(example = "mail")]
    queue: Option<String>,
    /// Only jobs that are older than this one: `next` of the answer before.
    before: Option<JobId>,
}

/// Try jobs again
///
/// Up to 500 at once, the newest first, among the next 50,000 of the ledger. Repeat it with `before` until `next` is null.
#[utoipa::path(
    post, path = "/admin/jobs/retry", tag = "operations", operation_id = "retry_jobs", params(Which),
    responses((status = 202, description = "They are ready", body = Retried), Problem),
)]
async fn retry_all(
    State(app): State<AppState>,
    admin: Admin,
    Query(which): Query<Which>,
) -> Result<Response> {
    let Which { state, kind, queue, before } = which;
    let filter = JobFilter { state: Some(state), kind, queue, ..JobFilter::default() };
    let mut tx = app.db.begin().await?;
    let retried = ledger::retry_all(&mut tx, &filter, before, &admin.address).await;
    let act = Act::new(admin.user_id, "jobs.retried", "job", None).details(json!({"filter": filter}));
    let retried = audit::after(&mut tx, retried, |_| act).await;
    let retried = tx.finish(retried).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(retried)).into_response())
}
