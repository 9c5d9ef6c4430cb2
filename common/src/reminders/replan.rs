use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Date, Integer, Nullable, Text, Time, Timestamp, Timestamptz, Uuid},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    FireState, ReminderKind,
    plan::{Cause, Change, Existing, FireReason, Recipient, TaskFacts, When, plan},
};
use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{FireId, ReminderId, TaskId, UserId},
    schema::sql_types,
    tasks::{self, due::Meaning},
    telemetry::Origin,
    users::Person,
    zone::Zone,
};

/// Something that the person should know about a change that was made.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Warning {
    /// What, for programs.
    #[schema(example = "reminder_in_past")]
    pub code: &'static str,
    /// Which reminder.
    pub reminder_id: ReminderId,
    /// When it would have fired.
    pub fire_at: DateTime<Utc>,
    /// What, for people.
    pub detail: String,
}

/// A reminder and its fire of the latest plan, with all that decides about it.
#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    reminder_id: ReminderId,
    #[diesel(sql_type = Uuid)]
    task_id: TaskId,
    #[diesel(sql_type = Uuid)]
    user_id: UserId,
    #[diesel(sql_type = sql_types::ReminderKind)]
    kind: ReminderKind,
    #[diesel(sql_type = Nullable<Integer>)]
    offset_minutes: Option<i32>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    at_local: Option<NaiveDateTime>,
    #[diesel(sql_type = Nullable<Text>)]
    at_zone: Option<Zone>,
    #[diesel(sql_type = Bool)]
    removed: bool,
    #[diesel(sql_type = Nullable<Text>)]
    closed: Option<String>,
    #[diesel(sql_type = Nullable<Date>)]
    due_date: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Time>)]
    due_time: Option<NaiveTime>,
    #[diesel(sql_type = Nullable<Text>)]
    due_zone: Option<Zone>,
    #[diesel(sql_type = Integer)]
    occurrence_no: i32,
    #[diesel(sql_type = Text)]
    time_zone: Zone,
    #[diesel(sql_type = Time)]
    day_start: NaiveTime,
    #[diesel(sql_type = Nullable<Uuid>)]
    fire_id: Option<FireId>,
    #[diesel(sql_type = Nullable<Integer>)]
    plan_no: Option<i32>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    fire_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<sql_types::FireState>)]
    state: Option<FireState>,
}

impl Row {
    fn when(&self) -> When {
        match (self.kind, self.at_local, &self.at_zone) {
            (ReminderKind::Absolute, Some(wall), Some(zone)) => When::Absolute { wall, zone: zone.clone() },
            // The schema allows no other combination.
            _ => When::Relative { offset_minutes: self.offset_minutes.unwrap_or_default() },
        }
    }

    fn facts(&self) -> TaskFacts {
        let closed = self.closed.as_deref().map(|reason| match reason {
            "task_deleted" => FireReason::TaskDeleted,
            "task_done" => FireReason::TaskDone,
            _ => FireReason::TaskArchived,
        });
        let due = self.due_date.map(|date| match (self.due_time, &self.due_zone) {
            (None, _) => Meaning::Date(date),
            (Some(time), None) => Meaning::Floating(date.and_time(time)),
            (Some(time), Some(zone)) => Meaning::Zoned(date.and_time(time), zone.clone()),
        });
        TaskFacts { closed, due }
    }

    fn existing(&self) -> Option<Existing> {
        let (id, plan_no, fire_at, state) = (self.fire_id?, self.plan_no?, self.fire_at?, self.state?);
        Some(Existing { id, plan_no, fire_at, state })
    }

    fn plan(&self, now: DateTime<Utc>, cause: Cause) -> Option<Change> {
        let recipient = Recipient { tz: self.time_zone.tz(), day_start: self.day_start };
        let existing = self.existing();
        plan(&self.facts(), &self.when(), self.removed, recipient, now, existing.as_slice(), cause)
    }
}

/// The columns of [`Row`], from `reminders r`, `tasks t`, `users u` and the fire `f`.
macro_rules! row_columns {
    () => {
        "r.id AS reminder_id, r.task_id, r.user_id, r.kind, r.offset_minutes, r.at_local, r.at_zone,
         r.removed_at IS NOT NULL AS removed,
         CASE WHEN t.deleted_at IS NOT NULL THEN 'task_deleted' WHEN t.status IN ('done', 'cancelled') THEN 'task_done'
              WHEN t.archived_at IS NOT NULL THEN 'task_archived' END AS closed,
         t.due_date, t.due_time, t.due_zone, t.occurrence_no, u.time_zone, u.day_start,
         f.id AS fire_id, f.plan_no, f.planned_for AS fire_at, f.state"
    };
}

