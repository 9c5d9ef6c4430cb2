//! What a job is to the worker: how it runs, and the ways in which an attempt may end. How ends are kept is the
//! ledger's business, and when something runs is the queue's.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use common::{
    jobs::Policy,
    ledger::{Again, Claim, Finish, JobState},
};

use crate::context::Context;

/// An error is kept in the ledger up to this length, in bytes.
const MAX_ERROR: usize = 4 * 1024;

/// The work of one kind. It may run twice, also twice at once: it loads the current rows, checks that the work is
/// still wanted, and succeeds if it is not.
pub trait Run {
    /// Does the work. It is dropped at any `await` when its time is over or the job is another worker's by now.
    ///
    /// # Errors
    /// Any error (`?`) means: try again later. The other ends are [`JobError`]'s.
    fn run(self, context: &Context) -> impl Future<Output = Result<(), JobError>> + Send;
}

/// Why an attempt did not do the work.
#[derive(Debug)]
pub enum JobError {
    /// It failed and may succeed later: after the pause of its kind, until its attempts are used up.
    Retry(anyhow::Error),
    /// Not wanted any more. Nobody's fault.
    Cancel(String),
    /// Too early: not before this instant. Does not count as an attempt.
    Snooze(DateTime<Utc>),
    /// It can never succeed, and that is a fault of ours. What the world refuses for good is settled in its own
    /// row, and the job succeeds.
    Dead(String),
}

impl<E: Into<anyhow::Error>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The work is done.
    Done,
    /// It failed, with this error.
    Retry(String),
    /// Not wanted any more, for this reason.
    Cancel(String),
    /// Not before this instant.
    Snooze(DateTime<Utc>),
    /// Given up, for this reason.
    Dead(String),
    /// This build does not know the kind: it belongs to a newer one, and waits until then.
    Parked(DateTime<Utc>),
    /// Given back untried: the worker stops, or the queue is paused.
    Released,
}

impl From<Result<(), JobError>> for Outcome {
    fn from(result: Result<(), JobError>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(JobError::Retry(error)) => Self::Retry(format!("{error:#}")),
            Err(JobError::Cancel(reason)) => Self::Cancel(reason),
            Err(JobError::Snooze(until)) => Self::Snooze(until),
            Err(JobError::Dead(reason)) => Self::Dead(reason),
        }
    }
}

impl Outcome {
    /// Its name in metrics and logs: what becomes of the job, so a failure is `dead` after the last attempt.
    pub(crate) fn name(&self, claim: &Claim) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry(_) if claim.attempt >= claim.max_attempts => "dead",
            Self::Retry(_) => "retry",
            Self::Cancel(_) => "cancelled",
            Self::Snooze(_) => "snoozed",
            Self::Dead(_) => "dead",
            Self::Parked(_) => "parked",
            Self::Released => "released",
        }
    }

    /// What the ledger keeps of it. A job that failed its last attempt is dead. `jitter` is a random number
    /// from 0 to 1.
    pub(crate) fn finish(self, claim: &Claim, policy: Option<&Policy>, jitter: f64) -> Finish {
        let (state, again, error) = match self {
            Self::Done => (JobState::Done, Again::Unchanged, None),
            Self::Retry(error) if claim.attempt >= claim.max_attempts => {
                (JobState::Dead, Again::Unchanged, Some(error))
            }
            Self::Retry(error) => {
                let pause =
                    policy.map_or(Duration::from_secs(60), |policy| backoff(policy, claim.attempt, jitter));
                (JobState::Ready, Again::After(pause), Some(error))
            }
            Self::Cancel(reason) => (JobState::Cancelled, Again::Unchanged, Some(reason)),
            Self::Snooze(until) | Self::Parked(until) => (JobState::Ready, Again::At(until), None),
            Self::Dead(reason) => (JobState::Dead, Again::Unchanged, Some(reason)),
            Self::Released => (JobState::Ready, Again::Unchanged, None),
        };
        Finish { id: claim.id, fence: claim.fence, state, again, error: error.map(shortened) }
    }
}

