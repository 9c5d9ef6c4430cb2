//! Tasks: what a person has to do. The slice that other nouns copy: the row that is read is the JSON that is sent,
//! what a client may set is a type of its own, and every finder takes the viewer.

mod batch;
mod cached;
mod change;
mod create;
pub mod due;
mod event;
mod filter;
mod list;
mod place;
mod replace;
mod tree;
mod view;

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _,
    deserialize::{self, FromSql, FromSqlRow},
    pg::{Pg, PgValue},
    sql_types::{Array, Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    batch::{Batch, Operation},
    cached::{TaskJson, TaskRow, outdate},
    change::Changed,
    due::{Due, DueInput, DueKind},
    event::{TaskData, record_all},
    filter::{AssigneeFilter, DueFilter, TaskFilter},
    list::{Sort, TaskPage, TaskPageInfo},
    replace::TaskContent,
    tree::{MAX_DEPTH, Move},
    view::{ShapedTask, ShownTask, TaskView},
};
pub(crate) use self::{
    event::{record_change, record_released},
    place::{check_project, recount},
};
use crate::{
    access::{Versioned, Viewer},
    db::{Condition, RunQueryDsl as _, pg_enum, sql_condition, sql_expression},
    error::{Error, Result},
    ids::{ProjectId, TaskId, UserId},
    reminders::{NewReminder, Reminder, ReminderRows, Reminders},
    schema::tasks,
    tags,
};

pg_enum! {
    /// How far a task is.
    TaskStatus: TaskStatus {
        /// Not begun.
        Todo = "todo",
        /// Begun.
        InProgress = "in_progress",
        /// Finished.
        Done = "done",
        /// Not to be done any more.
        Cancelled = "cancelled",
    }
}

impl TaskStatus {
    /// Whether there is still something to do.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Todo | Self::InProgress)
    }
}

pg_enum! {
    /// How much a task matters.
    TaskPriority: TaskPriority {
        /// Not said.
        None = "none",
        /// Can wait.
        Low = "low",
        /// Ordinary.
        Medium = "medium",
        /// Matters.
        High = "high",
        /// Before everything else.
        Urgent = "urgent",
    }
}

sql_expression! {
    /// The names of a task's tags, as [`Names`] puts them in order.
    pub TagNames on tasks: Array<Text> =
        "array(SELECT t.name FROM task_tags tt JOIN tags t ON t.id = tt.tag_id WHERE tt.task_id = tasks.id)"
}

/// Names of tags as PostgreSQL finds them. To sort them there would begin a sort for each task, also for one without tags.
#[derive(Debug, FromSqlRow)]
pub struct Names(Vec<String>);

impl FromSql<Array<Text>, Pg> for Names {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<Array<Text>, Pg>::from_sql(value).map(Self)
    }
}

impl From<Names> for Vec<String> {
    fn from(Names(mut names): Names) -> Self {
        names.sort_by_cached_key(|name| tags::key(name));
        names
    }
}

/// A task as everyone who may see it sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = tasks, check_for_backend(Pg))]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What is to be done, in one line.
    #[schema(example = "Ship it")]
    pub title: String,
    /// More about it.
    pub description: Option<String>,
    /// How far it is.
    pub status: TaskStatus,
    /// Whether it is finished.
    #[diesel(select_expression = tasks::completed_at.is_not_null())]
    pub completed: bool,
    /// How much it matters.
    pub priority: TaskPriority,
    /// The person's own words on it.
    #[diesel(select_expression = TagNames, select_expression_type = TagNames, deserialize_as = Names)]
    pub tags: Vec<String>,
    /// When it is due.
    #[diesel(embed)]
    #[schema(value_type = Option<due::DueObject>)]
    pub due: Due,
    /// What reminds the one who asks of it.
    #[diesel(select_expression = ReminderRows, select_expression_type = ReminderRows)]
    #[schema(value_type = Vec<Reminder>)]
    pub reminders: Reminders,
    /// The project it belongs to.
    pub project_id: Option<ProjectId>,
    /// The task that it is a part of.
    pub parent_id: Option<TaskId>,
    /// Where it stands among the tasks of its project and its parent, for `sort=position`.
    #[schema(example = 1893456000.5)]
    pub position: f64,
    /// Whose it is.
    pub owner_id: UserId,
    /// Who does it, if not the owner.
    pub assignee_id: Option<UserId>,
    /// When it was finished.
    pub completed_at: Option<DateTime<Utc>>,
    /// When it was put away.
    pub archived_at: Option<DateTime<Utc>>,
    /// When it was put into the trash.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a client may set when it makes a task.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "title": "Ship it", "priority": "high", "tags": ["release"], "due": {"date": "2030-12-01", "time": "17:00"},
    "reminders": [{"kind": "relative", "offset_minutes": -30}],
}))]
pub struct NewTask {
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
    /// How much it matters.
    #[serde(default = "no_priority")]
    #[garde(skip)]
    pub priority: TaskPriority,
    /// When it is due.
    #[serde(default)]
    #[garde(skip)]
    pub due: Option<DueInput>,
    /// The person's own words on it.
    #[serde(default)]
    #[garde(skip)]
    pub tags: Vec<String>,
    /// What reminds of it.
    #[serde(default)]
    #[garde(skip)]
    pub reminders: Vec<NewReminder>,
}

