//! `/admin/suppressions`: addresses that get no mail, and taking that back.

use axum::{extract::State, http::StatusCode};
use common::{
    audit::{self, Act},
    ids::SuppressionId,
    page::Page,
    suppressions::{SuppressionEntry, SuppressionFilter},
};

use crate::{
    answer::Paged,
    auth::Admin,
    error::{Problem, Result},
    extract::{Path, Query},
    routes::{Routes, routes},
    state::AppState,
};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list)).routes(routes!(delete))
}

/// List suppressed addresses
///
/// The newest first. Addresses are kept as hashes only; `address` finds the entries of one.
#[utoipa::path(
    get, path = "/admin/suppressions", tag = "operations", operation_id = "list_suppressions", params(SuppressionFilter),
    responses((status = 200, description = "A page of them", body = Page<SuppressionEntry>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    _: Admin,
    Query(filter): Query<SuppressionFilter>,
) -> Result<Paged<Page<SuppressionEntry>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(SuppressionEntry::list(&mut conn, &filter, &app.cursor_keys).await?))
}

/// Send mail again
///
/// Takes a suppression back; bounces of the address are counted from the beginning.
#[utoipa::path(
    delete, path = "/admin/suppressions/{id}", tag = "operations", operation_id = "delete_suppression",
    params(("id" = SuppressionId, Path)),
    responses((status = 204, description = "It is gone"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<SuppressionId>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let removed = SuppressionEntry::remove(&mut tx, id).await;
    let act = Act::new(admin.user_id, "suppression.removed", "suppression", id.uuid());
    let removed = audit::after(&mut tx, removed, |()| act).await;
    tx.finish(removed).await?;
    Ok(StatusCode::NO_CONTENT)
}
