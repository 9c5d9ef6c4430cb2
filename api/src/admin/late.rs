//! `/admin/reminders/late` and `/admin/mail/outbox`: what is due and unsent.

use axum::extract::State;
use common::{
    jobs::MAIL,
    ledger::JobSummary,
    page::{Page, Paging},
    reminders::LateFire,
};

use crate::{
    answer::Paged,
    auth::Admin,
    error::{Problem, Result},
    extract::Query,
    routes::{Routes, routes},
    state::AppState,
};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(reminders)).routes(routes!(mail))
}

/// List late reminders
///
/// Deliveries whose time has come and that are neither sent nor settled, the latest first. A few that are seconds late
/// are on their way; a growing list is a fault.
#[utoipa::path(
    get, path = "/admin/reminders/late", tag = "operations", operation_id = "list_late_reminders", params(Paging),
    responses((status = 200, description = "A page", body = Page<LateFire>), Problem),
)]
async fn reminders(
    State(app): State<AppState>,
    _: Admin,
    Query(paging): Query<Paging>,
) -> Result<Paged<Page<LateFire>>> {
    let now = app.db.clock().now();
    Ok(Paged(LateFire::list(&mut *app.db.conn().await?, now, &paging, &app.cursor_keys).await?))
}

/// List unsent mail
///
/// The unfinished jobs of the mail queue, what is due first: what waits, is just being sent, or will be tried again, and
/// the newest error of each.
#[utoipa::path(
    get, path = "/admin/mail/outbox", tag = "operations", operation_id = "list_outbox", params(Paging),
    responses((status = 200, description = "A page", body = Page<JobSummary>), Problem),
)]
async fn mail(
    State(app): State<AppState>,
    _: Admin,
    Query(paging): Query<Paging>,
) -> Result<Paged<Page<JobSummary>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(JobSummary::unfinished(&mut conn, MAIL, &paging, &app.cursor_keys).await?))
}
