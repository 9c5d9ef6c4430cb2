//! `/tasks`: what a person has to do.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    db::Tx,
    error::{Code, Error},
    ids::TaskId,
    metrics,
    page::Page,
    reminders::Warning,
    tasks::{Changed, NewTask, Task, TaskFilter, TaskPatch},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth::Auth,
    error::{Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, OptionalJson, Path, Query},
    idempotency::Idempotency,
    state::AppState,
};

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(complete))
        .routes(routes!(reopen))
        .routes(routes!(archive))
        .routes(routes!(unarchive))
        .routes(routes!(restore))
}

/// A task, and what the person should know about the change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskAnswer {
    #[serde(flatten)]
    task: Task,
    /// Such as a reminder whose time has passed already; absent if there is nothing to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}
