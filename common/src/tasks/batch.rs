use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Changed, NewTask, Task, TaskPatch, visible_to};
use crate::{
    access::{Expected, Viewer},
    db::{RunQueryDsl as _, Tx},
    error::{Error, Result},
    ids::TaskId,
    schema::tasks,
};
use diesel::{ExpressionMethods as _, QueryDsl as _};

/// Several changes in one request.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"atomic": true, "operations": [
    {"create": {"title": "Ship it", "priority": "high"}},
    {"patch": {"id": "0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978", "version": 3, "changes": {"status": "in_progress"}}},
    {"complete": {"id": "0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6979"}},
]}))]
pub struct Batch {
    /// `true`: all of them or none. Otherwise each stands for itself, and those that fail leave the others alone.
    #[serde(default)]
    #[garde(skip)]
    pub atomic: bool,
    /// What to do, in this order; 1 to 100.
    #[garde(length(min = 1, max = 100), dive)]
    #[schema(min_items = 1, max_items = 100)]
    pub operations: Vec<Operation>,
}

/// One change of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Make a task, as `POST /tasks` does.
    Create(NewTask),
    /// Change a task, as `PATCH /tasks/{id}` does.
    Patch(PatchOne),
    /// Complete a task.
    Complete(One),
    /// Put a task into the trash.
    Delete(One),
}

/// Which task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct One {
    /// Its id.
    pub id: TaskId,
    /// Only if this is its version; otherwise the result is 412.
    #[serde(default)]
    pub version: Option<i32>,
}

/// Which task, and what to change.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub struct PatchOne {
    /// Its id.
    pub id: TaskId,
    /// Only if this is its version; otherwise the result is 412.
    #[serde(default)]
    pub version: Option<i32>,
    /// A JSON merge patch (RFC 7396).
    #[garde(dive)]
    pub changes: TaskPatch,
}

impl Validate for Operation {
    type Context = ();

    fn validate_into(
        &self,
        context: &(),
        parent: &mut dyn FnMut() -> garde::Path,
        report: &mut garde::Report,
    ) {
        let mut inside = || parent().join(self.name());
        match self {
            Self::Create(new) => new.validate_into(context, &mut inside, report),
            Self::Patch(patch) => patch.validate_into(context, &mut inside, report),
            Self::Complete(_) | Self::Delete(_) => {}
        }
    }
}

impl Operation {
    /// Its name in the request, and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Patch(_) => "patch",
            Self::Complete(_) => "complete",
            Self::Delete(_) => "delete",
        }
    }

    fn task(&self) -> Option<TaskId> {
        match self {
            Self::Create(_) => None,
            Self::Patch(PatchOne { id, .. })
            | Self::Complete(One { id, .. })
            | Self::Delete(One { id, .. }) => Some(*id),
        }
    }

    /// Does it; what is deleted is not answered.
    async fn apply(&self, tx: &mut Tx, viewer: Viewer) -> Result<Option<Changed>> {
        match self {
            Self::Create(new) => Task::create(tx, viewer, new).await.map(Some),
            Self::Patch(PatchOne { id, version, changes }) => {
                Task::patch(tx, viewer, *id, &expected(*version), changes).await.map(Some)
            }
            Self::Complete(One { id, version }) => {
                Task::complete(tx, viewer, *id, &expected(*version)).await.map(Some)
            }
            Self::Delete(One { id, version }) => {
                Task::delete(tx, viewer, *id, &expected(*version)).await.map(|()| None)
            }
        }
    }

    /// Where in the body the errors of the `index`-th operation are.
    fn place(&self, index: usize) -> String {
        match self {
            Self::Patch(_) => format!("/operations/{index}/patch/changes"),
            other => format!("/operations/{index}/{}", other.name()),
        }
    }
}

fn expected(version: Option<i32>) -> Expected {
    version.map_or(Expected::Any, |version| Expected::OneOf(vec![version]))
}

impl Task {
    /// Does what a batch says, each operation in a step of its own, and answers what came of each.
    ///
    /// # Errors
    /// [`Error::Undone`] if the batch is atomic and one fails; and what is no fault of the request, such as a lost
    /// connection.
    pub async fn batch(tx: &mut Tx, viewer: Viewer, batch: &Batch) -> Result<Vec<Result<Option<Changed>>>> {
        lock_in_order(tx, viewer, &batch.operations).await?;
        let mut results = Vec::with_capacity(batch.operations.len());
        for (index, operation) in batch.operations.iter().enumerate() {
            let step = tx.step().await?;
            let done =
                operation.apply(tx, viewer).await.map_err(|error| error.within(&operation.place(index)));
            tx.end_step(step, done.is_ok()).await?;
            match done {
                Err(error) if error.is_fault() => return Err(error),
                Err(error) if batch.atomic => {
                    return Err(Error::Undone {
                        pointer: format!("/operations/{index}"),
                        cause: Box::new(error),
                    });
                }
                done => results.push(done),
            }
        }
        Ok(results)
    }
}

/// Locks all that will change by its id: two batches that name the same tasks in different orders would otherwise wait
/// for each other.
async fn lock_in_order(tx: &mut Tx, viewer: Viewer, operations: &[Operation]) -> Result<()> {
    let ids: Vec<TaskId> = operations.iter().filter_map(Operation::task).collect();
    if ids.len() > 1 {
        let locked = tasks::table.filter(tasks::id.eq_any(ids)).filter(visible_to(viewer)).order(tasks::id);
        locked.select(tasks::id).for_no_key_update().load::<TaskId>(tx.conn()).await?;
    }
    Ok(())
}
