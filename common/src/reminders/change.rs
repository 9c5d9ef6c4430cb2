use diesel::sql_types::{Integer, Nullable, Text, Timestamp, Timestamptz, Uuid};

use super::{
    MAX_PER_TASK, NewReminder, Reminder, ReminderKind,
    input::At,
    replan::{Warning, replan_task},
};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, OnConstraint as _, Result},
    ids::{ReminderId, TaskId},
    schema::sql_types,
    tasks::{self, visible_to_sql},
    users::Person,
};

/// What came of a change of a reminder.
#[derive(Debug)]
pub struct Changed {
    /// The reminder after the change.
    pub reminder: Reminder,
    /// Such as that its time has passed already.
    pub warnings: Vec<Warning>,
}

impl Reminder {
    /// Adds one to a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such task that this viewer may see, [`Error::Conflict`] if it lies in the
    /// trash, [`Error::Invalid`] if a rule is broken, or this reminder is there already.
    pub async fn create(tx: &mut Tx, viewer: Viewer, task: TaskId, new: &NewReminder) -> Result<Changed> {
        let now = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, now).await?;
        new.check_alone(touch(tx, viewer, task).await?)?;
        let others = Self::of_task(tx.conn(), viewer, task).await?;
        if others.len() >= MAX_PER_TASK {
            let detail = format!("A task has at most {MAX_PER_TASK} reminders.");
            return Err(Error::invalid("", Code::TooMany, detail));
        }
        let id = ReminderId::new();
        let (local, zone) = new.at.map(|at: At| at.pin(person.zone)).unzip();
        // An instant and a local time that are the same are one reminder, too.
        let added = sql!(
            "INSERT INTO reminders (id, task_id, user_id, kind, offset_minutes, at_local, at_zone, created_at)
             VALUES ({id}, {task}, {user}, {kind}, {offset}, {local}, {zone}, {now}) ON CONFLICT DO NOTHING",
            id: Uuid = id,
            task: Uuid = task,
            user: Uuid = viewer.user_id,
            kind: sql_types::ReminderKind = new.kind,
            offset: Nullable<Integer> = new.offset_minutes,
            local: Nullable<Timestamp> = local,
            zone: Nullable<Text> = zone,
            now: Timestamptz = person.now,
        )
        .execute(tx.conn())
        .await?;
        if added == 0 {
            return Err(duplicate());
        }
        let warnings = replan_task(tx, task, &person).await?;
        tasks::record_change(tx, viewer, task, "reminders").await?;
        Ok(Changed { reminder: Self::find(tx.conn(), viewer, task, id).await?, warnings })
    }

    /// Makes it fire at another time, or from now on by another rule. What it has sent stays as it is.
    ///
    /// # Errors
    /// As [`Reminder::create`].
    pub async fn change(
        tx: &mut Tx,
        viewer: Viewer,
        task: TaskId,
        id: ReminderId,
        new: &NewReminder,
    ) -> Result<Changed> {
        let now = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, now).await?;
        new.check_alone(touch(tx, viewer, task).await?)?;
        let (local, zone) = new.at.map(|at: At| at.pin(person.zone)).unzip();
        let changed = sql!(
            "UPDATE reminders SET kind = {kind}, offset_minutes = {offset}, at_local = {local}, at_zone = {zone}
             WHERE id = {id} AND task_id = {task} AND user_id = {user} AND removed_at IS NULL",
            kind: sql_types::ReminderKind = new.kind,
            offset: Nullable<Integer> = new.offset_minutes,
            local: Nullable<Timestamp> = local,
            zone: Nullable<Text> = zone,
            id: Uuid = id,
            task: Uuid = task,
            user: Uuid = viewer.user_id,
        )
        .execute(tx.conn())
        .await
        .on_constraint(
            match new.kind {
                ReminderKind::Relative => "reminders_relative_key",
                ReminderKind::Absolute => "reminders_absolute_key",
            },
            duplicate,
        )?;
        if changed == 0 {
            return Err(Error::NotFound("reminder"));
        }
        let warnings = replan_task(tx, task, &person).await?;
        tasks::record_change(tx, viewer, task, "reminders").await?;
        Ok(Changed { reminder: Self::find(tx.conn(), viewer, task, id).await?, warnings })
    }

    /// Removes it. Its fires stay, so that what was sent stays explained.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such reminder of this viewer's, [`Error::Conflict`] in the trash.
    pub async fn remove(tx: &mut Tx, viewer: Viewer, task: TaskId, id: ReminderId) -> Result<()> {
        let now = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, now).await?;
        touch(tx, viewer, task).await?;
        let removed = sql!(
            "UPDATE reminders SET removed_at = {now}
             WHERE id = {id} AND task_id = {task} AND user_id = {user} AND removed_at IS NULL",
            now: Timestamptz = person.now,
            id: Uuid = id,
            task: Uuid = task,
            user: Uuid = viewer.user_id,
        )
        .execute(tx.conn())
        .await?;
        if removed == 0 {
            return Err(Error::NotFound("reminder"));
        }
        replan_task(tx, task, &person).await?;
        tasks::record_change(tx, viewer, task, "reminders").await
    }
}

fn duplicate() -> Error {
    Error::invalid("", Code::Duplicate, "The task has this reminder already.")
}

/// Locks the task and raises its version: its reminders are part of what it answers. Tells whether it is due.
async fn touch(tx: &mut Tx, viewer: Viewer, task: TaskId) -> Result<bool> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        has_due: bool,
        #[diesel(sql_type = diesel::sql_types::Bool)]
        deleted: bool,
    }

    tasks::outdate(tx, [task]);
    let now = tx.clock().now();
    let row: Option<Row> = sql!(
        concat!(
            "UPDATE tasks SET version = version + 1, updated_at = {now} WHERE id = {task} AND ",
            visible_to_sql!("tasks", "{viewer}", "{project}"),
            " RETURNING due_kind IS NOT NULL AS has_due, deleted_at IS NOT NULL AS deleted"
        ),
        now = now,
        task: Uuid = task,
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
    .load(tx.conn())
    .await?
    .pop();
    match row {
        None => Err(Error::NotFound("task")),
        Some(Row { deleted: true, .. }) => {
            Err(Error::conflict(Code::TaskDeleted, "The task is in the trash. Restore it first."))
        }
        Some(Row { has_due, .. }) => Ok(has_due),
    }
}
