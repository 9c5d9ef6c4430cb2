//! Daily summaries: one mail that says what a day holds. A [`Run`] is one person's summary of one local date, and its
//! state and reason answer "why did or didn't it come?" (semantics §7).

mod content;
mod delivery;
pub mod plan;
mod sending;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{ExpressionMethods as _, HasQuery, QueryDsl as _};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

pub use self::{
    content::{Archiving, Content, Item, Missed, Section, next_archiving},
    delivery::{BATCH, Recovered, Taken, adopt, queue_due, recover, until_next},
    plan::Wish,
    sending::{Claim, Ending, Rules, Waiting, claim, settle, waiting},
};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, pg_enum},
    error::Result,
    ids::{DigestRunId, UserId},
    jobs::{Job as _, SendDailySummary},
    schema::digest_runs,
    telemetry::Origin,
    users::Person,
    zone,
};

pg_enum! {
    /// Where a daily summary stands.
    DigestState: DigestState {
        /// A job has it.
        Planned = "planned",
        /// It is being handed to the mail server.
        Sending = "sending",
        /// The mail server accepted it.
        Sent = "sent",
        /// It was not to be sent, for the reason that stands beside it.
        Skipped = "skipped",
        /// There was nothing to say.
        SkippedEmpty = "skipped_empty",
        /// Its time had passed by more than four hours, or its day was over.
        SkippedLate = "skipped_late",
        /// It was cut short while it was handed over: it may have arrived, and is not sent again.
        Unknown = "unknown",
        /// It could not be sent.
        Failed = "failed",
    }
}

/// Why a run is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The account is disabled.
    RecipientDisabled,
    /// The address is not confirmed.
    Unverified,
    /// The person unsubscribed from daily summaries.
    Unsubscribed,
    /// Mail to the address comes back, or an administrator stopped it.
    AddressSuppressed,
    /// The person switched summaries off after it was planned.
    SwitchedOff,
    /// The person paused their mails.
    Paused,
    /// The mail server refused it for good.
    Rejected,
    /// The mail server could not take it, time and again.
    GaveUp,
    /// The job that had it is dead.
    JobDead,
    /// An operator cancelled the job that had it.
    JobCancelled,
}

impl Reason {
    /// Its name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecipientDisabled => "recipient_disabled",
            Self::Unverified => "unverified",
            Self::Unsubscribed => "unsubscribed",
            Self::AddressSuppressed => "address_suppressed",
            Self::SwitchedOff => "switched_off",
            Self::Paused => "paused",
            Self::Rejected => "rejected",
            Self::GaveUp => "gave_up",
            Self::JobDead => "job_dead",
            Self::JobCancelled => "job_cancelled",
        }
    }
}

/// A daily summary: for which day, and what became of it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = digest_runs, check_for_backend(diesel::pg::Pg))]
pub struct Run {
    /// Its id.
    pub id: DigestRunId,
    /// The person's local date.
    #[schema(example = "2026-12-01")]
    pub local_date: NaiveDate,
    /// Whether the person asked for it by hand; it comes beside that of the day.
    pub requested: bool,
    /// When it was to be sent.
    pub scheduled_at: DateTime<Utc>,
    /// Where it stands.
    pub state: DigestState,
    /// Why, if that needs saying: `paused`, `unsubscribed`, `gave_up`, …
    #[schema(example = "paused")]
    pub reason: Option<String>,
    /// How many tasks it lists.
    pub item_count: Option<i32>,
    /// When the mail server accepted it.
    pub sent_at: Option<DateTime<Utc>>,
    /// By how many seconds that was late.
    pub late_by_s: Option<i32>,
    /// The header of the mail, to find it by.
    pub message_id: Option<String>,
    /// What the mail server said.
    pub smtp_reply: Option<String>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// When it was written down.
    pub created_at: DateTime<Utc>,
}

/// Runs that are listed at most.
const LISTED: i64 = 100;

impl Run {
    /// The viewer's latest runs, the newest first; at most 100.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Vec<Self>> {
        Ok(Self::query()
            .filter(digest_runs::user_id.eq(viewer.user_id))
            .order(digest_runs::id.desc())
            .limit(LISTED)
            .load(conn)
            .await?)
    }

    /// Sends the viewer a summary now, beside that of the day: also an empty one, also while they have paused.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn request(tx: &mut Tx, viewer: Viewer) -> Result<Self> {
        let clock = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, clock).await?;
        let id = DigestRunId::new();
        let job_id = SendDailySummary { run_id: id, user_id: viewer.user_id }.enqueue(tx).await?;
        let origin = Origin::current();
        diesel::insert_into(digest_runs::table)
            .values((
                digest_runs::id.eq(id),
                digest_runs::user_id.eq(viewer.user_id),
                digest_runs::local_date.eq(zone::local_date(person.now, person.zone)),
                digest_runs::requested.eq(true),
                digest_runs::scheduled_at.eq(person.now),
                digest_runs::job_id.eq(job_id),
                digest_runs::request_id.eq(origin.request_id),
                digest_runs::traceparent.eq(origin.traceparent),
                digest_runs::created_at.eq(person.now),
            ))
            .execute(tx.conn())
            .await?;
        Ok(Self::query().filter(digest_runs::id.eq(id)).first(tx.conn()).await?)
    }
}

/// How a summary goes by: the same at every try.
fn message_id(run: DigestRunId, host: &str) -> String {
    format!("<{}.summary@{host}>", run.uuid().simple())
}

/// Whom a summary is about, and by which settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) user_id: UserId,
    pub(crate) tz: chrono_tz::Tz,
    pub(crate) now: DateTime<Utc>,
}
