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
    expression::AsExpression,
    pg::{Pg, PgValue},
    sql_types::Jsonb,
};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
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
    schema::tasks,
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

/// A task's reminders in the order in which they were made, as [`Reminder::OF_TASK`] reads them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, AsExpression, FromSqlRow)]
#[diesel(sql_type = Jsonb)]
#[serde(transparent)]
pub struct Reminders(pub Vec<Reminder>);

impl Reminder {
    /// SQL over `tasks`: its reminders as JSON, which [`Reminders`] reads.
    pub const OF_TASK: &'static str = "coalesce((SELECT jsonb_agg(jsonb_build_object(
            'id', r.id, 'user_id', r.user_id, 'kind', r.kind, 'offset_minutes', r.offset_minutes, 'at_local', r.at_local, 'at_zone', r.at_zone,
            'fire_at', coalesce(
                (SELECT min(f.fire_at) FROM reminder_fires f WHERE f.reminder_id = r.id AND f.slot > 0
                     AND f.state IN ('planned', 'deferred', 'queued', 'sending')),
                (SELECT CASE WHEN f.state <> 'cancelled' THEN f.fire_at END FROM reminder_fires f
                 WHERE f.reminder_id = r.id AND f.slot = 0 ORDER BY f.occurrence_no DESC, f.plan_no DESC LIMIT 1))
        ) ORDER BY r.id) FROM reminders r WHERE r.task_id = tasks.id AND r.removed_at IS NULL), '[]')";

    /// The viewer's reminders of a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such task that this viewer may see.
    pub async fn of_task(conn: &mut AsyncPgConnection, viewer: Viewer, task: TaskId) -> Result<Vec<Self>> {
        let Reminders(mut reminders) = tasks::table
            .find(task)
            .filter(visible_to(viewer))
            .select(OfTask)
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

sql_expression! {
    /// [`Reminder::OF_TASK`].
    OfTask on tasks: Jsonb = Reminder::OF_TASK
}

impl FromSql<Jsonb, Pg> for Reminders {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            id: ReminderId,
            user_id: UserId,
            kind: ReminderKind,
            offset_minutes: Option<i32>,
            at_local: Option<NaiveDateTime>,
            at_zone: Option<String>,
            fire_at: Option<DateTime<Utc>>,
        }

        let rows: Vec<Row> = serde_json::from_value(FromSql::<Jsonb, Pg>::from_sql(value)?)?;
        let reminders = rows.into_iter().map(|row| Reminder {
            id: row.id,
            user_id: row.user_id,
            kind: row.kind,
            offset_minutes: row.offset_minutes,
            at: row
                .at_local
                .zip(row.at_zone)
                .map(|(local, name)| zone::resolve(local, Zone::stored(&name).tz())),
            fire_at: row.fire_at,
        });
        Ok(Self(reminders.collect()))
    }
}
