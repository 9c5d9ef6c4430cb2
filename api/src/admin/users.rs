//! `/admin/users`: accounts, from outside.

use axum::{extract::State, response::Response};
use common::{
    access::Versioned as _,
    audit::{self, Act},
    ids::UserId,
    page::Page,
    users::{Account, AccountFilter, AccountPatch},
};
use serde_json::json;

use crate::{
    answer::{Paged, tagged},
    auth::Admin,
    error::{Problem, Result},
    extract::{IfMatch, Json, Path, Query},
    routes::{Routes, routes},
    state::AppState,
};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list)).routes(routes!(get, update))
}

/// List accounts
///
/// The oldest first.
#[utoipa::path(
    get, path = "/admin/users", tag = "operations", operation_id = "list_users", params(AccountFilter),
    responses((status = 200, description = "A page", body = Page<Account>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    _: Admin,
    Query(filter): Query<AccountFilter>,
) -> Result<Paged<Page<Account>>> {
    Ok(Paged(Account::list(&mut *app.db.conn().await?, &filter, &app.cursor_keys).await?))
}

/// Read an account
#[utoipa::path(
    get, path = "/admin/users/{id}", tag = "operations", operation_id = "get_user", params(("id" = UserId, Path)),
    responses(
        (status = 200, description = "The account", body = Account, headers(("ETag" = String, description = "Its version"))),
        Problem,
    ),
)]
async fn get(State(app): State<AppState>, _: Admin, Path(id): Path<UserId>) -> Result<Response> {
    Ok(tagged(Account::find(&mut *app.db.conn().await?, id).await?))
}

/// Change an account
///
/// Disable it, or change its role: a JSON merge patch (RFC 7396). Who is disabled is logged out everywhere at once. The
/// last active administrator can be neither disabled nor made an ordinary user.
#[utoipa::path(
    patch, path = "/admin/users/{id}", tag = "operations", operation_id = "update_user",
    params(("id" = UserId, Path), IfMatch),
    request_body(content((AccountPatch = "application/json"), (AccountPatch = "application/merge-patch+json"))),
    responses(
        (status = 200, description = "The account as it is now", body = Account, headers(("ETag" = String, description = "Its version"))),
        Problem,
    ),
)]
async fn update(
    State(app): State<AppState>,
    admin: Admin,
    Path(id): Path<UserId>,
    if_match: IfMatch,
    Json(patch): Json<AccountPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let changed =
        Account::change(&mut tx, id, &if_match.expected(Account::TAG), &patch, &admin.address).await;
    let act = Act::new(admin.user_id, "user.updated", "user", id.uuid());
    let act = act.details(json!({"role": patch.role, "is_active": patch.is_active}));
    let changed = audit::after(&mut tx, changed, |_| act).await;
    let (account, ended) = tx.finish(changed).await?;
    app.tokens.end(&ended);
    Ok(tagged(account))
}
