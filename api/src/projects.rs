//! `/projects`: tasks that belong together, and who works on them.

use axum::{extract::State, http::StatusCode, response::Response};
use common::{
    access::Versioned as _,
    ids::{ProjectId, UserId},
    page::Page,
    projects::{Disposal, Member, Membership, NewProject, Project, ProjectFilter, ProjectPatch},
    tasks::{Task, TaskFilter, TaskPage},
};
use garde::Validate;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    answer::{All, Paged, created, tagged, unless_known},
    auth::Auth,
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, Path, Query},
    idempotency::Idempotency,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(archive))
        .routes(routes!(unarchive))
        .routes(routes!(tasks))
        .routes(routes!(members))
        .routes(routes!(member, put_member, remove_member))
}

/// Create a project
///
/// It belongs to the one who makes it. In a team one has to be an editor.
#[utoipa::path(
    post, path = "/projects", tag = "projects", operation_id = "create_project", params(Idempotency),
    request_body = NewProject,
    responses(
        (status = 201, description = "Created", body = Project, headers(
            ("Location" = String, description = "Where the project is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewProject>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let project = Project::create(tx, auth.viewer, &new).await?;
            Ok(created(format!("projects/{}", project.id), project))
        })
        .await
}

/// List projects
///
/// Those in which one has a role, by oneself or by a team; the oldest first.
#[utoipa::path(
    get, path = "/projects", tag = "projects", operation_id = "list_projects", params(ProjectFilter),
    responses((status = 200, description = "A page of projects", body = Page<Project>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Query(filter): Query<ProjectFilter>,
) -> Result<Paged<Page<Project>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Project::list(&mut conn, auth.viewer, &filter, &app.cursor_keys).await?))
}

