//! `/tasks`: what a person has to do.

mod batch;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    access::Versioned as _,
    ids::TaskId,
    reminders::Warning,
    tasks::{
        Changed, Move, NewTask, ShownTask, Task, TaskContent, TaskFilter, TaskPage, TaskPatch, TaskView,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answer::{Paged, unless_tagged},
    auth::Auth,
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, Path, Query},
    idempotency::Idempotency,
    middleware::did,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, replace, delete))
        .routes(routes!(complete))
        .routes(routes!(reopen))
        .routes(routes!(archive))
        .routes(routes!(unarchive))
        .routes(routes!(restore))
        .routes(routes!(relocate))
        .merge(batch::routes())
}

/// A task after a change.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedTask {
    #[serde(flatten)]
    task: Task,
    /// What the person should know, such as a reminder whose time has passed; absent if there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

/// What completing a task came to.
#[derive(Debug, Serialize, ToSchema)]
struct Completed {
    /// The task as it is now.
    task: Task,
}

fn changed(operation: &'static str, Changed { task, warnings }: Changed) -> Response {
    let etag = [(header::ETAG, task.etag())];
    (did(operation), etag, axum::Json(ChangedTask { task, warnings })).into_response()
}

/// Create a task
///
/// With its tags and reminders, in one step. A retry with the same `Idempotency-Key` makes no second one.
#[utoipa::path(
    post, path = "/tasks", tag = "tasks", operation_id = "create_task", params(Idempotency),
    request_body = NewTask,
    responses(
        (status = 201, description = "Created", body = ChangedTask, headers(
            ("Location" = String, description = "Where the task is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewTask>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let created = Task::create(tx, auth.viewer, &new).await?;
            let location = format!("/api/v1/tasks/{}", created.task.id);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], changed("create", created))
                .into_response())
        })
        .await
}

/// List tasks
///
/// What is open before what is closed, then by due date, so that what is overdue comes first, then by priority.
#[utoipa::path(
    get, path = "/tasks", tag = "tasks", operation_id = "list_tasks", params(TaskFilter),
    responses((status = 200, description = "A page of tasks", body = TaskPage), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Query(filter): Query<TaskFilter>,
) -> Result<Paged<TaskPage>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Task::list(&mut conn, auth.viewer, app.db.clock().now(), &filter, &app.cursor_keys).await?))
}

/// Read a task
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "tasks", operation_id = "get_task", 
    params(("id" = TaskId, Path), TaskView, IfNoneMatch),
    responses(
        (status = 200, description = "The task", body = ShownTask, headers(
            ("ETag" = Option<String>, description = "Its version; absent with `fields` or `include`"),
        )),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    Query(view): Query<TaskView>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    if view.is_whole() {
        let task = Task::find_json(&app.db, auth.viewer, id).await?;
        let json = [(header::CONTENT_TYPE, "application/json")];
        return Ok(unless_tagged(&if_none_match, task.etag(), (json, task.json)));
    }
    let mut conn = app.db.conn().await?;
    let task = Task::find(&mut conn, auth.viewer, id).await?;
    Ok(axum::Json(view.show(&mut conn, auth.viewer, vec![task]).await?.pop()).into_response())
}

/// Change a task
///
/// A JSON merge patch (RFC 7396): a field that is absent stays, one that is null is cleared. Reminders that are
/// relative to the due date move with it.
#[utoipa::path(
    patch, path = "/tasks/{id}", tag = "tasks", operation_id = "update_task", params(("id" = TaskId, Path), IfMatch),
    request_body(content((TaskPatch = "application/json"), (TaskPatch = "application/merge-patch+json"))),
    responses((status = 200, description = "The task as it is now", body = ChangedTask), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    if_match: IfMatch,
    Json(patch): Json<TaskPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = Task::patch(&mut tx, auth.viewer, id, &if_match.expected(Task::TAG), &patch).await;
    Ok(changed("patch", tx.finish(patched).await?))
}

/// Replace a task
///
/// All that a client may set: what is absent becomes as in a new task. Reminders are each person's own, and stay.
#[utoipa::path(
    put, path = "/tasks/{id}", tag = "tasks", operation_id = "replace_task", params(("id" = TaskId, Path), IfMatch),
    request_body = TaskContent,
    responses((status = 200, description = "The task as it is now", body = ChangedTask), Problem),
)]
async fn replace(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    if_match: IfMatch,
    Json(content): Json<TaskContent>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let replaced = Task::replace(&mut tx, auth.viewer, id, &if_match.expected(Task::TAG), content).await;
    Ok(changed("replace", tx.finish(replaced).await?))
}

