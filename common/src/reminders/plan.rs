//! When a reminder fires: a pure function from what is wanted and what is planned to what has to change (semantics
//! §3 and §4). It runs in the transaction of every change that could matter; nothing here touches the database.

use chrono::{DateTime, Duration, NaiveDateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    db::pg_enum,
    ids::FireId,
    tasks::due::Meaning,
    zone::{self, Zone},
};

/// A reminder whose time passed so recently is still sent: somebody types "at 14:00" at 14:02 (semantics §3.5).
pub const STILL_SENT: Duration = Duration::minutes(5);

pg_enum! {
    /// How far a fire is.
    FireState: FireState {
        /// Waits for its instant.
        Planned = "planned",
        /// Waits for the end of the quiet hours.
        Deferred = "deferred",
        /// A job will send it.
        Queued = "queued",
        /// Its mail is being sent, or a worker died while it was.
        Sending = "sending",
        /// A mail server has taken it.
        Sent = "sent",
        /// It could not be sent.
        Dead = "dead",
        /// Not wanted any more.
        Cancelled = "cancelled",
        /// Left out by a rule.
        Skipped = "skipped",
    }
}

impl FireState {
    /// Whether it may still be sent and nobody has begun to.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Planned | Self::Deferred | Self::Queued)
    }
}

/// Why a fire was cancelled or skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FireReason {
    /// The task was completed or cancelled.
    TaskDone,
    /// The task was put into the trash.
    TaskDeleted,
    /// The task was put away.
    TaskArchived,
    /// The task has no due date any more.
    DueRemoved,
    /// The reminder was removed.
    ReminderRemoved,
    /// Its time was too long ago.
    TooLate,
    /// The account is switched off.
    RecipientDisabled,
    /// The person may not see the task any more.
    NoAccess,
    /// The person has not confirmed the address.
    Unverified,
    /// The person does not want reminders by mail.
    Unsubscribed,
    /// The person wants none for a while.
    Paused,
    /// Mail to the address comes back, or an administrator stopped it.
    AddressSuppressed,
}

impl FireReason {
    /// The reason's name in the database, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskDone => "task_done",
            Self::TaskDeleted => "task_deleted",
            Self::TaskArchived => "task_archived",
            Self::DueRemoved => "due_removed",
            Self::ReminderRemoved => "reminder_removed",
            Self::TooLate => "too_late",
            Self::RecipientDisabled => "recipient_disabled",
            Self::NoAccess => "no_access",
            Self::Unverified => "unverified",
            Self::Unsubscribed => "unsubscribed",
            Self::Paused => "paused",
            Self::AddressSuppressed => "address_suppressed",
        }
    }
}

/// What a task says about its reminders.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFacts {
    /// Why nothing of it is sent any more, if that is so.
    pub closed: Option<FireReason>,
    /// When it is due.
    pub due: Option<Meaning>,
}

/// When a reminder is meant to fire.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// So many minutes from the due date; negative is before it.
    Relative {
        /// Minutes; whole days are calendar days.
        offset_minutes: i32,
    },
    /// At a time on the clock of a zone, whatever the due date.
    Absolute {
        /// What the clock shows.
        wall: NaiveDateTime,
        /// Whose clock.
        zone: Zone,
    },
}

/// What the recipient's settings decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipient {
    /// Where their clock hangs.
    pub tz: Tz,
    /// When a day begins that names no time.
    pub day_start: NaiveTime,
}

/// A fire that is there already.
#[derive(Debug, Clone, PartialEq)]
pub struct Existing {
    /// Its id.
    pub id: FireId,
    /// Which plan of the occurrence it belongs to.
    pub plan_no: i32,
    /// Its instant by the plan: a snoozed fire comes at another, and stays there until the plan itself moves.
    pub fire_at: DateTime<Utc>,
    /// How far it is.
    pub state: FireState,
}

/// Why there is a new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The task or the reminder was changed: what was sent may have to be sent again for a later time.
    Edited,
    /// The person's zone or start of the day was changed: what was sent is not sent again.
    Moved,
}

