//! `/tasks/{id}/comments` and `/comments/{id}`: what people say about a task.

use axum::{extract::State, http::StatusCode, response::Response};
use common::{
    access::Versioned as _,
    comments::{Comment, CommentBody},
    ids::{CommentId, TaskId},
    page::{Page, Paging},
};

use crate::{
    answer::{Paged, created, tagged, unless_known},
    auth::Auth,
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, Path, Query},
    idempotency::Idempotency,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(create, list)).routes(routes!(get, update, delete))
}

/// Comment on a task
#[utoipa::path(
    post, path = "/tasks/{id}/comments", tag = "comments", operation_id = "create_comment",
    params(("id" = TaskId, Path), Idempotency), request_body = CommentBody,
    responses(
        (status = 201, description = "Created", body = Comment, headers(
            ("Location" = String, description = "Where the comment is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    idempotency: Idempotency,
    Json(new): Json<CommentBody>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let comment = Comment::create(tx, auth.viewer, id, &new).await?;
            Ok(created(format!("comments/{}", comment.id), comment))
        })
        .await
}

/// List a task's comments
///
/// The oldest first. What was deleted leaves an empty place.
#[utoipa::path(
    get, path = "/tasks/{id}/comments", tag = "comments", operation_id = "list_comments",
    params(("id" = TaskId, Path), Paging),
    responses((status = 200, description = "A page of comments", body = Page<Comment>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    Query(paging): Query<Paging>,
) -> Result<Paged<Page<Comment>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Comment::list(&mut conn, auth.viewer, id, &paging, &app.cursor_keys).await?))
}

/// Read a comment
#[utoipa::path(
    get, path = "/comments/{id}", tag = "comments", operation_id = "get_comment",
    params(("id" = CommentId, Path), IfNoneMatch),
    responses(
        (status = 200, description = "The comment", body = Comment, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommentId>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let comment = Comment::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(unless_known(&if_none_match, comment))
}

/// Change a comment
///
/// Its author may, for 15 minutes.
#[utoipa::path(
    patch, path = "/comments/{id}", tag = "comments", operation_id = "update_comment",
    params(("id" = CommentId, Path), IfMatch),
    request_body(content((CommentBody = "application/json"), (CommentBody = "application/merge-patch+json"))),
    responses((status = 200, description = "The comment as it is now", body = Comment), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommentId>,
    if_match: IfMatch,
    Json(new): Json<CommentBody>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let changed = Comment::change(&mut tx, auth.viewer, id, &if_match.expected(Comment::TAG), &new).await;
    Ok(tagged(tx.finish(changed).await?))
}

/// Delete a comment
///
/// What it said is gone; that there was one stays in the list. Its author may, whose task it is, and the owners of the
/// task's project.
#[utoipa::path(
    delete, path = "/comments/{id}", tag = "comments", operation_id = "delete_comment",
    params(("id" = CommentId, Path), IfMatch),
    responses((status = 204, description = "It is deleted"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<CommentId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let deleted = Comment::delete(&mut tx, auth.viewer, id, &if_match.expected(Comment::TAG)).await;
    tx.finish(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}
