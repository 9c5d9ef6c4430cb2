//! The cron table: what happens by the clock alone, and which instants a cron expression means. What depends on data
//! (a reminder, a retry) has its time in its own row and does not belong here (design §2.4).
//!
//! An expression is read on the wall of its zone, and each wall time is resolved by the rule of [`zone::resolve`]: one
//! that the clocks skip comes right after, one that comes twice counts once. So a daily job runs once per local day
//! (goals R18). What runs more often than daily belongs in UTC, or it would rest for an hour each autumn.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use common::{
    jobs::{ArchiveCompleted, Job, PruneHistory, PurgeArchived, SealAudit},
    ledger::NewJob,
    zone,
};

/// A slot that is older when a scheduler sees it was missed; until then it is merely late.
pub const GRACE: TimeDelta = TimeDelta::seconds(10);
/// Slots before this are not looked for: a scheduler that was away for longer catches up as if it had been away for
/// so long, and has little to compute.
const REACH: TimeDelta = TimeDelta::days(31);

/// The table of this installation, whose people live in `zone`. Seconds stand first; weekdays are names, for this
/// crate counts them from Sunday = 1.
///
/// # Errors
/// None for the table as it stands.
pub fn table(zone: Tz) -> anyhow::Result<Vec<Schedule>> {
    use CatchUp::Latest;
    Ok(vec![
        Schedule::new("archive_completed", "0 10 3 * * *", zone, Latest, &ArchiveCompleted {})?,
        Schedule::new("purge_archived", "0 10 4 * * Sun", zone, Latest, &PurgeArchived {})?,
        Schedule::new("prune_history", "0 25 * * * *", Tz::UTC, Latest, &PruneHistory {})?,
        // Each slot seals up to where the one before looked.
        Schedule::new("seal_audit", "0 * * * * *", Tz::UTC, Latest, &SealAudit {})?,
    ])
}

/// Lines for test builds, as the configuration asks for them: jobs that leave a trace in a file.
///
/// # Errors
/// None.
#[cfg(feature = "testing")]
pub fn probes(config: &crate::config::Config) -> anyhow::Result<Vec<Schedule>> {
    use common::jobs::{Act, Probe};

    const HOUR: CatchUp = CatchUp::All { max: 3600 };
    let probe = |name, cron, catch_up, log| {
        let job = Probe { lane: "probe".to_owned(), log: Some(log), act: Act::Nothing };
        Schedule::new(name, cron, Tz::UTC, catch_up, &job)
    };
    let mut table = Vec::new();
    if let Some(log) = &config.probe_every_second {
        table.push(probe("probe", "* * * * * *", HOUR, log.clone())?);
    }
    if let Some(folder) = &config.probe_every_minute {
        table.push(probe("probe_skip", "0 * * * * *", CatchUp::Skip, folder.join("skip"))?);
        table.push(probe("probe_latest", "0 * * * * *", CatchUp::Latest, folder.join("latest"))?);
        table.push(probe("probe_all", "0 * * * * *", HOUR, folder.join("all"))?);
    }
    Ok(table)
}

/// What becomes of slots that were missed because no scheduler ran (semantics §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing.
    Skip,
    /// The last one runs, unless the next is on time already.
    Latest,
    /// The last `max` run, oldest first.
    All {
        /// At most so many.
        max: usize,
    },
}

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Schedule {
    name: &'static str,
    cron: cron::Schedule,
    zone: Tz,
    catch_up: CatchUp,
    job: NewJob,
}

/// What a schedule owes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// The slots to run, in order.
    pub slots: Vec<DateTime<Utc>>,
    /// How many were missed before these and are left out.
    pub skipped: usize,
    /// Where the next round starts from; `None` if nothing has happened.
    pub last: Option<DateTime<Utc>>,
}

impl Schedule {
    /// A schedule; `name` is for ever, for its state is kept under it.
    ///
    /// # Errors
    /// If the expression cannot be read, or the job cannot be written as JSON.
    pub fn new(
        name: &'static str,
        cron: &str,
        zone: Tz,
        catch_up: CatchUp,
        job: &impl Job,
    ) -> anyhow::Result<Self> {
        Ok(Self { name, cron: cron.parse()?, zone, catch_up, job: NewJob::of(job)? })
    }

    /// Its name, which is also its key in `scheduler_state`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The job of a slot: due then, and only once however many schedulers there are.
    pub fn job(&self, slot: DateTime<Utc>) -> NewJob {
        let fire_time = slot.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        self.job.clone().run_at(slot).unique_key(format!("cron:{}:{fire_time}", self.name))
    }

    /// What is owed at `now`, when all slots up to `last` have been dealt with.
    pub fn owed(&self, last: DateTime<Utc>, now: DateTime<Utc>) -> Owed {
        let mut slots = self.slots(last.max(now - REACH), now);
        let missed = slots.partition_point(|slot| *slot < now - GRACE);
        let skipped = match self.catch_up {
            CatchUp::Skip => missed,
            CatchUp::Latest => missed.min(slots.len().saturating_sub(1)),
            CatchUp::All { max } => missed.saturating_sub(max),
        };
        Owed { last: slots.last().copied(), slots: slots.split_off(skipped), skipped }
    }

    /// The first slot after `now`, if it comes `within` that time.
    pub fn next(&self, now: DateTime<Utc>, within: TimeDelta) -> Option<DateTime<Utc>> {
        self.slots(now, now + within).first().copied()
    }

    /// The slots after `after` and not after `until`, in order, each once.
    fn slots(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        // Which wall times can mean an instant in between? Those that the clock shows, and around a change also those
        // that it skipped (they count by the offset before) or showed already: the offset of the day before decides.
        let offset = |at: DateTime<Utc>| zone::to_local(at, self.zone) - at.naive_utc();
        let day = TimeDelta::days(1);
        let first = after + offset(after).min(offset(after - day));
        let last = until + offset(until).max(offset(until - day));
        let mut slots: Vec<_> = self
            .cron
            .after(&first)
            .take_while(|wall| *wall <= last)
            .map(|wall| zone::resolve(wall.naive_utc(), self.zone))
            .filter(|slot| after < *slot && *slot <= until)
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

#[cfg(test)]
mod tests;