/// Delete a task
///
/// It goes to the trash with all that is part of it, where the filter `deleted=true` shows it and from where it can be restored. Deleting it
/// again changes nothing.
#[utoipa::path(
    delete, path = "/tasks/{id}", tag = "tasks", operation_id = "delete_task", params(("id" = TaskId, Path), IfMatch),
    responses((status = 204, description = "It is in the trash"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    if_match: IfMatch,
) -> Result<impl IntoResponse> {
    let mut tx = app.db.begin().await?;
    let deleted = Task::delete(&mut tx, auth.viewer, id, &if_match.expected(Task::TAG)).await;
    tx.finish(deleted).await?;
    Ok((StatusCode::NO_CONTENT, did("delete")))
}

/// Complete a task
///
/// Its open reminders are cancelled. Completing it again changes nothing.
#[utoipa::path(
    post, path = "/tasks/{id}/complete", tag = "tasks", operation_id = "complete_task",
    params(("id" = TaskId, Path), IfMatch, Idempotency),
    responses((status = 200, description = "The task as it is now", body = Completed), Problem),
)]
async fn complete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    if_match: IfMatch,
    idempotency: Idempotency,
) -> Result<Response> {
    let expected = if_match.expected(Task::TAG);
    idempotency
        .once(&app.db, async |tx| {
            let Changed { task, .. } = Task::complete(tx, auth.viewer, id, &expected).await?;
            let etag = [(header::ETAG, task.etag())];
            Ok((did("complete"), etag, axum::Json(Completed { task })).into_response())
        })
        .await
}

/// Move a task
///
/// Into another project or task, with all that is part of it, or to another place in the order that `sort=position`
/// shows.
#[utoipa::path(
    post, path = "/tasks/{id}/move", tag = "tasks", operation_id = "move_task",
    params(("id" = TaskId, Path), IfMatch, Idempotency), request_body = Move,
    responses((status = 200, description = "The task as it is now", body = ChangedTask), Problem),
)]
async fn relocate(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    if_match: IfMatch,
    idempotency: Idempotency,
    Json(wish): Json<Move>,
) -> Result<Response> {
    let expected = if_match.expected(Task::TAG);
    idempotency
        .once(&app.db, async |tx| {
            Ok(changed("move", Task::move_to(tx, auth.viewer, id, &expected, &wish).await?))
        })
        .await
}

/// Declares an action on a task that answers the task: they differ only in what they do.
macro_rules! action {
    ($(#[$doc:meta])* $name:ident, $path:literal, $operation:literal, |$tx:ident, $viewer:ident, $id:ident, $expected:ident| $change:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "tasks", operation_id = $operation,
            params(("id" = TaskId, Path), IfMatch, Idempotency),
            responses((status = 200, description = "The task as it is now", body = ChangedTask), Problem),
        )]
        async fn $name(
            State(app): State<AppState>,
            auth: Auth,
            Path($id): Path<TaskId>,
            if_match: IfMatch,
            idempotency: Idempotency,
        ) -> Result<Response> {
            let ($viewer, $expected) = (auth.viewer, &if_match.expected(Task::TAG));
            idempotency.once(&app.db, async |$tx| Ok(changed(stringify!($name), $change.await?))).await
        }
    };
}

action!(
    /// Reopen a task
    ///
    /// Reminders that lie ahead are planned again; what has passed meanwhile is not sent.
    reopen, "/tasks/{id}/reopen", "reopen_task",
    |tx, viewer, id, expected| Task::reopen(tx, viewer, id, expected)
);
action!(
    /// Archive a task
    ///
    /// It leaves the lists, except with the filter `archived=true`. Its open reminders are cancelled.
    archive, "/tasks/{id}/archive", "archive_task",
    |tx, viewer, id, expected| Task::archive(tx, viewer, id, expected, true)
);
action!(
    /// Take a task out of the archive
    unarchive, "/tasks/{id}/unarchive", "unarchive_task",
    |tx, viewer, id, expected| Task::archive(tx, viewer, id, expected, false)
);
action!(
    /// Restore a task
    ///
    /// From the trash, with what went there with it; or from the archive, if it is not in the trash.
    restore, "/tasks/{id}/restore", "restore_task",
    |tx, viewer, id, expected| Task::restore(tx, viewer, id, expected)
);
