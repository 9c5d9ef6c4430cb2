//! `/teams`: people who work together.

use axum::{extract::State, http::StatusCode, response::Response};
use common::{
    access::Versioned as _,
    ids::{TeamId, UserId},
    page::{Page, Paging},
    projects::Membership,
    teams::{NewTeam, Team, TeamMember, TeamPatch},
};

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
        .routes(routes!(members))
        .routes(routes!(member, put_member, remove_member))
}

/// Create a team
///
/// The one who makes it is its owner.
#[utoipa::path(
    post, path = "/teams", tag = "teams", operation_id = "create_team", params(Idempotency), request_body = NewTeam,
    responses(
        (status = 201, description = "Created", body = Team, headers(
            ("Location" = String, description = "Where the team is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewTeam>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let team = Team::create(tx, auth.viewer, &new).await?;
            Ok(created(format!("teams/{}", team.id), team))
        })
        .await
}

/// List my teams
///
/// The oldest first.
#[utoipa::path(
    get, path = "/teams", tag = "teams", operation_id = "list_teams", params(Paging),
    responses((status = 200, description = "A page of teams", body = Page<Team>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Query(paging): Query<Paging>,
) -> Result<Paged<Page<Team>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Team::list(&mut conn, auth.viewer, &paging, &app.cursor_keys).await?))
}

/// Read a team
#[utoipa::path(
    get, path = "/teams/{id}", tag = "teams", operation_id = "get_team", params(("id" = TeamId, Path), IfNoneMatch),
    responses(
        (status = 200, description = "The team", body = Team, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TeamId>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let team = Team::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(unless_known(&if_none_match, team))
}

/// Change a team
///
/// A JSON merge patch (RFC 7396): a field that is absent stays. For owners.
#[utoipa::path(
    patch, path = "/teams/{id}", tag = "teams", operation_id = "update_team", params(("id" = TeamId, Path), IfMatch),
    request_body(content((TeamPatch = "application/json"), (TeamPatch = "application/merge-patch+json"))),
    responses((status = 200, description = "The team as it is now", body = Team), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TeamId>,
    if_match: IfMatch,
    Json(patch): Json<TeamPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = Team::patch(&mut tx, auth.viewer, id, &if_match.expected(Team::TAG), &patch).await;
    Ok(tagged(tx.finish(patched).await?))
}

/// Delete a team
///
/// Its projects stay with those who are in them by themselves. For owners.
#[utoipa::path(
    delete, path = "/teams/{id}", tag = "teams", operation_id = "delete_team", params(("id" = TeamId, Path), IfMatch),
    responses((status = 204, description = "It is gone"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TeamId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let deleted = Team::delete(&mut tx, auth.viewer, id, &if_match.expected(Team::TAG)).await;
    tx.finish(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List a team's members
#[utoipa::path(
    get, path = "/teams/{id}/members", tag = "teams", operation_id = "list_team_members",
    params(("id" = TeamId, Path)),
    responses((status = 200, description = "All of them, by name", body = All<TeamMember>), Problem),
)]
async fn members(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TeamId>,
) -> Result<axum::Json<All<TeamMember>>> {
    let data = TeamMember::list(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(axum::Json(All { data }))
}

/// Read a team's member
#[utoipa::path(
    get, path = "/teams/{id}/members/{user_id}", tag = "teams", operation_id = "get_team_member",
    params(("id" = TeamId, Path), ("user_id" = UserId, Path)),
    responses((status = 200, description = "The member", body = TeamMember), Problem),
)]
async fn member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(TeamId, UserId)>,
) -> Result<axum::Json<TeamMember>> {
    Ok(axum::Json(TeamMember::find(&mut *app.db.conn().await?, auth.viewer, id, user).await?))
}

/// Take somebody into a team
///
/// Or give them another role, which they have in all projects of the team. For owners.
#[utoipa::path(
    put, path = "/teams/{id}/members/{user_id}", tag = "teams", operation_id = "put_team_member",
    params(("id" = TeamId, Path), ("user_id" = UserId, Path)), request_body = Membership,
    responses((status = 200, description = "The member as they are now", body = TeamMember), Problem),
)]
async fn put_member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(TeamId, UserId)>,
    Json(new): Json<Membership>,
) -> Result<axum::Json<TeamMember>> {
    let mut tx = app.db.begin().await?;
    let member = TeamMember::put(&mut tx, auth.viewer, id, user, new.role).await;
    Ok(axum::Json(tx.finish(member).await?))
}

/// Take somebody out of a team
///
/// And of its projects, unless they are in them by themselves. For owners; everybody may leave.
#[utoipa::path(
    delete, path = "/teams/{id}/members/{user_id}", tag = "teams", operation_id = "remove_team_member",
    params(("id" = TeamId, Path), ("user_id" = UserId, Path)),
    responses((status = 204, description = "They are not in it any more"), Problem),
)]
async fn remove_member(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, user)): Path<(TeamId, UserId)>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let removed = TeamMember::remove(&mut tx, auth.viewer, id, user).await;
    tx.finish(removed).await?;
    Ok(StatusCode::NO_CONTENT)
}
