use chrono::{DateTime, Duration, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery as _, QueryDsl as _, QueryableByName,
    sql_types::{Bool, Integer, Nullable, Text, Timestamptz, Uuid},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Fire, input::At};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    ids::{FireId, ReminderId, TaskId},
    schema::reminder_fires,
    tasks::{self, visible_to_sql},
    telemetry::Origin,
    users::Person,
    zone,
};

/// The longest snooze.
const LONGEST: Duration = Duration::days(366);

/// For how long to be left alone: exactly one of the two.
#[derive(Debug, Clone, Copy, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"minutes": 60}))]
pub struct Snooze {
    /// Until an instant (`2026-12-01T15:00:00Z`) or a local time (`2026-12-01T15:00`) in the person's own time zone, at
    /// most 366 days ahead.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "2026-12-01T15:00:00Z")]
    pub until: Option<At>,
    /// For so many minutes from now.
    #[serde(default)]
    #[schema(example = 60, minimum = 1, maximum = 527_040)]
    pub minutes: Option<i64>,
}

impl Snooze {
    /// When the reminder comes again.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is exactly one field and it lies ahead.
    fn instant(&self, person: &Person) -> Result<DateTime<Utc>> {
        let until = match (self.until, self.minutes) {
            (Some(at), None) => {
                let until = at.instant(person.zone);
                if until <= person.now {
                    let detail = "This time has passed. Give one that lies ahead.";
                    return Err(Error::invalid("/until", Code::InvalidValue, detail));
                }
                if until > person.now + LONGEST {
                    let detail = "A reminder can be snoozed for 366 days at most.";
                    return Err(Error::invalid("/until", Code::InvalidValue, detail));
                }
                until
            }
            (None, Some(minutes)) => Duration::try_minutes(minutes)
                .filter(|length| (Duration::minutes(1)..=LONGEST).contains(length))
                .map(|length| zone::whole_second(person.now + length))
                .ok_or_else(|| {
                    let detail = "Give 1 to 527040 minutes (366 days).";
                    Error::invalid("/minutes", Code::InvalidValue, detail)
                })?,
            (None, None) => {
                let detail = "Say until when: give `until` or `minutes`.";
                return Err(Error::invalid("", Code::Required, detail));
            }
            (Some(_), Some(_)) => {
                let detail = "Give `until` or `minutes`, not both.";
                return Err(Error::Invalid(vec![FieldError::at("/minutes", Code::InvalidValue, detail)]));
            }
        };
        Ok(until)
    }
}

/// What comes again, and when.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Snoozed {
    /// Which reminder.
    pub reminder_id: ReminderId,
    /// Its fire as it is planned now.
    pub fire: Fire,
}

/// Moves a person's next open fire of a task to another time; if none is open, the reminder that came last comes again,
/// in a slot of its own. Other reminders and the due date stay (semantics §4).
///
/// # Errors
/// [`Error::NotFound`] if there is no such task that this viewer may see, [`Error::Conflict`] if it reminds of nothing,
/// [`Error::Invalid`] if the time does not fit.
pub async fn snooze(tx: &mut Tx, viewer: Viewer, task: TaskId, wish: &Snooze) -> Result<Snoozed> {
    let now = tx.clock().now();
    let person = Person::load(tx.conn(), viewer.user_id, now).await?;
    let occurrence = touch(tx, viewer, task).await?;
    let until = wish.instant(&person)?;
    put_off(tx, viewer, task, occurrence, until).await
}

/// [`snooze`] until an instant that lies ahead for certain.
///
/// # Errors
/// As [`snooze`].
pub async fn snooze_until(
    tx: &mut Tx,
    viewer: Viewer,
    task: TaskId,
    until: DateTime<Utc>,
) -> Result<Snoozed> {
    let occurrence = touch(tx, viewer, task).await?;
    put_off(tx, viewer, task, occurrence, until).await
}

async fn put_off(
    tx: &mut Tx,
    viewer: Viewer,
    task: TaskId,
    occurrence: i32,
    until: DateTime<Utc>,
) -> Result<Snoozed> {
    let moved = match move_next(tx, viewer, task, occurrence, until).await? {
        Some(moved) => Some(moved),
        None => begin_slot(tx, viewer, task, occurrence, until).await?,
    };
    let Row { id, reminder_id } = moved.ok_or_else(|| {
        let detail = "The task has no reminder of yours that could come again. Add one.";
        Error::conflict(Code::NoReminder, detail)
    })?;
    let fire = Fire::query().filter(reminder_fires::id.eq(id)).first(tx.conn()).await?;
    Ok(Snoozed { reminder_id, fire })
}

