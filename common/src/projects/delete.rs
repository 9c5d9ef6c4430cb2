use std::str::FromStr;

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryableByName,
    dsl::exists,
    sql_types::{Bool, Timestamptz, Uuid},
};
use serde::{Deserialize, Deserializer};

use super::Project;
use crate::{
    access::{Expected, MemberRole, Viewer},
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    events::EventType,
    ids::{ProjectId, TaskId},
    schema::{projects, tasks as rows},
    tags, tasks,
};

/// What becomes of the tasks of a project that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposal {
    /// They go to the trash of whose they are.
    Trash,
    /// They go to another project.
    Move(ProjectId),
}

impl FromStr for Disposal {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "trash" => Ok(Self::Trash),
            Some(("move", id)) => {
                id.parse().map(Self::Move).map_err(|_| "after `move:` stands the id of a project")
            }
            _ => Err("it is `trash`, or `move:` and the id of a project"),
        }
    }
}

impl<'de> Deserialize<'de> for Disposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: TaskId,
    #[diesel(sql_type = Bool)]
    was_in_trash: bool,
    #[diesel(sql_type = Timestamptz)]
    updated_at: DateTime<Utc>,
}

impl Project {
    /// Deletes the project, for good, and disposes of its tasks.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] unless the viewer is an owner and, of the project that gets the tasks, an
    /// editor; [`Error::Stale`]; [`Error::Conflict`] if it has tasks and nothing is said about them;
    /// [`Error::Invalid`] if there is no such other project.
    pub async fn delete(
        tx: &mut Tx,
        viewer: Viewer,
        id: ProjectId,
        expected: &Expected,
        disposal: Option<Disposal>,
    ) -> Result<()> {
        let project = Self::lock(tx, viewer, id, expected, MemberRole::Owner).await?;
        viewer.refuse_restricted()?;
        match disposal {
            Some(Disposal::Move(to)) => {
                let at = |code, detail: String| FieldError::parameter("tasks", code, detail);
                if to == id {
                    let detail = "Name another project.".to_owned();
                    return Err(Error::Invalid(vec![at(Code::InvalidValue, detail)]));
                }
                tasks::check_project(tx, viewer, Some(to), at).await?;
                move_tasks(tx, viewer, id, to).await?;
            }
            Some(Disposal::Trash) => trash_tasks(tx, viewer, id).await?,
            None => {
                let in_use = rows::table.filter(rows::project_id.eq(id)).filter(rows::deleted_at.is_null());
                if diesel::select(exists(in_use)).get_result(tx.conn()).await? {
                    return Err(Error::conflict(Code::ProjectNotEmpty, Code::ProjectNotEmpty.help()));
                }
                trash_tasks(tx, viewer, id).await?;
            }
        }
        diesel::delete(projects::table.find(id)).execute(tx.conn()).await?;
        project.record(tx, viewer, EventType::ProjectDeleted, None).await
    }
}

/// Who does not see a task in its new project does it no more.
async fn move_tasks(tx: &mut Tx, viewer: Viewer, from: ProjectId, to: ProjectId) -> Result<()> {
    let moved: Vec<Row> = sql!(
        "WITH moving AS MATERIALIZED (SELECT id FROM tasks WHERE project_id = {from} ORDER BY id FOR NO KEY UPDATE)
         UPDATE tasks t SET project_id = {to}, version = version + 1, updated_at = {now},
             assignee_id = CASE WHEN t.assignee_id = t.owner_id OR t.assignee_id IN
                 (SELECT a.user_id FROM project_access a WHERE a.project_id = {to}) THEN t.assignee_id END
         FROM moving m WHERE t.id = m.id RETURNING t.id, t.deleted_at IS NOT NULL AS was_in_trash, t.updated_at",
        from: Uuid = from,
        to: Uuid = to,
        now = tx.clock().now(),
    )
    .load(tx.conn())
    .await?;
    let Some(now) = moved.as_slice().first().map(|row| row.updated_at) else { return Ok(()) };
    let ids: Vec<TaskId> = moved.into_iter().map(|row| row.id).collect();
    tasks::outdate(tx, ids.iter().copied());
    tags::rescope(tx, &ids).await?;
    tasks::recount(tx, viewer, now, &ids).await?;
    tasks::record_released(tx, viewer, &ids, &["project_id", "assignee_id"]).await
}

/// The tasks go to their owners' trash, from where they can be restored: then they are in no project, inside
/// nothing of others, and done by nobody else.
async fn trash_tasks(tx: &mut Tx, viewer: Viewer, project: ProjectId) -> Result<()> {
    let trashed: Vec<Row> = sql!(
        "WITH old AS MATERIALIZED (SELECT id, deleted_at FROM tasks WHERE project_id = {project} ORDER BY id FOR NO KEY UPDATE),
         open AS MATERIALIZED (SELECT id FROM reminder_fires WHERE task_id IN (SELECT id FROM old)
             AND state IN ('planned', 'deferred', 'queued') ORDER BY id FOR UPDATE),
         cancelled AS (UPDATE reminder_fires SET state = 'cancelled', reason = 'task_deleted'
             WHERE id IN (SELECT id FROM open))
         UPDATE tasks t SET project_id = NULL, deleted_at = coalesce(t.deleted_at, {now}),
             assignee_id = CASE WHEN t.assignee_id = t.owner_id THEN t.assignee_id END,
             parent_id = (SELECT p.id FROM tasks p WHERE p.id = t.parent_id AND p.owner_id = t.owner_id),
             version = version + 1, updated_at = {now}
         FROM old o WHERE t.id = o.id RETURNING t.id, o.deleted_at IS NOT NULL AS was_in_trash, t.updated_at",
        project: Uuid = project,
        now = tx.clock().now(),
    )
    .load(tx.conn())
    .await?;
    let Some(now) = trashed.as_slice().first().map(|row| row.updated_at) else { return Ok(()) };
    let ids: Vec<TaskId> = trashed.iter().map(|row| row.id).collect();
    tasks::outdate(tx, ids.iter().copied());
    tags::rescope(tx, &ids).await?;
    tasks::recount(tx, viewer, now, &ids).await?;
    let fresh: Vec<TaskId> = trashed.iter().filter(|row| !row.was_in_trash).map(|row| row.id).collect();
    tasks::record_all(tx, EventType::TaskDeleted, &fresh).await
}
