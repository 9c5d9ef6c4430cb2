//! `/tags`: words on tasks.

use axum::{extract::State, http::StatusCode, response::Response};
use common::{
    access::Versioned as _,
    ids::TagId,
    page::Page,
    tags::{Merge, NewTag, Tag, TagFilter, TagPatch},
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
    Routes::new().routes(routes!(create, list)).routes(routes!(get, update, delete)).routes(routes!(merge))
}

/// Create a tag
///
/// Not needed before it is used: a task that names a new tag makes it.
#[utoipa::path(
    post, path = "/tags", tag = "tags", operation_id = "create_tag", params(Idempotency), request_body = NewTag,
    responses(
        (status = 201, description = "Created", body = Tag, headers(
            ("Location" = String, description = "Where the tag is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewTag>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let tag = Tag::create(tx, auth.viewer, &new).await?;
            Ok(created(format!("tags/{}", tag.id), tag))
        })
        .await
}

/// List tags
///
/// One's own and those of one's projects, by name.
#[utoipa::path(
    get, path = "/tags", tag = "tags", operation_id = "list_tags", params(TagFilter),
    responses((status = 200, description = "A page of tags", body = Page<Tag>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Query(filter): Query<TagFilter>,
) -> Result<Paged<Page<Tag>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Tag::list(&mut conn, auth.viewer, &filter, &app.cursor_keys).await?))
}

/// Read a tag
#[utoipa::path(
    get, path = "/tags/{id}", tag = "tags", operation_id = "get_tag", params(("id" = TagId, Path), IfNoneMatch),
    responses(
        (status = 200, description = "The tag", body = Tag, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TagId>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let tag = Tag::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(unless_known(&if_none_match, tag))
}

/// Rename a tag
///
/// On all tasks that have it.
#[utoipa::path(
    patch, path = "/tags/{id}", tag = "tags", operation_id = "update_tag", params(("id" = TagId, Path), IfMatch),
    request_body(content((TagPatch = "application/json"), (TagPatch = "application/merge-patch+json"))),
    responses((status = 200, description = "The tag as it is now", body = Tag), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TagId>,
    if_match: IfMatch,
    Json(patch): Json<TagPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = Tag::patch(&mut tx, auth.viewer, id, &if_match.expected(Tag::TAG), &patch).await;
    Ok(tagged(tx.finish(patched).await?))
}

/// Delete a tag
///
/// It is taken off all tasks that have it.
#[utoipa::path(
    delete, path = "/tags/{id}", tag = "tags", operation_id = "delete_tag", params(("id" = TagId, Path), IfMatch),
    responses((status = 204, description = "It is gone"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TagId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let deleted = Tag::delete(&mut tx, auth.viewer, id, &if_match.expected(Tag::TAG)).await;
    tx.finish(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Merge a tag into another
///
/// Tasks that have it get the other one, and it is deleted.
#[utoipa::path(
    post, path = "/tags/{id}/merge", tag = "tags", operation_id = "merge_tag",
    params(("id" = TagId, Path), IfMatch, Idempotency), request_body = Merge,
    responses((status = 200, description = "The tag that stays", body = Tag), Problem),
)]
async fn merge(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TagId>,
    if_match: IfMatch,
    idempotency: Idempotency,
    Json(merge): Json<Merge>,
) -> Result<Response> {
    let expected = if_match.expected(Tag::TAG);
    idempotency
        .once(&app.db, async |tx| Ok(tagged(Tag::merge(tx, auth.viewer, id, &expected, merge.into).await?)))
        .await
}