/// Locks the task and raises its version, as its reminders are part of what it answers. Tells its occurrence.
async fn touch(tx: &mut Tx, viewer: Viewer, task: TaskId) -> Result<i32> {
    #[derive(QueryableByName)]
    struct Task {
        #[diesel(sql_type = Integer)]
        occurrence_no: i32,
        #[diesel(sql_type = Bool)]
        deleted: bool,
        #[diesel(sql_type = Bool)]
        closed: bool,
    }

    tasks::outdate(tx, [task]);
    let row: Option<Task> = sql!(
        concat!(
            "UPDATE tasks SET version = version + 1, updated_at = {now} WHERE id = {task} AND ",
            visible_to_sql!("tasks", "{viewer}", "{project}"),
            " RETURNING occurrence_no, deleted_at IS NOT NULL AS deleted,
             status IN ('done', 'cancelled') OR archived_at IS NOT NULL AS closed"
        ),
        now = tx.clock().now(),
        task: Uuid = task,
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
    .load(tx.conn())
    .await?
    .pop();
    match row {
        None => Err(Error::NotFound("task")),
        Some(Task { deleted: true, .. }) => {
            Err(Error::conflict(Code::TaskDeleted, "The task is in the trash. Restore it first."))
        }
        Some(Task { closed: true, .. }) => {
            Err(Error::conflict(Code::TaskClosed, "The task is done, cancelled or archived."))
        }
        Some(Task { occurrence_no, .. }) => Ok(occurrence_no),
    }
}

/// A fire that comes at another time now.
#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: FireId,
    #[diesel(sql_type = Uuid)]
    reminder_id: ReminderId,
}

async fn move_next(
    tx: &mut Tx,
    viewer: Viewer,
    task: TaskId,
    occurrence: i32,
    until: DateTime<Utc>,
) -> Result<Option<Row>> {
    let origin = Origin::current();
    // All of them are locked, in the order in which everybody locks them: then the first is the first.
    let moved = sql!(
        "WITH open AS MATERIALIZED (SELECT f.id, f.fire_at FROM reminder_fires f JOIN reminders r ON r.id = f.reminder_id
             WHERE f.task_id = {task} AND f.user_id = {user} AND f.occurrence_no = {occurrence}
                 AND f.state IN ('planned', 'deferred', 'queued') AND r.removed_at IS NULL
             ORDER BY f.id FOR UPDATE OF f)
         UPDATE reminder_fires f SET fire_at = {until}, state = 'planned', reason = 'snoozed', job_id = NULL,
             message_id = NULL, request_id = coalesce({request_id}, f.request_id),
             traceparent = coalesce({traceparent}, f.traceparent)
         WHERE f.id = (SELECT id FROM open ORDER BY fire_at, id LIMIT 1) RETURNING f.id, f.reminder_id",
        task: Uuid = task,
        user: Uuid = viewer.user_id,
        occurrence: Integer = occurrence,
        until: Timestamptz = until,
        request_id: Nullable<Text> = origin.request_id,
        traceparent: Nullable<Text> = origin.traceparent,
    )
    .load(tx.conn())
    .await?
    .pop();
    Ok(moved)
}

async fn begin_slot(
    tx: &mut Tx,
    viewer: Viewer,
    task: TaskId,
    occurrence: i32,
    until: DateTime<Utc>,
) -> Result<Option<Row>> {
    let origin = Origin::current();
    let begun = sql!(
        "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, occurrence_no, slot, fire_at, planned_for, reason,
             request_id, traceparent, created_at)
         SELECT {id}, r.id, r.task_id, r.user_id, {occurrence}, coalesce(f.slot, 0) + 1, {until}, {until}, 'snoozed',
             {request_id}, {traceparent}, {now}
         FROM reminders r LEFT JOIN LATERAL (SELECT max(slot) AS slot, max(fire_at) FILTER (WHERE fire_at <= {now}) AS last
             FROM reminder_fires WHERE reminder_id = r.id AND occurrence_no = {occurrence}) f ON true
         WHERE r.task_id = {task} AND r.user_id = {user} AND r.removed_at IS NULL
         ORDER BY f.last DESC NULLS LAST, r.id LIMIT 1
         RETURNING id, reminder_id",
        id: Uuid = FireId::new(),
        occurrence: Integer = occurrence,
        until: Timestamptz = until,
        now = tx.clock().now(),
        task: Uuid = task,
        user: Uuid = viewer.user_id,
        request_id: Nullable<Text> = origin.request_id,
        traceparent: Nullable<Text> = origin.traceparent,
    )
    .load(tx.conn())
    .await?
    .pop();
    Ok(begun)
}
