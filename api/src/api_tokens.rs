//! `/me/tokens`: what a person gives to programs that act for them.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    api_tokens::{ApiToken, NewApiToken},
    audit::{self, Act},
    ids::ApiTokenId,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::Auth,
    error::{Problem, Result},
    extract::{Json, Path},
    idempotency::Idempotency,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(create, list)).routes(routes!(get, revoke))
}

/// A token with what it is, which is not shown again.
#[derive(Serialize, ToSchema)]
struct ShownApiToken {
    #[serde(flatten)]
    api_token: ApiToken,
    /// What to send as `Authorization: Bearer …`. Keep it now; absent when the answer is that of an earlier request with
    /// the same `Idempotency-Key`.
    #[schema(example = "ttp_b3Kx91QaYw3D0mBpNn5v7Q2cJrT8kLxW1zUeGhSfPoI")]
    token: Option<String>,
}

/// All of them, few as they are.
#[derive(Debug, Serialize, ToSchema)]
struct AllApiTokens {
    /// The newest first.
    data: Vec<ApiToken>,
}

/// The answer that shows the token, and the one that is kept for a retry.
fn with_secret((api_token, secret): (ApiToken, SecretString)) -> (Response, Response) {
    let answer = |token: Option<&SecretString>| {
        let headers = [
            (header::LOCATION, format!("/api/v1/me/tokens/{}", api_token.id)),
            (header::CACHE_CONTROL, "no-store".to_owned()),
        ];
        let token = token.map(|token| token.expose_secret().to_owned());
        let shown = ShownApiToken { api_token: api_token.clone(), token };
        (StatusCode::CREATED, headers, axum::Json(shown)).into_response()
    };
    (answer(Some(&secret)), answer(None))
}

/// Create an API token
///
/// For a program that acts for me. The answer shows the token: once, and never again. It does what its scopes name, in
/// all that I may see or in one project only, and shares my rate limit.
#[utoipa::path(
    post, path = "/me/tokens", tag = "accounts", operation_id = "create_api_token", params(Idempotency),
    request_body = NewApiToken,
    responses(
        (status = 201, description = "Created", body = ShownApiToken, headers(
            ("Location" = String, description = "Where the token is"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewApiToken>,
) -> Result<Response> {
    auth.session()?;
    idempotency
        .once_secret(&app.db, async |tx| {
            let made = ApiToken::create(tx, auth.viewer, &new).await?;
            let act = Act::own(auth.viewer.user_id, "api_token.created").details(json!({"name": new.name}));
            audit::record(tx, act).await?;
            Ok(with_secret(made))
        })
        .await
}

/// List my API tokens
///
/// Those that are not revoked.
#[utoipa::path(
    get, path = "/me/tokens", tag = "accounts", operation_id = "list_api_tokens",
    responses((status = 200, description = "My API tokens", body = AllApiTokens), Problem),
)]
async fn list(State(app): State<AppState>, auth: Auth) -> Result<axum::Json<AllApiTokens>> {
    auth.session()?;
    let data = ApiToken::list(&mut *app.db.conn().await?, auth.viewer).await?;
    Ok(axum::Json(AllApiTokens { data }))
}

/// Read an API token of mine
#[utoipa::path(
    get, path = "/me/tokens/{id}", tag = "accounts", operation_id = "get_api_token", params(("id" = ApiTokenId, Path)),
    responses((status = 200, description = "The API token", body = ApiToken), Problem),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ApiTokenId>,
) -> Result<axum::Json<ApiToken>> {
    auth.session()?;
    Ok(axum::Json(ApiToken::find(&mut *app.db.conn().await?, auth.viewer, id).await?))
}

/// Revoke an API token
///
/// The next request with it is refused.
#[utoipa::path(
    delete, path = "/me/tokens/{id}", tag = "accounts", operation_id = "revoke_api_token",
    params(("id" = ApiTokenId, Path)),
    responses((status = 204, description = "Revoked, now or before"), Problem),
)]
async fn revoke(State(app): State<AppState>, auth: Auth, Path(id): Path<ApiTokenId>) -> Result<StatusCode> {
    auth.session()?;
    let mut tx = app.db.begin().await?;
    let revoked = ApiToken::revoke(&mut tx, auth.viewer, id).await;
    let act = Act::new(auth.viewer.user_id, "api_token.revoked", "api_token", id.uuid());
    let revoked = audit::after(&mut tx, revoked, |_| act).await;
    tx.finish(revoked).await?;
    Ok(StatusCode::NO_CONTENT)
}