/// Plans a task's reminders anew, in the transaction that changed the task or its reminders and holds its lock. Each
/// reminder goes by the settings of its own person; `person` is who made the change, and when.
///
/// # Errors
/// If the database is away.
pub async fn replan_task(tx: &mut Tx, task: TaskId, person: &Person) -> Result<Vec<Warning>> {
    replan_tasks(tx, &[task], person).await
}

/// [`replan_task`] for several.
///
/// # Errors
/// If the database is away.
pub async fn replan_tasks(tx: &mut Tx, tasks: &[TaskId], person: &Person) -> Result<Vec<Warning>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    // The fires are locked before they are judged: a worker that is just taking one has it, or will find it changed.
    // What was snoozed into a slot of its own has its time from the person: no plan moves it, but it ends with the task
    // and with its reminder.
    let rows: Vec<Row> = sql!(
        concat!(
            "WITH fires AS MATERIALIZED
                 (SELECT * FROM reminder_fires WHERE task_id = ANY ({tasks}) ORDER BY id FOR UPDATE),
             snoozed AS (UPDATE reminder_fires f SET state = 'cancelled',
                     reason = CASE WHEN t.deleted_at IS NOT NULL THEN 'task_deleted'
                         WHEN t.status IN ('done', 'cancelled') THEN 'task_done'
                         WHEN t.archived_at IS NOT NULL THEN 'task_archived' ELSE 'reminder_removed' END
                 FROM fires s JOIN tasks t ON t.id = s.task_id JOIN reminders r ON r.id = s.reminder_id
                 WHERE f.id = s.id AND s.slot > 0 AND s.state IN ('planned', 'deferred', 'queued')
                     AND (t.deleted_at IS NOT NULL OR t.status IN ('done', 'cancelled') OR t.archived_at IS NOT NULL
                          OR r.removed_at IS NOT NULL))
             SELECT ", row_columns!(), "
             FROM reminders r JOIN tasks t ON t.id = r.task_id JOIN users u ON u.id = r.user_id
             LEFT JOIN LATERAL (SELECT * FROM fires WHERE fires.reminder_id = r.id AND fires.slot = 0
                 AND fires.occurrence_no = t.occurrence_no ORDER BY fires.plan_no DESC LIMIT 1) f ON true
             WHERE r.task_id = ANY ({tasks}) AND (r.removed_at IS NULL OR f.state IN ('planned', 'deferred', 'queued'))"
        ),
        tasks: Array<Uuid> = tasks,
    )
    .load(tx.conn())
    .await?;
    let changes: Vec<(&Row, Change)> =
        rows.iter().filter_map(|row| Some((row, row.plan(person.now, Cause::Edited)?))).collect();
    apply(tx, person.now, &changes).await?;
    Ok(changes.iter().filter_map(|(row, change)| Warning::of(row.reminder_id, change)).collect())
}

