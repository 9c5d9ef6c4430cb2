//! The one list of job kinds: what each carries, and by which policy it runs. The work itself is in
//! `worker/src/jobs/<kind>.rs`. A payload holds ids, never copies: a job loads the current rows and checks that the
//! work is still wanted. A kind is a wire name: it outlives the Rust name, and golden files keep it readable.

#[cfg(feature = "testing")]
mod probe;

use std::time::Duration;

#[cfg(feature = "testing")]
pub use probe::{Act, Probe};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    db::Tx,
    error::Result,
    ids::{DeliveryId, DigestRunId, EndpointId, EventId, JobId, OneTimeTokenId, ReportId, UserId},
    ledger::{self, NewJob},
};

/// The queue of everything that leaves by SMTP.
pub const MAIL: &str = "mail";
/// The queue of housekeeping.
pub const MAINTENANCE: &str = "maintenance";
/// The queue of events on their way to those who subscribed.
pub const WEBHOOKS: &str = "webhooks";
/// The queue of [`Probe`], in test builds only.
#[cfg(feature = "testing")]
pub const PROBE: &str = "probe";

/// Every queue of this build.
pub const QUEUES: &[&str] = &[
    MAIL,
    MAINTENANCE,
    WEBHOOKS,
    #[cfg(feature = "testing")]
    PROBE,
];

/// How jobs of a kind are run.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Which queue they wait in.
    pub queue: &'static str,
    /// Tries in all; after the last failure the job is dead.
    pub max_attempts: i16,
    /// After how long an attempt is stopped and counts as failed.
    pub timeout: Duration,
    /// The pause before the second, third, … attempt; the last one repeats. Each is varied by ± 10 %, so that
    /// what failed together does not come back together.
    pub backoff: &'static [Duration],
    /// 0 first … 3; a step means "as if it were a minute older".
    pub priority: i16,
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The policy of a kind that says nothing else: 5 attempts within about an hour.
const DEFAULT: Policy = Policy {
    queue: MAINTENANCE,
    max_attempts: 5,
    timeout: secs(60),
    backoff: &[secs(5), secs(60), secs(600), secs(3600)],
    priority: 1,
};

/// A job: what is committed together with the data that needs it.
pub trait Job: Serialize + DeserializeOwned + Send + Sync {
    /// The wire name.
    const KIND: &'static str;
    /// How it runs.
    const POLICY: Policy;

    /// Whose work it is: queues are fair between lanes.
    fn lane(&self) -> String;

    /// Writes the job into the ledger, due now. It starts when `tx` is committed, and never was if it is not.
    ///
    /// # Errors
    /// If the database is away.
    fn enqueue(&self, tx: &mut Tx) -> impl Future<Output = Result<JobId>> + Send {
        async { ledger::enqueue(tx, NewJob::of(self)?).await }
    }
}

