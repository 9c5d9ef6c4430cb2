//! `/admin/queues`: what waits where, and what is paused.

use axum::extract::State;
use common::{
    audit::{self, Act},
    error::one_line,
    ledger::{QueueStatus, pause_by_hand, resume_by_hand},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::Admin,
    error::{Problem, Result},
    extract::{Json, Path},
    routes::{Routes, routes},
    state::AppState,
};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list)).routes(routes!(pause)).routes(routes!(resume))
}

/// All queues.
#[derive(Debug, Serialize, ToSchema)]
struct Queues {
    /// In the order of their names.
    data: Vec<QueueStatus>,
}

/// Why a queue is paused.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct QueuePause {
    /// For whoever finds it paused.
    #[serde(default)]
    #[garde(inner(custom(one_line(1, 200))))]
    #[schema(min_length = 1, max_length = 200, example = "The mail server moves house")]
    reason: Option<String>,
}

/// List queues
///
/// What is ready, running, delayed and dead, how old the oldest is, who paused what and why, and which workers were
/// seen. Counts read a bounded number of rows: the fields say of how many they speak.
#[utoipa::path(
    get, path = "/admin/queues", tag = "operations", operation_id = "list_queues",
    responses((status = 200, description = "All queues", body = Queues), Problem),
)]
async fn list(State(app): State<AppState>, _: Admin) -> Result<axum::Json<Queues>> {
    let data = QueueStatus::all(&mut *app.db.conn().await?, app.db.clock().now()).await?;
    Ok(axum::Json(Queues { data }))
}

/// Pause a queue
///
/// Workers start nothing more of it within two seconds; what runs goes on, and what is enqueued waits in the ledger. A
/// queue that a worker has paused by itself, for want of a mail server, stays paused until somebody resumes it.
#[utoipa::path(
    post, path = "/admin/queues/{queue}/pause", tag = "operations", operation_id = "pause_queue",
    params(("queue" = String, Path, example = "mail")), request_body = QueuePause,
    responses((status = 200, description = "The queue, paused", body = QueueStatus), Problem),
)]
async fn pause(
    State(app): State<AppState>,
    admin: Admin,
    Path(queue): Path<String>,
    Json(pause): Json<QueuePause>,
) -> Result<axum::Json<QueueStatus>> {
    let mut tx = app.db.begin().await?;
    let reason = pause.reason.as_deref().map(str::trim);
    let paused = pause_by_hand(&mut tx, &queue, &admin.address, reason).await;
    let act = Act::new(admin.user_id, "queue.paused", "queue", None);
    let act = act.details(json!({"queue": queue, "reason": reason}));
    let paused = audit::after(&mut tx, paused, |_| act).await;
    Ok(axum::Json(tx.finish(paused).await?))
}

/// Resume a queue
///
/// Whoever paused it. Resuming what is not paused changes nothing.
#[utoipa::path(
    post, path = "/admin/queues/{queue}/resume", tag = "operations", operation_id = "resume_queue",
    params(("queue" = String, Path, example = "mail")),
    responses((status = 200, description = "The queue, at work", body = QueueStatus), Problem),
)]
async fn resume(
    State(app): State<AppState>,
    admin: Admin,
    Path(queue): Path<String>,
) -> Result<axum::Json<QueueStatus>> {
    let mut tx = app.db.begin().await?;
    let resumed = resume_by_hand(&mut tx, &queue, &admin.address).await;
    let act = Act::new(admin.user_id, "queue.resumed", "queue", None).details(json!({"queue": queue}));
    let resumed = audit::after(&mut tx, resumed, |_| act).await;
    Ok(axum::Json(tx.finish(resumed).await?))
}
