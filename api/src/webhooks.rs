//! `/webhooks`: where people want to be told what happens. What came of telling them is in [`deliveries`].

mod deliveries;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    access::Versioned as _,
    audit::{self, Act},
    events::EventType,
    ids::EndpointId,
    webhooks::{Endpoint, EndpointPatch, Listed, NewEndpoint},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    answer::{All, tagged, unless_known},
    auth::Auth,
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, Path},
    idempotency::Idempotency,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create, list))
        .routes(routes!(event_types))
        .routes(routes!(get, update, delete))
        .routes(routes!(rotate_secret))
        .merge(deliveries::routes())
}

/// An endpoint with its secret, which is not shown again.
#[derive(Serialize, ToSchema)]
struct NewSecret {
    #[serde(flatten)]
    endpoint: Endpoint,
    /// What deliveries are signed with, as the libraries of Standard Webhooks take it. Keep it now; absent when the
    /// answer is that of an earlier request with the same `Idempotency-Key`.
    #[schema(example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")]
    secret: Option<String>,
}

/// A kind of event.
#[derive(Debug, Serialize, ToSchema)]
struct EventTypeAnswer {
    /// Its name.
    #[serde(rename = "type")]
    name: EventType,
    /// When it happens.
    description: &'static str,
    /// The JSON Schema of what is sent.
    #[schema(value_type = Object)]
    schema: serde_json::Value,
}

/// The answer that shows a secret, and the one that is kept for a retry.
fn with_secret(status: StatusCode, (endpoint, secret): (Endpoint, SecretString)) -> (Response, Response) {
    let answer = |secret: Option<&SecretString>| {
        let headers = [
            (header::LOCATION, format!("/api/v1/webhooks/{}", endpoint.id)),
            (header::ETAG, endpoint.etag()),
            (header::CACHE_CONTROL, "no-store".to_owned()),
        ];
        let secret = secret.map(|secret| secret.expose_secret().to_owned());
        (status, headers, axum::Json(NewSecret { endpoint: endpoint.clone(), secret })).into_response()
    };
    (answer(Some(&secret)), answer(None))
}

/// Create a webhook
///
/// The answer shows the secret with which deliveries are signed: once, and never again.
#[utoipa::path(
    post, path = "/webhooks", tag = "webhooks", operation_id = "create_webhook", params(Idempotency),
    request_body = NewEndpoint,
    responses(
        (status = 201, description = "Created", body = NewSecret, headers(
            ("Location" = String, description = "Where the webhook is"),
            ("ETag" = String, description = "Its version"),
        )),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(new): Json<NewEndpoint>,
) -> Result<Response> {
    let reach = app.settings.webhooks.reach();
    idempotency
        .once_secret(&app.db, async |tx| {
            let made = Endpoint::create(tx, auth.viewer, &app.secrets, &reach, &new).await?;
            let act = Act::new(auth.viewer.user_id, "webhook.created", "webhook", None);
            audit::record(tx, act.details(json!({"events": new.events}))).await?;
            Ok(with_secret(StatusCode::CREATED, made))
        })
        .await
}

/// List my webhooks
///
/// With how each is doing.
#[utoipa::path(
    get, path = "/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    responses((status = 200, description = "All of them", body = All<Listed>), Problem),
)]
async fn list(State(app): State<AppState>, auth: Auth) -> Result<axum::Json<All<Listed>>> {
    let data = Endpoint::list(&mut *app.db.conn().await?, auth.viewer).await?;
    Ok(axum::Json(All { data }))
}

/// What can be subscribed to?
///
/// Each type with the JSON Schema of what is sent.
#[utoipa::path(
    get, path = "/webhooks/event-types", tag = "webhooks", operation_id = "list_event_types",
    responses((status = 200, description = "All of them", body = All<EventTypeAnswer>), Problem),
)]
async fn event_types(_: Auth) -> axum::Json<All<EventTypeAnswer>> {
    let answer =
        |kind: &EventType| EventTypeAnswer { name: *kind, description: kind.about(), schema: kind.schema() };
    axum::Json(All { data: EventType::ALL.iter().map(answer).collect() })
}

/// Read a webhook
#[utoipa::path(
    get, path = "/webhooks/{id}", tag = "webhooks", operation_id = "get_webhook",
    params(("id" = EndpointId, Path), IfNoneMatch),
    responses(
        (status = 200, description = "The webhook", body = Endpoint, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    if_none_match: IfNoneMatch,
) -> Result<Response> {
    let endpoint = Endpoint::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(unless_known(&if_none_match, endpoint))
}

/// Change a webhook
///
/// A JSON merge patch (RFC 7396). Setting `state` to `active` also switches on what had been disabled.
#[utoipa::path(
    patch, path = "/webhooks/{id}", tag = "webhooks", operation_id = "update_webhook",
    params(("id" = EndpointId, Path), IfMatch),
    request_body(content((EndpointPatch = "application/json"), (EndpointPatch = "application/merge-patch+json"))),
    responses((status = 200, description = "The webhook as it is now", body = Endpoint), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    if_match: IfMatch,
    Json(patch): Json<EndpointPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let (expected, reach) = (if_match.expected(Endpoint::TAG), app.settings.webhooks.reach());
    let patched = Endpoint::patch(&mut tx, auth.viewer, id, &expected, &reach, &patch).await;
    let act = Act::new(auth.viewer.user_id, "webhook.updated", "webhook", id.uuid());
    let patched = audit::after(&mut tx, patched, |_| act).await;
    Ok(tagged(tx.finish(patched).await?))
}

/// Delete a webhook
///
/// With its log. What is just being sent may still arrive.
#[utoipa::path(
    delete, path = "/webhooks/{id}", tag = "webhooks", operation_id = "delete_webhook",
    params(("id" = EndpointId, Path), IfMatch),
    responses((status = 204, description = "It is gone"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let deleted = Endpoint::delete(&mut tx, auth.viewer, id, &if_match.expected(Endpoint::TAG)).await;
    let act = Act::new(auth.viewer.user_id, "webhook.deleted", "webhook", id.uuid());
    let deleted = audit::after(&mut tx, deleted, |_| act).await;
    tx.finish(deleted).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the secret
///
/// For 24 hours deliveries are signed with both, so that the receiver can change over without losing one. The answer
/// shows the new secret: once, and never again.
#[utoipa::path(
    post, path = "/webhooks/{id}/rotate-secret", tag = "webhooks", operation_id = "rotate_webhook_secret",
    params(("id" = EndpointId, Path), IfMatch, Idempotency),
    responses((status = 200, description = "The webhook with its new secret", body = NewSecret), Problem),
)]
async fn rotate_secret(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    if_match: IfMatch,
    idempotency: Idempotency,
) -> Result<Response> {
    let expected = if_match.expected(Endpoint::TAG);
    idempotency
        .once_secret(&app.db, async |tx| {
            let made = Endpoint::rotate_secret(tx, auth.viewer, id, &expected, &app.secrets).await?;
            let act = Act::new(auth.viewer.user_id, "webhook.secret_rotated", "webhook", id.uuid());
            audit::record(tx, act).await?;
            Ok(with_secret(StatusCode::OK, made))
        })
        .await
}
