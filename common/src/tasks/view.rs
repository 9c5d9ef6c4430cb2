use std::str::FromStr;

use diesel::{
    QueryableByName,
    sql_types::{Array, Jsonb, Nullable, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema, schema::AnyOfBuilder},
};

use super::{Task, filter::AnyOf, visible_to_sql};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, sql},
    error::{Error, Result},
    ids::{ProjectId, TaskId, UserId},
};

/// How much of a task is answered.
#[derive(Debug, Clone, Default, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct TaskView {
    /// Only these fields, separated by commas; the id is always there.
    #[param(value_type = Option<String>, example = "title,due")]
    pub fields: Option<AnyOf<TaskField>>,
    /// These beside it, separated by commas: `project` and `owner` and `assignee` by their names, the numbers of its
    /// `subtasks` and `comments`. Its `tags` and `reminders` are a part of it, and come unless `fields` leaves them out.
    #[param(value_type = Option<String>, example = "project,assignee")]
    pub include: Option<AnyOf<Include>>,
}

/// The name of a field of a [`Task`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskField(&'static str);

const FIELDS: [&str; 20] = [
    "id",
    "title",
    "description",
    "status",
    "completed",
    "priority",
    "tags",
    "due",
    "reminders",
    "project_id",
    "parent_id",
    "position",
    "owner_id",
    "assignee_id",
    "completed_at",
    "archived_at",
    "deleted_at",
    "version",
    "created_at",
    "updated_at",
];

impl FromStr for TaskField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let field = FIELDS.into_iter().find(|field| *field == text).map(Self);
        field.ok_or_else(|| format!("a task has no field `{text}`, but {}", FIELDS.join(", ")))
    }
}

/// What can come with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Include {
    /// The project's name.
    Project,
    /// The owner's name.
    Owner,
    /// The assignee's name.
    Assignee,
    /// How many parts it has.
    Subtasks,
    /// How much was said about it.
    Comments,
    /// A field of the task.
    Tags,
    /// A field of the task.
    Reminders,
}

impl Include {
    const ALL: [Self; 7] = [
        Self::Project,
        Self::Owner,
        Self::Assignee,
        Self::Subtasks,
        Self::Comments,
        Self::Tags,
        Self::Reminders,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Owner => "owner",
            Self::Assignee => "assignee",
            Self::Subtasks => "subtasks",
            Self::Comments => "comments",
            Self::Tags => "tags",
            Self::Reminders => "reminders",
        }
    }
}

impl FromStr for Include {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|include| include.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// A task as the caller wants to see it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ShownTask {
    /// All of it, and nothing beside it.
    Whole(Box<Task>),
    /// Some of it, or more.
    Shaped(Map<String, Value>),
}

/// Some fields of a task, and what came with it, as `fields` and `include` said.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what `TaskView::show` puts together")]
pub struct ShapedTask {
    /// Its id.
    id: TaskId,
    /// The project it belongs to.
    project: Option<NamedProject>,
    /// Whose it is.
    owner: Option<NamedPerson>,
    /// Who does it.
    assignee: Option<NamedPerson>,
    /// The tasks that are parts of it, one level below it and not in the trash.
    subtasks: Option<SubtaskCounts>,
    /// What was said about it, without what was deleted.
    comments: Option<CommentCount>,
}

/// A project by its name.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct NamedProject {
    /// Its id.
    id: ProjectId,
    /// What it is called.
    name: String,
}

/// A person by their name.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct NamedPerson {
    /// Their id.
    id: UserId,
    /// What they are called.
    full_name: String,
}

/// How many parts a task has.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct SubtaskCounts {
    /// Neither done nor cancelled.
    open: u32,
    /// All of them.
    total: u32,
}

/// How many comments a task has.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct CommentCount {
    /// All of them.
    total: u32,
}

impl PartialSchema for ShownTask {
    fn schema() -> RefOr<Schema> {
        let one_or_other = AnyOfBuilder::new()
            .item(Ref::from_schema_name("Task"))
            .item(Ref::from_schema_name("ShapedTask"))
            .description(Some("A task; with `fields` or `include`, some of it or more."));
        one_or_other.into()
    }
}

impl ToSchema for ShownTask {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("Task".into(), Task::schema()));
        Task::schemas(schemas);
        schemas.push(("ShapedTask".into(), ShapedTask::schema()));
        ShapedTask::schemas(schemas);
    }
}

