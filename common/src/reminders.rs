//! Reminders: what a person asked for. What follows from one is a [`Fire`], one planned delivery, whose states and
//! reasons answer "why was or wasn't this mail sent?" (semantics §3–§5).

mod by_mail;
mod catch_up;
mod change;
mod delivery;
mod fire;
mod first;
mod input;
mod late;
pub mod plan;
mod replan;
mod sending;
mod snooze;
mod upcoming;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryDsl as _,
    deserialize::{self, FromSql, FromSqlRow},
    pg::{Pg, PgValue},
    sql_types::{Array, Integer, Nullable, Record, Text, Timestamp, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::first::FirstReminders;
pub use self::{
    by_mail::Subject,
    change::Changed,
    delivery::{BATCH, CATCH_UP_PER_SECOND, Recovered, Taken, queue_due, recover, until_next},
    fire::{Channel, Fire, Reason},
    input::{At, MAX_PER_TASK, NewReminder, check},
    late::LateFire,
    plan::{FireReason, FireState},
    replan::{Warning, replan_person, replan_task, replan_tasks},
    sending::{Claim, ClaimedFire, Ending, Recipient, claim, hold, settle, waiting},
    snooze::{Snooze, Snoozed, snooze, snooze_until},
    upcoming::{UpcomingFilter, UpcomingFire},
};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, pg_enum, sql_expression},
    error::{Error, Result},
    ids::{ReminderId, TaskId, UserId},
    schema::{sql_types, tasks},
    tasks::visible_to,
    zone::{self, Zone},
};

pg_enum! {
    /// What a reminder is counted from.
    ReminderKind: ReminderKind {
        /// The task's due date.
        Relative = "relative",
        /// Nothing: it has its own time.
        Absolute = "absolute",
    }
}

/// A reminder as its person sees it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reminder {
    /// Its id.
    pub id: ReminderId,
    /// Whose it is: nobody else sees it.
    #[serde(skip)]
    pub user_id: UserId,
    /// What it is counted from.
    pub kind: ReminderKind,
    /// Minutes from the due date, negative before it; whole days are calendar days. Relative reminders only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = -30)]
    pub offset_minutes: Option<i32>,
    /// The instant that was asked for. Absolute reminders only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// When it fires or fired by the present plan; null if it will not.
    pub fire_at: Option<DateTime<Utc>>,
}

/// A task's reminders in the order in which they were made, as [`ReminderRows`] reads them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, FromSqlRow)]
#[serde(transparent)]
pub struct Reminders(pub Vec<Reminder>);

impl Reminder {
    /// The viewer's reminders of a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such task that this viewer may see.
    pub async fn of_task(conn: &mut AsyncPgConnection, viewer: Viewer, task: TaskId) -> Result<Vec<Self>> {
        let Reminders(mut reminders) = tasks::table
            .find(task)
            .filter(visible_to(viewer))
            .select(ReminderRows)
            .first(conn)
            .await
            .optional()?
            .ok_or(Error::NotFound("task"))?;
        reminders.retain(|reminder| reminder.user_id == viewer.user_id);
        Ok(reminders)
    }

    /// One reminder of a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this viewer may see.
    pub async fn find(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        task: TaskId,
        id: ReminderId,
    ) -> Result<Self> {
        let all = Self::of_task(conn, viewer, task).await?;
        all.into_iter().find(|reminder| reminder.id == id).ok_or(Error::NotFound("reminder"))
    }
}

/// How PostgreSQL gives a task's reminders: a record of each.
type Rows = Array<
    Record<(
        Uuid,
        Uuid,
        sql_types::ReminderKind,
        Nullable<Integer>,
        Nullable<Timestamp>,
        Nullable<Text>,
        Nullable<Timestamptz>,
    )>,
>;

sql_expression! {
    /// A task's reminders, as [`Reminders`] reads them. When a reminder fires: when it is snoozed to; or else by its last plan, whose
    /// last fire counts that was not taken back.
    pub ReminderRows on tasks: Rows = "array(SELECT ROW(r.id, r.user_id, r.kind, r.offset_minutes, r.at_local, r.at_zone,
            (SELECT CASE WHEN f.state <> 'cancelled' THEN f.fire_at END
             FROM reminder_fires f, LATERAL (SELECT f.slot > 0 AND f.state IN ('planned', 'deferred', 'queued', 'sending') AS is_snooze) s
             WHERE f.reminder_id = r.id
             ORDER BY s.is_snooze DESC, CASE WHEN s.is_snooze THEN f.fire_at END, f.occurrence_no DESC, f.plan_no DESC,
                 f.state <> 'cancelled' DESC, f.slot DESC
             LIMIT 1))
         FROM reminders r WHERE r.task_id = tasks.id AND r.removed_at IS NULL)"
}

impl FromSql<Rows, Pg> for Reminders {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        type Row = (
            ReminderId,
            UserId,
            ReminderKind,
            Option<i32>,
            Option<NaiveDateTime>,
            Option<String>,
            Option<DateTime<Utc>>,
        );

        let mut rows: Vec<Row> = FromSql::<Rows, Pg>::from_sql(value)?;
        // Ids are in time order. PostgreSQL would begin a sort for each task, also for one reminder.
        rows.sort_by_key(|(id, ..)| *id);
        let reminders =
            rows.into_iter().map(|(id, user_id, kind, offset_minutes, at_local, at_zone, fire_at)| {
                Reminder {
                    id,
                    user_id,
                    kind,
                    offset_minutes,
                    at: at_local
                        .zip(at_zone)
                        .map(|(local, name)| zone::resolve(local, Zone::stored(&name).tz())),
                    fire_at,
                }
            });
        Ok(Self(reminders.collect()))
    }
}
