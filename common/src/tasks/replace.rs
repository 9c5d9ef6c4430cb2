use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Changed, DueInput, Move, Task, TaskPatch, TaskPriority, TaskStatus};
use crate::{
    access::{Expected, Right, Viewer},
    db::Tx,
    error::Result,
    ids::{ProjectId, TaskId, UserId},
};

/// All of a task that a client may set at once: what is absent becomes as in a new task. Reminders are each person's own,
/// and stay.
#[derive(Debug, Clone, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Ship it", "status": "in_progress", "priority": "high", "tags": ["release"]}))]
pub struct TaskContent {
    /// What is to be done, in one line.
    #[garde(custom(crate::error::one_line(1, 500)))]
    #[schema(min_length = 1, max_length = 500, example = "Ship it")]
    pub title: String,
    /// More about it, at most 64 KiB.
    #[serde(default)]
    #[garde(inner(length(bytes, max = 65_536)))]
    #[schema(max_length = 65_536)]
    pub description: Option<String>,
    /// The project it belongs to, where one has to be an editor.
    #[serde(default)]
    #[garde(skip)]
    pub project_id: Option<ProjectId>,
    /// Who does it, if not the owner: somebody who sees it.
    #[serde(default)]
    #[garde(skip)]
    pub assignee_id: Option<UserId>,
    /// The task that it is a part of, of the same project; at most five deep.
    #[serde(default)]
    #[garde(skip)]
    pub parent_id: Option<TaskId>,
    /// How far it is; `todo` if absent.
    #[serde(default = "not_begun")]
    #[garde(skip)]
    pub status: TaskStatus,
    /// How much it matters.
    #[serde(default = "super::no_priority")]
    #[garde(skip)]
    pub priority: TaskPriority,
    /// When it is due.
    #[serde(default)]
    #[garde(skip)]
    pub due: Option<DueInput>,
    /// All words on it.
    #[serde(default)]
    #[garde(skip)]
    pub tags: Vec<String>,
}

fn not_begun() -> TaskStatus {
    TaskStatus::Todo
}

impl From<TaskContent> for TaskPatch {
    fn from(content: TaskContent) -> Self {
        let TaskContent {
            title,
            description,
            project_id,
            assignee_id,
            parent_id,
            status,
            priority,
            due,
            tags,
        } = content;
        Self {
            title: Some(title),
            description: Some(description),
            project_id: Some(project_id),
            assignee_id: Some(assignee_id),
            parent_id: Some(parent_id),
            status: Some(status),
            priority: Some(priority),
            due: Some(due),
            tags: Some(tags),
        }
    }
}

impl Task {
    /// Makes it what `content` says, and nothing else.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn replace(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        content: TaskContent,
    ) -> Result<Changed> {
        Self::patch(tx, viewer, id, expected, &content.into()).await
    }

    /// Puts it somewhere else: into another project or task, or to another place in the order.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn move_to(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        wish: &Move,
    ) -> Result<Changed> {
        let patch =
            TaskPatch { project_id: wish.project_id, parent_id: wish.parent_id, ..TaskPatch::default() };
        let (person, before) = Self::open(tx, viewer, id, expected, Right::Edit).await?;
        before.apply(tx, viewer, &person, &patch, Some(wish)).await
    }
}
