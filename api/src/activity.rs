//! `/tasks/{id}/activity`: who did what with a task.

use axum::extract::State;
use common::{
    audit::AuditEvent,
    ids::TaskId,
    page::{Page, Paging},
    tasks::Task,
};

use crate::{
    answer::Paged,
    auth::Auth,
    error::{Problem, Result},
    extract::{Path, Query},
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(list))
}

/// List what happened to a task
///
/// Who changed what, and when, the newest first, for everybody who may see the task.
#[utoipa::path(
    get, path = "/tasks/{id}/activity", tag = "tasks", operation_id = "list_activity",
    params(("id" = TaskId, Path), Paging),
    responses((status = 200, description = "A page", body = Page<AuditEvent>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    Query(paging): Query<Paging>,
) -> Result<Paged<Page<AuditEvent>>> {
    let mut conn = app.db.conn().await?;
    let task = Task::find(&mut conn, auth.viewer, id).await?;
    Ok(Paged(AuditEvent::of_task(&mut conn, task.id, &paging, &app.cursor_keys).await?))
}