/// Plans anew what a person's time zone and start of the day decide, after one of them was changed: what is planned
/// moves, what was sent is not sent again (semantics §4). Answers how many fires moved. The version of their tasks
/// rises, which answer with them.
///
/// # Errors
/// If the database is away.
pub async fn replan_person(tx: &mut Tx, person: &Person) -> Result<usize> {
    // Tasks before fires, both in the order of their ids: as every change of a task does.
    sql!(
        "SELECT id FROM tasks WHERE id IN (SELECT task_id FROM reminder_fires
             WHERE user_id = {user} AND state IN ('planned', 'deferred')) ORDER BY id FOR NO KEY UPDATE",
        user: Uuid = person.id,
    )
    .execute(tx.conn())
    .await?;
    let rows: Vec<Row> = sql!(
        concat!(
            "WITH f AS MATERIALIZED (SELECT * FROM reminder_fires
                 WHERE user_id = {user} AND state IN ('planned', 'deferred') AND slot = 0
                     AND reason IS DISTINCT FROM 'snoozed' ORDER BY id FOR UPDATE)
             SELECT ", row_columns!(), "
             FROM f JOIN reminders r ON r.id = f.reminder_id JOIN tasks t ON t.id = r.task_id
             JOIN users u ON u.id = r.user_id
             WHERE r.kind = 'relative'"
        ),
        user: Uuid = person.id,
    )
    .load(tx.conn())
    .await?;
    let changes: Vec<(&Row, Change)> =
        rows.iter().filter_map(|row| Some((row, row.plan(person.now, Cause::Moved)?))).collect();
    apply(tx, person.now, &changes).await?;
    if !changes.is_empty() {
        let ids: Vec<TaskId> = changes.iter().map(|(row, _)| row.task_id).collect();
        tasks::outdate(tx, ids.iter().copied());
        sql!(
            "UPDATE tasks SET version = version + 1, updated_at = {now} WHERE id = ANY({ids})",
            now: Timestamptz = person.now,
            ids: Array<Uuid> = ids,
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(changes.len())
}

impl Warning {
    /// What the person should know of what is planned for a reminder.
    pub(super) fn of(reminder_id: ReminderId, change: &Change) -> Option<Self> {
        let (Change::Insert { fire_at, .. } | Change::Move { fire_at, .. } | Change::Settle { fire_at, .. }) =
            change;
        change.is_too_late().then(|| Self {
            code: "reminder_in_past",
            reminder_id,
            fire_at: *fire_at,
            detail: "The time of this reminder has passed: it will not be sent.".to_owned(),
        })
    }
}

/// Writes what [`plan`] wants, in one statement for what is there and one for what is new.
async fn apply(tx: &mut Tx, now: DateTime<Utc>, changes: &[(&Row, Change)]) -> Result<()> {
    let origin = Origin::current();
    let updates: Vec<_> = changes
        .iter()
        .filter_map(|(_, change)| match change {
            Change::Insert { .. } => None,
            Change::Move { id, fire_at } => Some((*id, *fire_at, FireState::Planned, None)),
            Change::Settle { id, fire_at, state, reason } => Some((*id, *fire_at, *state, Some(*reason))),
        })
        .collect();
    if !updates.is_empty() {
        sql!(
            "UPDATE reminder_fires f
             SET fire_at = c.fire_at, planned_for = c.fire_at, state = c.state::fire_state, reason = c.reason, job_id = NULL,
                 message_id = NULL, request_id = coalesce({request_id}, f.request_id),
                 traceparent = coalesce({traceparent}, f.traceparent)
             FROM unnest({ids}, {times}, {states}, {reasons}) AS c (id, fire_at, state, reason) WHERE f.id = c.id",
            request_id: Nullable<Text> = origin.request_id.clone(),
            traceparent: Nullable<Text> = origin.traceparent.clone(),
            ids: Array<Uuid> = updates.iter().map(|(id, ..)| *id).collect::<Vec<_>>(),
            times: Array<Timestamptz> = updates.iter().map(|(_, at, ..)| *at).collect::<Vec<_>>(),
            states: Array<Text> = updates.iter().map(|(_, _, state, _)| state.as_str()).collect::<Vec<_>>(),
            reasons: Array<Nullable<Text>> =
                updates.iter().map(|(.., reason)| reason.map(FireReason::as_str)).collect::<Vec<_>>(),
        )
        .execute(tx.conn())
        .await?;
    }
    let inserts: Vec<_> = changes
        .iter()
        .filter_map(|(row, change)| match change {
            Change::Insert { plan_no, fire_at, state, reason } => {
                Some((*row, *plan_no, *fire_at, *state, *reason))
            }
            Change::Move { .. } | Change::Settle { .. } => None,
        })
        .collect();
    if !inserts.is_empty() {
        sql!(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, occurrence_no, plan_no, fire_at, planned_for,
                 state, reason, request_id, traceparent, created_at)
             SELECT n.id, n.reminder_id, n.task_id, n.user_id, n.occurrence_no, n.plan_no, n.fire_at, n.fire_at,
                 n.state::fire_state, n.reason, {request_id}, {traceparent}, {now}
             FROM unnest({ids}, {reminders}, {tasks}, {users}, {occurrences}, {plans}, {times}, {states}, {reasons})
                 AS n (id, reminder_id, task_id, user_id, occurrence_no, plan_no, fire_at, state, reason)",
            request_id: Nullable<Text> = origin.request_id,
            traceparent: Nullable<Text> = origin.traceparent,
            now: Timestamptz = now,
            ids: Array<Uuid> = inserts.iter().map(|_| FireId::new()).collect::<Vec<_>>(),
            reminders: Array<Uuid> = inserts.iter().map(|(row, ..)| row.reminder_id).collect::<Vec<_>>(),
            tasks: Array<Uuid> = inserts.iter().map(|(row, ..)| row.task_id).collect::<Vec<_>>(),
            users: Array<Uuid> = inserts.iter().map(|(row, ..)| row.user_id).collect::<Vec<_>>(),
            occurrences: Array<Integer> = inserts.iter().map(|(row, ..)| row.occurrence_no).collect::<Vec<_>>(),
            plans: Array<Integer> = inserts.iter().map(|(_, plan_no, ..)| *plan_no).collect::<Vec<_>>(),
            times: Array<Timestamptz> = inserts.iter().map(|(_, _, at, ..)| *at).collect::<Vec<_>>(),
            states: Array<Text> = inserts.iter().map(|(_, _, _, state, _)| state.as_str()).collect::<Vec<_>>(),
            reasons: Array<Nullable<Text>> =
                inserts.iter().map(|(.., reason)| reason.map(FireReason::as_str)).collect::<Vec<_>>(),
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(())
}
