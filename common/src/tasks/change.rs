use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
    sql_types::{Array, Timestamptz, Uuid},
};

use super::{Due, DueKind, NewTask, Task, TaskPatch, TaskStatus, event, visible_to};
use crate::{
    access::{Expected, Viewer},
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, Result},
    events::EventType,
    ids::TaskId,
    reminders::{self, Warning},
    schema::tasks,
    tags,
    users::Person,
};

/// What came of a change: the task as it is now, and what the person should know.
#[derive(Debug)]
pub struct Changed {
    /// The task after the change.
    pub task: Task,
    /// Such as a reminder whose time has passed already.
    pub warnings: Vec<Warning>,
}

impl Task {
    /// Makes a task of the viewer's own, with its tags and reminders, and plans what they will send.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a rule is broken that only the person's settings decide.
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewTask) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let tag_names = tags::normalise(&new.tags, "/tags")?;
        let due = new.due.as_ref().map(|due| due.resolve(person.zone)).unwrap_or_default();
        reminders::check(&new.reminders, due.at().is_some(), "/reminders")?;

        let id = TaskId::new();
        diesel::insert_into(tasks::table)
            .values((
                (tasks::id.eq(id), tasks::owner_id.eq(viewer.user_id), tasks::created_by.eq(viewer.user_id)),
                (tasks::title.eq(new.title.trim()), tasks::description.eq(new.description.as_deref())),
                (tasks::priority.eq(new.priority), &due),
                (tasks::created_at.eq(person.now), tasks::updated_at.eq(person.now)),
            ))
            .execute(tx.conn())
            .await?;
        if !tag_names.is_empty() {
            tags::set(tx, viewer.user_id, id, &tag_names).await?;
        }
        reminders::add(tx, id, viewer.user_id, &new.reminders, &person).await?;
        let created = settle(tx, viewer, id, &person).await?;
        created.task.record(tx, viewer, EventType::TaskCreated, None).await?;
        Ok(created)
    }

    /// Changes what the patch names.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`] if it is not the version that the caller saw, [`Error::Conflict`] in the
    /// trash, [`Error::Invalid`] if a rule is broken.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        patch: &TaskPatch,
    ) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let before = Self::lock(tx, viewer, id, expected).await?;
        before.refuse_in_trash()?;
        let tag_names = patch.tags.as_ref().map(|names| tags::normalise(names, "/tags")).transpose()?;
        let due = match &patch.due {
            None => None,
            Some(None) => Some(Due::default()),
            Some(Some(due)) => Some(due.resolve(person.zone)),
        };
        let status = patch.status.filter(|status| *status != before.status);
        diesel::update(tasks::table.find(id))
            .set((
                patch.title.as_deref().map(|title| tasks::title.eq(title.trim())),
                patch.description.as_ref().map(|text| tasks::description.eq(text.as_deref())),
                patch.priority.map(|priority| tasks::priority.eq(priority)),
                due.as_ref(),
                status.map(|status| status_columns(status, person.now)),
                touched(&before, person.now),
            ))
            .execute(tx.conn())
            .await?;
        if let Some(names) = &tag_names {
            tags::set(tx, before.owner_id, id, names).await?;
        }
        let after = settle(tx, viewer, id, &person).await?;
        after.task.record(tx, viewer, after.task.change_type(&before), Some(&before)).await?;
        Ok(after)
    }

    /// Finishes the task. Finishing it again changes nothing.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn complete(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        Self::set_status(tx, viewer, id, expected, TaskStatus::Done).await
    }

    /// Opens a closed task again. Reminders that lie ahead are planned again, what has passed is not sent.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn reopen(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        Self::set_status(tx, viewer, id, expected, TaskStatus::Todo).await
    }

    async fn set_status(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        status: TaskStatus,
    ) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let before = Self::lock(tx, viewer, id, expected).await?;
        before.refuse_in_trash()?;
        // Reopening what is in progress would lose that it was begun.
        if before.status == status || (status == TaskStatus::Todo && before.status.is_open()) {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        diesel::update(tasks::table.find(id))
            .set((status_columns(status, person.now), touched(&before, person.now)))
            .execute(tx.conn())
            .await?;
        let after = settle(tx, viewer, id, &person).await?;
        after.task.record(tx, viewer, after.task.change_type(&before), Some(&before)).await?;
        Ok(after)
    }

    /// Puts the task away, or takes it out again. Open reminders of what is put away are cancelled.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn archive(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        archived: bool,
    ) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let before = Self::lock(tx, viewer, id, expected).await?;
        before.refuse_in_trash()?;
        if before.archived_at.is_some() == archived {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        diesel::update(tasks::table.find(id))
            .set((tasks::archived_at.eq(archived.then_some(person.now)), touched(&before, person.now)))
            .execute(tx.conn())
            .await?;
        let after = settle(tx, viewer, id, &person).await?;
        let kind = if archived { EventType::TaskArchived } else { EventType::TaskRestored };
        after.task.record(tx, viewer, kind, None).await?;
        Ok(after)
    }

    /// Puts the task into the trash, where it stays for a while. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<()> {
        let person = person(tx, viewer).await?;
        let before = Self::lock(tx, viewer, id, expected).await?;
        if before.deleted_at.is_none() {
            diesel::update(tasks::table.find(id))
                .set((tasks::deleted_at.eq(Some(person.now)), touched(&before, person.now)))
                .execute(tx.conn())
                .await?;
            let after = settle(tx, viewer, id, &person).await?;
            after.task.record(tx, viewer, EventType::TaskDeleted, None).await?;
        }
        Ok(())
    }

    /// Takes the task out of the trash, or out of the archive.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn restore(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let before = Self::lock(tx, viewer, id, expected).await?;
        let none: Option<DateTime<Utc>> = None;
        if before.deleted_at.is_some() {
            diesel::update(tasks::table.find(id))
                .set((tasks::deleted_at.eq(none), touched(&before, person.now)))
                .execute(tx.conn())
                .await?;
        } else if before.archived_at.is_some() {
            diesel::update(tasks::table.find(id))
                .set((tasks::archived_at.eq(none), touched(&before, person.now)))
                .execute(tx.conn())
                .await?;
        } else {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        let after = settle(tx, viewer, id, &person).await?;
        after.task.record(tx, viewer, EventType::TaskRestored, None).await?;
        Ok(after)
    }

    /// Counts anew when a person's tasks are due that hang on their clock, after it was changed. The versions rise.
    ///
    /// # Errors
    /// If the database is away.
    pub(crate) async fn follow_clock(tx: &mut Tx, person: &Person) -> Result<()> {
        let rows: Vec<(TaskId, Due)> = tasks::table
            .filter(tasks::owner_id.eq(person.id))
            .filter(tasks::due_kind.eq_any([DueKind::Date, DueKind::Floating]))
            .order(tasks::id)
            .select((tasks::id, Due::as_select()))
            .for_no_key_update()
            .load(tx.conn())
            .await?;
        let moved: Vec<(TaskId, Due, DateTime<Utc>)> = rows
            .into_iter()
            .filter_map(|(id, due)| {
                let at = due.meaning()?.instant(person.zone);
                (due.at() != Some(at)).then_some((id, due, at))
            })
            .collect();
        let (ids, instants): (Vec<TaskId>, Vec<DateTime<Utc>>) =
            moved.iter().map(|(id, _, at)| (*id, *at)).unzip();
        sql!(
            "UPDATE tasks t SET due_at = m.at, version = version + 1, updated_at = {now}
             FROM unnest({ids}, {instants}) AS m (id, at) WHERE t.id = m.id",
            now: Timestamptz = person.now,
            ids: Array<Uuid> = ids,
            instants: Array<Timestamptz> = instants,
        )
        .execute(tx.conn())
        .await?;
        let before = moved.into_iter().map(|(id, due, _)| (id, due)).collect();
        event::record_moved(tx, Viewer { user_id: person.id }, &before).await
    }

    /// The task as it stands, locked until the end of the transaction.
    pub(crate) async fn lock(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Self> {
        let task: Self = Self::query()
            .filter(tasks::id.eq(id))
            .filter(visible_to(viewer.user_id))
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?
            .ok_or(Error::NotFound("task"))?;
        if expected.allows(task.version) { Ok(task) } else { Err(Error::Stale { etag: task.etag() }) }
    }

    fn refuse_in_trash(&self) -> Result<()> {
        match self.deleted_at {
            None => Ok(()),
            Some(_) => Err(Error::conflict(Code::TaskDeleted, "The task is in the trash. Restore it first.")),
        }
    }
}