/// How long to wait after the failed attempt `attempt` (from 1), with `jitter` from 0 to 1: the kind's own pauses,
/// the last one repeated, each varied by ± 10 % so that what failed together does not come back together.
///
/// | Kind | after the 1st, 2nd, … failure |
/// |---|---|
/// | mail | 30 s, 2 min, 10 min, 30 min, 2 h |
/// | others | 5 s, 1 min, 10 min, 1 h |
pub(crate) fn backoff(policy: &Policy, attempt: i16, jitter: f64) -> Duration {
    let index = usize::try_from(attempt - 1).unwrap_or(0);
    let pause = policy.backoff.get(index).or(policy.backoff.last()).copied().unwrap_or_default();
    pause.mul_f64(0.9 + 0.2 * jitter)
}

/// The first 4 KiB of a text, without what PostgreSQL cannot store.
fn shortened(mut text: String) -> String {
    let is_long = text.len() > MAX_ERROR;
    if is_long {
        text.truncate(text.floor_char_boundary(MAX_ERROR - '…'.len_utf8()));
    }
    // Cut first: to look at each character of a long text would take a thread for seconds.
    text.retain(|c| c != '\0');
    if is_long {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use common::{
        ids::JobId,
        jobs::{ArchiveCompleted, Job as _, SendReminder},
    };

    use super::*;

    fn claim(attempt: i16) -> Claim {
        Claim {
            id: JobId::new(),
            kind: "send_reminder".into(),
            queue: "mail".into(),
            args: serde_json::Value::Null,
            attempt,
            max_attempts: 6,
            fence: 3,
            waited: 0.0,
            request_id: None,
            traceparent: None,
        }
    }

    #[test]
    fn pauses_are_as_documented_and_vary_by_a_tenth() {
        let seconds = |policy, attempt, jitter| backoff(policy, attempt, jitter).as_secs_f64();
        let mail = [1, 2, 3, 4, 5, 6].map(|attempt| seconds(&SendReminder::POLICY, attempt, 0.5));
        assert_eq!(mail, [30.0, 120.0, 600.0, 1800.0, 7200.0, 7200.0]);
        let others = [1, 2, 3, 4, 9].map(|attempt| seconds(&ArchiveCompleted::POLICY, attempt, 0.5));
        assert_eq!(others, [5.0, 60.0, 600.0, 3600.0, 3600.0]);
        assert_eq!(seconds(&SendReminder::POLICY, 1, 0.0), 27.0);
        assert_eq!(seconds(&SendReminder::POLICY, 1, 1.0), 33.0);
    }

    #[test]
    fn the_last_failed_attempt_is_dead() {
        let failed = |attempt| {
            Outcome::from(Err(JobError::from(anyhow::anyhow!("inner").context("outer")))).finish(
                &claim(attempt),
                Some(&SendReminder::POLICY),
                0.5,
            )
        };
        let fifth = failed(5);
        assert_eq!((fifth.state, fifth.again), (JobState::Ready, Again::After(Duration::from_secs(7200))));
        assert_eq!(fifth.error.as_deref(), Some("outer: inner"));
        assert_eq!(failed(6).state, JobState::Dead);
        let named = |attempt| Outcome::Retry(String::new()).name(&claim(attempt));
        assert_eq!((named(5), named(6)), ("retry", "dead"), "as the ledger has it");
    }

    #[test]
    fn what_was_not_tried_costs_no_attempt() {
        let until = DateTime::from_timestamp(2_000_000_000, 0).unwrap();
        for (outcome, again) in [
            (Outcome::Snooze(until), Again::At(until)),
            (Outcome::Parked(until), Again::At(until)),
            (Outcome::Released, Again::Unchanged),
        ] {
            let finish = outcome.finish(&claim(6), None, 0.5);
            assert_eq!((finish.state, finish.again, finish.error), (JobState::Ready, again, None));
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let text = shortened(format!("a\0{}", "é".repeat(5 << 20)));
        assert!(text.len() <= MAX_ERROR && text.len() > MAX_ERROR - 8);
        assert!(text.starts_with("aé") && text.ends_with("é…"));
        assert_eq!(shortened("short".into()), "short");
    }
}