/// Read a project
#[utoipa::path(
    get, path = "/projects/{id}", tag = "projects", operation_id = "get_project",
    params(("id" = ProjectId, Path), IfNoneMatch),
    responses(
        (status = 200, description = "The project", body = Project, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ProjectId>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let project = Project::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(unless_known(&if_none_match, project))
}

/// Change a project
///
/// A JSON merge patch (RFC 7396): a field that is absent stays, one that is null is cleared. For owners.
#[utoipa::path(
    patch, path = "/projects/{id}", tag = "projects", operation_id = "update_project",
    params(("id" = ProjectId, Path), IfMatch),
    request_body(content((ProjectPatch = "application/json"), (ProjectPatch = "application/merge-patch+json"))),
    responses((status = 200, description = "The project as it is now", body = Project), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ProjectId>,
    if_match: IfMatch,
    Json(patch): Json<ProjectPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = Project::patch(&mut tx, auth.viewer, id, &if_match.expected(Project::TAG), &patch).await;
    Ok(tagged(tx.finish(patched).await?))
}

/// What becomes of the tasks of a project that is deleted.
#[derive(Debug, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
struct Deletion {
    /// `trash`, or `move:` and the id of another project. Needed unless the project is empty.
    #[param(value_type = Option<String>, pattern = "^(trash|move:[0-9a-fA-F-]{36})$", example = "trash")]
    tasks: Option<Disposal>,
}

/// Delete a project
///
/// For good; for owners. What is in its trash stays in the trash of whose it is.
#[utoipa::path(
    delete, path = "/projects/{id}", tag = "projects", operation_id = "delete_project",
    params(("id" = ProjectId, Path), Deletion, IfMatch),
    responses((status = 204, description = "It is gone"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ProjectId>,
    Query(deletion): Query<Deletion>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let expected = if_match.expected(Project::TAG);
    let deleted = Project::delete(&mut tx, auth.viewer, id, &expected, deletion.tasks).await;
    tx.finish(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Declares an action on a project: they differ only in what they do.
macro_rules! action {
    ($(#[$doc:meta])* $name:ident, $path:literal, $operation:literal, $archived:literal) => {
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "projects", operation_id = $operation,
            params(("id" = ProjectId, Path), IfMatch, Idempotency),
            responses((status = 200, description = "The project as it is now", body = Project), Problem),
        )]
        async fn $name(
            State(app): State<AppState>,
            auth: Auth,
            Path(id): Path<ProjectId>,
            if_match: IfMatch,
            idempotency: Idempotency,
        ) -> Result<Response> {
            let expected = if_match.expected(Project::TAG);
            idempotency
                .once(&app.db, async |tx| {
                    Ok(tagged(Project::archive(tx, auth.viewer, id, &expected, $archived).await?))
                })
                .await
        }
    };
}

action!(
    /// Archive a project
    ///
    /// Nothing can be put into it; its tasks leave the lists and the daily summaries, and nothing reminds of them. For
    /// owners.
    archive, "/projects/{id}/archive", "archive_project", true
);
action!(
    /// Take a project out of the archive
    unarchive, "/projects/{id}/unarchive", "unarchive_project", false
);

/// List a project's tasks
///
/// As `GET /tasks` with `project_id`.
#[utoipa::path(
    get, path = "/projects/{id}/tasks", tag = "projects", operation_id = "list_project_tasks",
    params(("id" = ProjectId, Path), TaskFilter),
    responses((status = 200, description = "A page of tasks", body = TaskPage), Problem),
)]
async fn tasks(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ProjectId>,
    Query(filter): Query<TaskFilter>,
) -> Result<Paged<TaskPage>> {
    let mut conn = app.db.conn().await?;
    Project::find(&mut conn, auth.viewer, id).await?;
    let filter = filter.within(id)?;
    Ok(Paged(Task::list(&mut conn, auth.viewer, app.db.clock().now(), &filter, &app.cursor_keys).await?))
}

/// List a project's members
///
/// Everybody who sees it, by name, with the highest of their roles.
#[utoipa::path(
    get, path = "/projects/{id}/members", tag = "projects", operation_id = "list_project_members",
    params(("id" = ProjectId, Path)),
    responses((status = 200, description = "All of them", body = All<Member>), Problem),
)]
async fn members(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ProjectId>,
) -> Result<axum::Json<All<Member>>> {
    let data = Member::list(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(axum::Json(All { data }))
}

/// Read a project's member
#[utoipa::path(
    get, path = "/projects/{id}/members/{user_id}", tag = "projects", operation_id = "get_project_member",
    params(("id" = ProjectId, Path), ("user_id" = UserId, Path)),
    responses((status = 200, description = "The member", body = Member), Problem),
)]
async fn member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ProjectId, UserId)>,
) -> Result<axum::Json<Member>> {
    Ok(axum::Json(Member::find(&mut *app.db.conn().await?, auth.viewer, id, user).await?))
}

/// Take somebody into a project
///
/// Or give them another role. For owners. If the one whose project it is becomes less than an owner, it is the longest
/// owner's.
#[utoipa::path(
    put, path = "/projects/{id}/members/{user_id}", tag = "projects", operation_id = "put_project_member",
    params(("id" = ProjectId, Path), ("user_id" = UserId, Path)), request_body = Membership,
    responses((status = 200, description = "The member as they are now", body = Member), Problem),
)]
async fn put_member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ProjectId, UserId)>,
    Json(new): Json<Membership>,
) -> Result<axum::Json<Member>> {
    let mut tx = app.db.begin().await?;
    let member = Member::put(&mut tx, auth.viewer, id, user, new.role).await;
    Ok(axum::Json(tx.finish(member).await?))
}

/// Take somebody out of a project
///
/// For owners; everybody may leave. What they were to do there is nobody's then, and what they owned there is the
/// project's owner's.
#[utoipa::path(
    delete, path = "/projects/{id}/members/{user_id}", tag = "projects", operation_id = "remove_project_member",
    params(("id" = ProjectId, Path), ("user_id" = UserId, Path)),
    responses((status = 204, description = "They are not in it by themselves any more"), Problem),
)]
async fn remove_member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(ProjectId, UserId)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let removed = Member::remove(&mut tx, auth.viewer, id, user).await;
    tx.finish(removed).await?;
    Ok(StatusCode::NO_CONTENT)
}