/// The viewer's settings, and the time.
async fn person(tx: &mut Tx, viewer: Viewer) -> Result<Person> {
    let now = tx.clock().now();
    Person::load(tx.conn(), viewer.user_id, now).await
}

/// The columns that say how far a task is, which hold together (a check in the schema).
fn status_columns(status: TaskStatus, now: DateTime<Utc>) -> StatusColumns {
    StatusColumns {
        status,
        completed_at: (status == TaskStatus::Done).then_some(now),
        cancelled_at: (status == TaskStatus::Cancelled).then_some(now),
    }
}

#[derive(diesel::AsChangeset)]
#[diesel(table_name = tasks, treat_none_as_null = true)]
struct StatusColumns {
    status: TaskStatus,
    completed_at: Option<DateTime<Utc>>,
    cancelled_at: Option<DateTime<Utc>>,
}

#[derive(diesel::AsChangeset)]
#[diesel(table_name = tasks)]
pub(crate) struct Touched {
    version: i32,
    updated_at: DateTime<Utc>,
}

/// What every change leaves behind.
pub(crate) fn touched(before: &Task, now: DateTime<Utc>) -> Touched {
    Touched { version: before.version + 1, updated_at: now }
}

/// Plans anew what the task will send, and reads it as it is now.
pub(crate) async fn settle(tx: &mut Tx, viewer: Viewer, id: TaskId, person: &Person) -> Result<Changed> {
    let warnings = reminders::replan_task(tx, id, person).await?;
    let task = Task::find(tx.conn(), viewer, id).await?;
    Ok(Changed { task, warnings })
}