/// What has to be done to a reminder's fires: nothing, or one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new row.
    Insert {
        /// Which plan of the occurrence it belongs to.
        plan_no: i32,
        /// Its instant.
        fire_at: DateTime<Utc>,
        /// `Planned`, or `Skipped` if it is too late already.
        state: FireState,
        /// Why it is skipped.
        reason: Option<FireReason>,
    },
    /// The row gets another instant, and is `Planned`.
    Move {
        /// Which row.
        id: FireId,
        /// Its instant.
        fire_at: DateTime<Utc>,
    },
    /// The row is settled without being sent.
    Settle {
        /// Which row.
        id: FireId,
        /// Its instant, which may be another than it was.
        fire_at: DateTime<Utc>,
        /// `Cancelled` or `Skipped`.
        state: FireState,
        /// Why.
        reason: FireReason,
    },
}

impl Change {
    /// Whether the person should hear that this reminder comes too late to be sent.
    pub fn is_too_late(&self) -> bool {
        matches!(
            self,
            Self::Insert { reason: Some(FireReason::TooLate), .. }
                | Self::Settle { reason: FireReason::TooLate, .. }
        )
    }
}

/// What has to change so that `fires`, all of one reminder and one occurrence, are what is wanted. At most one
/// change, and none if it is applied and asked again.
pub fn plan(
    task: &TaskFacts,
    when: &When,
    removed: bool,
    recipient: Recipient,
    now: DateTime<Utc>,
    fires: &[Existing],
    cause: Cause,
) -> Option<Change> {
    let current = fires.iter().max_by_key(|fire| fire.plan_no);
    let wanted = match (removed, task.closed) {
        (true, _) => Err(FireReason::ReminderRemoved),
        (false, Some(reason)) => Err(reason),
        (false, None) => fire_at(task.due.as_ref(), when, recipient).ok_or(FireReason::DueRemoved),
    };
    let fire_at = match (wanted, current) {
        (Ok(fire_at), _) => fire_at,
        (Err(reason), Some(fire)) if fire.state.is_open() => {
            let Existing { id, fire_at, .. } = *fire;
            return Some(Change::Settle { id, fire_at, state: FireState::Cancelled, reason });
        }
        (Err(_), _) => return None,
    };
    let too_late = fire_at < now - STILL_SENT;
    let Some(&Existing { id, plan_no, fire_at: before, state }) = current else {
        let (state, reason) = if too_late {
            (FireState::Skipped, Some(FireReason::TooLate))
        } else {
            (FireState::Planned, None)
        };
        return Some(Change::Insert { plan_no: 1, fire_at, state, reason });
    };
    match state {
        _ if state.is_open() && fire_at == before => None,
        _ if state.is_open() && too_late => {
            Some(Change::Settle { id, fire_at, state: FireState::Skipped, reason: FireReason::TooLate })
        }
        _ if state.is_open() => Some(Change::Move { id, fire_at }),
        // Opened or restored again: what lies ahead is planned again, what has passed stays cancelled.
        FireState::Cancelled => (fire_at > now).then_some(Change::Move { id, fire_at }),
        // Settled: a later time reminds again, an earlier one or the same does not.
        _ => (cause == Cause::Edited && fire_at != before && fire_at > now).then_some(Change::Insert {
            plan_no: plan_no + 1,
            fire_at,
            state: FireState::Planned,
            reason: None,
        }),
    }
}

/// The instant at which a reminder fires, never earlier than meant; `None` if it hangs on a due date that is not there.
///
/// Whole days of an offset are calendar days on the recipient's clock, so that "a day before 09:00" is 09:00 also
/// across a change of the clocks; what is left of it is an exact duration. An all-day date counts from the
/// recipient's `day_start`.
pub fn fire_at(due: Option<&Meaning>, when: &When, recipient: Recipient) -> Option<DateTime<Utc>> {
    let offset = match when {
        When::Absolute { wall, zone } => return Some(zone::resolve(*wall, zone.tz())),
        When::Relative { offset_minutes } => *offset_minutes,
    };
    let (days, minutes) = (offset / DAY, offset % DAY);
    let wall = match due? {
        Meaning::Date(date) => date.and_time(recipient.day_start),
        Meaning::Floating(wall) => *wall,
        Meaning::Zoned(wall, zone) => {
            let instant = zone::resolve(*wall, zone.tz());
            if days == 0 {
                return Some(instant + Duration::minutes(minutes.into()));
            }
            zone::to_local(instant, recipient.tz)
        }
    };
    let wall = wall + Duration::days(days.into());
    Some(zone::resolve(wall, recipient.tz) + Duration::minutes(minutes.into()))
}

/// Minutes of a day.
const DAY: i32 = 24 * 60;

#[cfg(test)]
mod tests;
