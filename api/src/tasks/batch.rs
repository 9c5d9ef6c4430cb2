//! `/tasks/batch`: many changes in one request.

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse as _, Response},
};
use common::{
    error::Error,
    reminders::Warning,
    tasks::{Batch, Changed, Operation, Task},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::Auth,
    error::{Problem, Result},
    extract::Json,
    idempotency::Idempotency,
    middleware::TaskOperations,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(batch))
}

/// What came of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct BatchAnswer {
    /// What came of each operation, in the order of the request.
    results: Vec<OperationResult>,
}

/// What came of one operation of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct OperationResult {
    /// The status that the operation would have had as a request of its own.
    #[schema(example = 200)]
    status: u16,
    /// The task as it is now; absent if it was deleted, or if the operation failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    /// What the person should know, such as a reminder whose time has passed; absent if there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    /// Why it failed. What it points at is in the body of the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

impl OperationResult {
    fn new(operation: &Operation, done: Result<Option<Changed>, Error>) -> Self {
        match done {
            Ok(Some(Changed { task, warnings })) => {
                let status = if matches!(operation, Operation::Create(_)) { 201 } else { 200 };
                Self { status, task: Some(task), warnings, problem: None }
            }
            Ok(None) => Self { status: 204, task: None, warnings: Vec::new(), problem: None },
            Err(error) => {
                let problem = Problem::from(&error);
                Self { status: problem.status(), task: None, warnings: Vec::new(), problem: Some(problem) }
            }
        }
    }
}

/// Change many tasks
///
/// Up to 100 operations in one request, done in their order. With `atomic` all of them are done or none (409
/// `batch_undone` names the one that failed); without, each has a result of its own, and the answer is 200 even if some
/// failed. A body that breaks a rule is refused as a whole.
#[utoipa::path(
    post, path = "/tasks/batch", tag = "tasks", operation_id = "batch_tasks", params(Idempotency), request_body = Batch,
    responses((status = 200, description = "What came of each operation", body = BatchAnswer), Problem),
)]
async fn batch(
    State(app): State<AppState>,
    auth: Auth,
    idempotency: Idempotency,
    Json(batch): Json<Batch>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let done = batch.operations.iter().zip(Task::batch(tx, auth.viewer, &batch).await?);
            let (names, results): (Vec<_>, Vec<_>) = done
                .map(|(operation, result)| {
                    (result.is_ok().then(|| operation.name()), OperationResult::new(operation, result))
                })
                .unzip();
            let names = TaskOperations(names.into_iter().flatten().collect());
            Ok((Extension(names), axum::Json(BatchAnswer { results })).into_response())
        })
        .await
}