#[derive(QueryableByName)]
struct Beside {
    #[diesel(sql_type = Uuid)]
    id: TaskId,
    #[diesel(sql_type = Jsonb)]
    beside: Value,
}

impl TaskView {
    /// Whether it is the task as it is, which has an entity tag.
    pub fn is_whole(&self) -> bool {
        self.fields.is_none() && self.include.is_none()
    }

    /// The tasks in this view, in their order. They were found for somebody who may see them.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn show(
        &self,
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        tasks: Vec<Task>,
    ) -> Result<Vec<ShownTask>> {
        if self.is_whole() {
            return Ok(tasks.into_iter().map(|task| ShownTask::Whole(Box::new(task))).collect());
        }
        let mut beside = self.beside(conn, viewer, &tasks).await?;
        tasks
            .into_iter()
            .map(|task| {
                let position = beside.iter().position(|row| row.id == task.id);
                let beside = position.map(|position| beside.swap_remove(position).beside);
                self.shape(&task, beside).map(ShownTask::Shaped)
            })
            .collect()
    }

    /// What is not a part of the tasks themselves, in one statement for all of them.
    async fn beside(
        &self,
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        tasks: &[Task],
    ) -> Result<Vec<Beside>> {
        let Some(AnyOf(include)) = &self.include else { return Ok(Vec::new()) };
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
        let wanted: Vec<&str> = include.iter().map(|include| include.as_str()).collect();
        let rows = sql!(
            concat!("SELECT t.id, jsonb_build_object(
                 'project', CASE WHEN 'project' = ANY (w.wanted) THEN
                     (SELECT jsonb_build_object('id', p.id, 'name', p.name) FROM projects p WHERE p.id = t.project_id) END,
                 'owner', CASE WHEN 'owner' = ANY (w.wanted) THEN
                     (SELECT jsonb_build_object('id', u.id, 'full_name', u.full_name) FROM users u WHERE u.id = t.owner_id) END,
                 'assignee', CASE WHEN 'assignee' = ANY (w.wanted) THEN
                     (SELECT jsonb_build_object('id', u.id, 'full_name', u.full_name) FROM users u WHERE u.id = t.assignee_id) END,
                 'subtasks', CASE WHEN 'subtasks' = ANY (w.wanted) THEN
                     (SELECT jsonb_build_object(
                          'open', count(*) FILTER (WHERE s.status IN ('todo', 'in_progress')), 'total', count(*))
                      FROM tasks s WHERE s.parent_id = t.id AND s.deleted_at IS NULL AND ", visible_to_sql!("s", "{viewer}", "{project}"), ") END,
                 'comments', CASE WHEN 'comments' = ANY (w.wanted) THEN
                     (SELECT jsonb_build_object('total', count(*))
                      FROM comments c WHERE c.task_id = t.id AND c.deleted_at IS NULL) END) AS beside
             FROM tasks t, (SELECT {wanted} AS wanted) w WHERE t.id = ANY ({ids})"),
            viewer: Uuid = viewer.user_id,
            project: Nullable<Uuid> = viewer.project,
            wanted: Array<diesel::sql_types::Text> = wanted,
            ids: Array<Uuid> = ids,
        );
        Ok(rows.load(conn).await?)
    }

    fn shape(&self, task: &Task, beside: Option<Value>) -> Result<Map<String, Value>> {
        let whole = match serde_json::to_value(task) {
            Ok(Value::Object(whole)) => whole,
            Ok(_) => return Err(Error::Internal(anyhow::anyhow!("a task is no JSON object"))),
            Err(error) => return Err(Error::Internal(error.into())),
        };
        let include = self.include.as_ref().map_or(&[][..], |AnyOf(include)| include);
        let includes = |name: &str| include.iter().any(|include| include.as_str() == name);
        let is_wanted = |name: &str| match &self.fields {
            None => true,
            Some(AnyOf(fields)) => {
                name == "id" || includes(name) || fields.iter().any(|field| field.0 == name)
            }
        };
        let mut shaped: Map<_, _> = whole.into_iter().filter(|(name, _)| is_wanted(name)).collect();
        if let Some(Value::Object(beside)) = beside {
            shaped.extend(beside.into_iter().filter(|(name, _)| includes(name)));
        }
        Ok(shaped)
    }
}
