use std::time::Duration;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    error::Error,
    ids::{DeliveryId, EndpointId},
    page::Page,
    webhooks::{self, Delivery, DeliveryDetail, DeliveryFilter, Range, Repeated},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer::Paged,
    auth::Auth,
    error::{Problem, Result},
    extract::{Path, Query},
    idempotency::Idempotency,
    routes::{Routes, routes},
    state::AppState,
};

/// How often it is looked whether a test has come to its end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(redeliver))
        .routes(routes!(redeliver_range))
        .routes(routes!(test))
}

/// List what was delivered
///
/// The newest first; kept for 30 days.
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "list_deliveries",
    params(("id" = EndpointId, Path), DeliveryFilter),
    responses((status = 200, description = "A page of deliveries", body = Page<Delivery>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    Query(filter): Query<DeliveryFilter>,
) -> Result<Paged<Page<Delivery>>> {
    let mut conn = app.db.conn().await?;
    Ok(Paged(Delivery::list(&mut conn, auth.viewer, id, &filter, &app.cursor_keys).await?))
}

/// Read a delivery
///
/// With what was sent and what was answered. Who does not see the task any more does not see its data.
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries/{did}", tag = "webhooks", operation_id = "get_delivery",
    params(("id" = EndpointId, Path), ("did" = DeliveryId, Path)),
    responses((status = 200, description = "The delivery", body = DeliveryDetail), Problem),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, did)): Path<(EndpointId, DeliveryId)>,
) -> Result<axum::Json<DeliveryDetail>> {
    let mut conn = app.db.conn().await?;
    let public_url = &app.settings.public.public_url;
    Ok(axum::Json(DeliveryDetail::find(&mut conn, auth.viewer, id, did, public_url).await?))
}

/// What is on its way, and where to look for it.
fn accepted(delivery: &Delivery) -> Response {
    let location = format!("/api/v1/webhooks/{}/deliveries/{}", delivery.endpoint_id, delivery.id);
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(delivery)).into_response()
}

/// Deliver once more
///
/// Under the same `webhook-id`, as a delivery of its own.
#[utoipa::path(
    post, path = "/webhooks/{id}/deliveries/{did}/redeliver", tag = "webhooks", operation_id = "redeliver",
    params(("id" = EndpointId, Path), ("did" = DeliveryId, Path), Idempotency),
    responses(
        (status = 202, description = "The new delivery", body = Delivery,
            headers(("Location" = String, description = "Where it is"))),
        Problem,
    ),
)]
async fn redeliver(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, did)): Path<(EndpointId, DeliveryId)>,
    idempotency: Idempotency,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| Ok(accepted(&webhooks::redeliver(tx, auth.viewer, id, did).await?)))
        .await
}

/// Deliver a range once more
///
/// What was made within the range and did not arrive, the oldest first and at most 1,000 at a time; what has been
/// repeated already is not taken again, so the same call goes on where the last one stopped.
#[utoipa::path(
    post, path = "/webhooks/{id}/redeliver", tag = "webhooks", operation_id = "redeliver_range",
    params(("id" = EndpointId, Path), Range, Idempotency),
    responses((status = 202, description = "How many are delivered again", body = Repeated), Problem),
)]
async fn redeliver_range(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    Query(range): Query<Range>,
    idempotency: Idempotency,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let repeated = webhooks::redeliver_range(tx, auth.viewer, id, &range).await?;
            Ok((StatusCode::ACCEPTED, axum::Json(repeated)).into_response())
        })
        .await
}

/// How long to wait for a test.
#[derive(Debug, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Waiting {
    /// Seconds to wait for the receiver's answer, 0 to 20.
    #[garde(inner(range(max = 20)))]
    #[param(maximum = 20, default = 20)]
    wait: Option<u8>,
}

/// What the receiver made of a test.
#[derive(Debug, Serialize, ToSchema)]
struct Tested {
    /// The status that it answered; null if it did not.
    #[schema(example = 204)]
    status: Option<i16>,
    /// How many milliseconds that took.
    #[schema(example = 87)]
    ms: Option<i32>,
    /// What went wrong, if it did.
    error: Option<String>,
    /// The whole delivery.
    delivery: Delivery,
}

/// Test a webhook
///
/// Sends a signed `webhook.ping` before everything else, and waits for the answer: 200 says what the receiver made of it,
/// 202 where to look for it later.
#[utoipa::path(
    post, path = "/webhooks/{id}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("id" = EndpointId, Path), Waiting, Idempotency),
    responses(
        (status = 200, description = "What the receiver answered", body = Tested),
        (status = 202, description = "It is on its way", body = Delivery,
            headers(("Location" = String, description = "Where to look for it"))),
        Problem,
    ),
)]
async fn test(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<EndpointId>,
    Query(Waiting { wait }): Query<Waiting>,
    idempotency: Idempotency,
) -> Result<Response> {
    let mut sent = None;
    let answer = idempotency
        .once(&app.db, async |tx| {
            let delivery = webhooks::ping(tx, auth.viewer, id).await?;
            sent = Some(delivery.id);
            Ok(accepted(&delivery))
        })
        .await?;
    // A refusal, or the answer to an earlier request.
    let Some(delivery) = sent else { return Ok(answer) };
    let tried = tokio::time::timeout(Duration::from_secs(wait.unwrap_or(20).into()), async {
        loop {
            // No connection is held while nothing is asked.
            let delivery = Delivery::find(&mut *app.db.conn().await?, auth.viewer, id, delivery).await?;
            if delivery.was_tried() {
                return Ok::<_, Error>(delivery);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    match tried.await {
        Ok(delivery) => {
            let delivery = delivery?;
            let (status, ms, error) =
                (delivery.response_status, delivery.response_ms, delivery.error.clone());
            Ok(axum::Json(Tested { status, ms, error, delivery }).into_response())
        }
        Err(_) => Ok(answer),
    }
}