macro_rules! jobs {
    ($($(#[$on:meta])* $name:ident = $kind:literal { $($field:ident: $value:expr),* $(,)? }, lane $lane:expr;)*) => {
        /// A job of any kind, as the ledger keeps it.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "args")]
        pub enum AnyJob {
            $($(#[$on])* #[doc = concat!("`", $kind, "`")] #[serde(rename = $kind)] $name($name),)*
        }

        /// Every kind that this build knows.
        pub const KINDS: &[&str] = &[$($(#[$on])* $kind),*];

        /// Every kind with its queue.
        pub const QUEUE_OF_KIND: &[(&str, &str)] = &[$($(#[$on])* ($kind, <$name as Job>::POLICY.queue)),*];

        impl AnyJob {
            /// The job that a row of the ledger describes; `None` if this build does not know the kind.
            ///
            /// # Errors
            /// If the arguments do not fit the kind.
            pub fn decode(kind: &str, args: serde_json::Value) -> Option<serde_json::Result<Self>> {
                match kind {
                    $($(#[$on])* $kind => Some(serde_json::from_value(args).map(Self::$name)),)*
                    _ => None,
                }
            }

            /// How it runs.
            pub fn policy(&self) -> Policy {
                match self { $($(#[$on])* Self::$name(_) => $name::POLICY,)* }
            }
        }

        $($(#[$on])* impl Job for $name {
            const KIND: &'static str = $kind;
            const POLICY: Policy = Policy { $($field: $value,)* ..DEFAULT };

            fn lane(&self) -> String {
                let lane: fn(&Self) -> String = $lane;
                lane(self)
            }
        })*
    };
}

/// The lane of work that belongs to nobody in particular.
fn system<T>(_: &T) -> String {
    "system".to_owned()
}

/// Sends one person all reminders that are due now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendReminder {
    /// Who is reminded.
    pub user_id: UserId,
}

/// Makes a delivery of an event for each endpoint that subscribes to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FanOutEvent {
    /// What happened.
    pub event_id: EventId,
}

/// Sends one delivery to its endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendWebhook {
    /// What is sent.
    pub delivery_id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
}

/// Sends one person a letter about their account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendMail {
    /// Whom.
    pub user_id: UserId,
    /// Which.
    pub letter: Letter,
}

/// What a letter is about; what it says is read when it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Letter {
    /// The link that confirms the address.
    VerifyEmail {
        /// The link.
        token_id: OneTimeTokenId,
    },
    /// The link that sets a password: the first one or another, as the link's purpose says.
    ResetPassword {
        /// The link.
        token_id: OneTimeTokenId,
    },
    /// Somebody registered with an address that has an account; with a link that sets another password.
    AlreadyRegistered {
        /// The link.
        token_id: OneTimeTokenId,
    },
    /// The link that gives the account another address; it goes to that one.
    ChangeEmail {
        /// The link.
        token_id: OneTimeTokenId,
    },
    /// Somebody asked for another address; to the one before it.
    EmailChangeRequested {
        /// The link.
        token_id: OneTimeTokenId,
    },
    /// Somebody asked for the deletion of the account.
    DeletionRequested {},
    /// A webhook endpoint was switched off after days without a success.
    WebhookDisabled {
        /// The endpoint.
        endpoint_id: EndpointId,
    },
    /// An administrator tries whether mails leave; somebody waits for the job's `result`.
    Test {
        /// Where to, if not to the administrator's own address.
        to: Option<String>,
    },
}

/// Sends one person their daily summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendDailySummary {
    /// Which one.
    pub run_id: DigestRunId,
    /// Whose it is.
    pub user_id: UserId,
}

/// Archives tasks that were done long ago. Reversible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchiveCompleted {}

/// Deletes tasks that were archived long ago, where the operator switched that on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PurgeArchived {}

/// Deletes what is kept for a while only: finished jobs, settled fires, the trash, used tokens and keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneHistory {}

/// Computes a report that takes longer than an answer may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateReport {
    /// Which report.
    pub report_id: ReportId,
    /// Whose: its lane.
    pub user_id: UserId,
}

/// Seals the audit trail as far as nothing can be added to it any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealAudit {}

jobs! {
    SendReminder = "send_reminder" {
        queue: MAIL,
        max_attempts: 6,
        backoff: &[secs(30), secs(120), secs(600), secs(1800), secs(7200)],
    }, lane |job| job.user_id.to_string();
    SendDailySummary = "send_daily_summary" {
        queue: MAIL,
        max_attempts: 6,
        backoff: &[secs(30), secs(120), secs(600), secs(1800), secs(7200)],
        priority: 2,
    }, lane |job| job.user_id.to_string();
    SendMail = "send_mail" {
        queue: MAIL,
        max_attempts: 6,
        backoff: &[secs(30), secs(120), secs(600), secs(1800), secs(7200)],
        priority: 0,
    }, lane |job| job.user_id.to_string();
    FanOutEvent = "fan_out_event" { queue: WEBHOOKS, max_attempts: 10 }, lane |job| job.event_id.to_string();
    SendWebhook = "send_webhook" { queue: WEBHOOKS, max_attempts: 10 }, lane |job| job.endpoint_id.to_string();
    ArchiveCompleted = "archive_completed" { timeout: secs(600), priority: 3 }, lane system;
    PurgeArchived = "purge_archived" { timeout: secs(600), priority: 3 }, lane system;
    PruneHistory = "prune_history" { timeout: secs(600), priority: 3 }, lane system;
    GenerateReport = "generate_report" { timeout: secs(600), priority: 2 }, lane |job| job.user_id.to_string();
    SealAudit = "seal_audit" { timeout: secs(600), priority: 3 }, lane system;
    #[cfg(feature = "testing")]
    Probe = "probe" {
        queue: PROBE,
        max_attempts: 25,
        timeout: secs(30),
        backoff: &[secs(1)],
    }, lane |job| job.lane.clone();
}
