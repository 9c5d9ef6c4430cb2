use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, HasQuery, QueryDsl as _, sql_types::Nullable};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::plan::{FireReason, FireState};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, pg_enum, sql_condition},
    error::{Error, Result},
    ids::{FireId, ReminderId, TaskId},
    schema::{reminder_fires, reminders},
};

pg_enum! {
    /// By what a reminder reaches its person.
    Channel: Channel {
        /// A mail.
        Email = "email",
    }
}

/// Why a fire is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not wanted any more, or never could be sent.
    Unwanted(FireReason),
    /// Another fire of the same reminder took its place.
    Moved,
    /// The mail server refused it for good.
    Rejected,
    /// The mail server could not take it, time and again.
    GaveUp,
    /// An earlier try was cut short after the mail had been handed over: it may have arrived then.
    Ambiguous,
    /// The person got as many mails today as they may: it is sent tomorrow.
    MailLimit,
    /// The job that had it is dead.
    JobDead,
    /// An operator cancelled the job that had it.
    JobCancelled,
}

impl Reason {
    /// Its name in the database, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted(reason) => reason.as_str(),
            Self::Moved => "moved",
            Self::Rejected => "rejected",
            Self::GaveUp => "gave_up",
            Self::Ambiguous => "ambiguous",
            Self::MailLimit => "mail_limit",
            Self::JobDead => "job_dead",
            Self::JobCancelled => "job_cancelled",
        }
    }

    /// The state of a fire that is not sent for this reason.
    pub fn state(self) -> FireState {
        match self {
            Self::Unwanted(
                FireReason::TooLate
                | FireReason::RecipientDisabled
                | FireReason::NoAccess
                | FireReason::Unverified
                | FireReason::Unsubscribed
                | FireReason::Paused
                | FireReason::AddressSuppressed,
            ) => FireState::Skipped,
            Self::MailLimit => FireState::Queued,
            Self::Unwanted(_) | Self::Moved | Self::JobCancelled => FireState::Cancelled,
            Self::Rejected | Self::GaveUp | Self::Ambiguous | Self::JobDead => FireState::Dead,
        }
    }
}

/// One planned delivery of a reminder: when, and what became of it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = reminder_fires, check_for_backend(diesel::pg::Pg))]
pub struct Fire {
    /// Its id.
    pub id: FireId,
    /// By what.
    pub channel: Channel,
    /// When it fires.
    pub fire_at: DateTime<Utc>,
    /// When it was to fire before it was deferred or snoozed.
    pub planned_for: DateTime<Utc>,
    /// Where it stands.
    pub state: FireState,
    /// Why, if that needs saying: `task_done`, `too_late`, `snoozed`, …
    #[schema(example = "task_done")]
    pub reason: Option<String>,
    /// When the mail server accepted it.
    pub sent_at: Option<DateTime<Utc>>,
    /// By how many seconds that was late.
    pub late_by_s: Option<i32>,
    /// The header of the mail, to find it by.
    pub message_id: Option<String>,
    /// What the mail server said.
    pub smtp_reply: Option<String>,
    /// Rises when a moved task reminds again.
    pub plan_no: i32,
    /// 0 for the reminder itself; one more each time it is snoozed after it was sent.
    pub slot: i32,
    /// The request that planned it.
    pub request_id: Option<String>,
    /// When it was planned first.
    pub created_at: DateTime<Utc>,
}

impl Fire {
    /// The fires of a reminder, the newest plan first; also those of a reminder that was removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such reminder of this viewer's.
    pub async fn of_reminder(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        task: TaskId,
        reminder: ReminderId,
    ) -> Result<Vec<Self>> {
        let known: i64 = reminders::table
            .filter(reminders::id.eq(reminder))
            .filter(reminders::task_id.eq(task))
            .filter(reminders::user_id.eq(viewer.user_id))
            .filter(sql_condition!(
                "({project}::uuid IS NULL OR EXISTS (SELECT FROM tasks t WHERE t.id = reminders.task_id AND t.project_id = {project}))",
                project: Nullable<diesel::sql_types::Uuid> = viewer.project,
            ))
            .count()
            .get_result(conn)
            .await?;
        if known == 0 {
            return Err(Error::NotFound("reminder"));
        }
        let fires = Self::query()
            .filter(reminder_fires::reminder_id.eq(reminder))
            .filter(reminder_fires::user_id.eq(viewer.user_id))
            .order((
                reminder_fires::occurrence_no.desc(),
                reminder_fires::plan_no.desc(),
                reminder_fires::slot.desc(),
            ))
            .load(conn)
            .await?;
        Ok(fires)
    }
}