fn no_priority() -> TaskPriority {
    TaskPriority::None
}

/// What a client may change (RFC 7396): a field that is absent stays, one that is null is cleared.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Ship it today", "due": null}))]
pub struct TaskPatch {
    /// What is to be done, in one line.
    #[serde(default)]
    #[garde(inner(custom(crate::error::one_line(1, 500))))]
    #[schema(min_length = 1, max_length = 500)]
    pub title: Option<String>,
    /// More about it, at most 64 KiB.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(inner(inner(length(bytes, max = 65_536))))]
    #[schema(value_type = Option<String>, max_length = 65_536)]
    pub description: Option<Option<String>>,
    /// The project it belongs to, where one has to be an editor. Who does not see it there does it no more.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<ProjectId>)]
    pub project_id: Option<Option<ProjectId>>,
    /// Who does it, if not the owner: somebody who sees it.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<UserId>)]
    pub assignee_id: Option<Option<UserId>>,
    /// The task that it is a part of, of the same project; at most five deep. If it goes to another project without
    /// saying, it leaves it.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<TaskId>)]
    pub parent_id: Option<Option<TaskId>>,
    /// How far it is.
    #[serde(default)]
    #[garde(skip)]
    pub status: Option<TaskStatus>,
    /// How much it matters.
    #[serde(default)]
    #[garde(skip)]
    pub priority: Option<TaskPriority>,
    /// When it is due.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<DueInput>)]
    pub due: Option<Option<DueInput>>,
    /// All of the person's words on it.
    #[serde(default)]
    #[garde(skip)]
    pub tags: Option<Vec<String>>,
}

/// Tells null (clear) from absent (keep).
pub(crate) fn nullable<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    d: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// Whether a viewer may see the row `$task`, in SQL; `$viewer` is who they are, `$project` the only one their token is
/// for or null. It can be looked up in the indexes of owners, assignees and projects; who sees which projects is asked once, and
/// only if there is something that is neither theirs nor theirs to do.
macro_rules! visible_to_sql {
    ($task:literal, $viewer:literal, $project:literal) => {
        concat!(
            "((",
            $task,
            ".owner_id = ",
            $viewer,
            " OR ",
            $task,
            ".assignee_id = ",
            $viewer,
            " OR ",
            $task,
            ".project_id = ANY ((SELECT projects_of(",
            $viewer,
            "))::uuid[])) AND (",
            $project,
            "::uuid IS NULL OR ",
            $task,
            ".project_id = ",
            $project,
            "))"
        )
    };
}
pub(crate) use visible_to_sql;

/// [`visible_to_sql`] the other way round: an array of all who may see the row `$task`, which has its owner, assignee and
/// project. For what has the task and asks about people.
macro_rules! viewers_sql {
    ($task:literal) => {
        concat!(
            "(people_of(",
            $task,
            ".project_id) || ARRAY[",
            $task,
            ".owner_id, coalesce(",
            $task,
            ".assignee_id, ",
            $task,
            ".owner_id)])"
        )
    };
}
pub(crate) use viewers_sql;

/// What the viewer may see, for the query builder: one predicate for find, list, change and delete. Whose right is
/// what, the table of [`access`](crate::access) says.
pub(crate) fn visible_to(viewer: Viewer) -> Condition<'static, impl Sized + 'static> {
    sql_condition!(
        visible_to_sql!("tasks", "{viewer}", "{project}"),
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
}

impl Versioned for Task {
    const TAG: &str = "t";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Task {
    /// The task, if `viewer` may see it. What lies in the trash is found too: it can be restored.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this viewer may see.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: TaskId) -> Result<Self> {
        let task: Option<Self> =
            Self::query().filter(tasks::id.eq(id)).filter(visible_to(viewer)).first(conn).await.optional()?;
        task.map(|task| task.seen_by(viewer)).ok_or(Error::NotFound("task"))
    }

    /// Reminders are each person's own. Their version is everybody's.
    fn seen_by(mut self, viewer: Viewer) -> Self {
        self.reminders.0.retain(|reminder| reminder.user_id == viewer.user_id);
        self
    }
}
