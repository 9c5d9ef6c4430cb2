//! The books: whether everything that was intended has come about, once and in time, and whether everything that came
//! about was intended. Pure: from what was noted to what does not add up, in words. A rule that excuses something says
//! which fault excuses it, and within what time.

mod mails;
mod probes;
mod report;
mod webhooks;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use common::ids::JobId;

use crate::{
    cluster::Effect,
    figures::Figures,
    journal::{Change, Entry, What},
};

/// What the system says after the run.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// How long after the last fault everything was done; `None` if that was too long.
    pub settled: Option<Duration>,
    /// The tasks that were acknowledged, by the client's number.
    pub tasks: BTreeMap<u32, TaskState>,
    /// All jobs.
    pub jobs: Vec<JobState>,
}

/// A task, as the API shows it.
#[derive(Debug, Clone, Default)]
pub struct TaskState {
    /// Whether it is there and not in the trash.
    pub there: bool,
    /// Its title.
    pub title: String,
    /// Whether it is completed.
    pub done: bool,
    /// State and reason of its fires.
    pub fires: Vec<(String, String)>,
}

/// A job, as the ledger shows it.
#[derive(Debug, Clone)]
pub struct JobState {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// Whether it is a probe.
    pub is_probe: bool,
    /// Where it stands.
    pub state: String,
    /// How often its worker died.
    pub crashes: i16,
    /// The process that held it last.
    pub pid: Option<u32>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Balance {
    /// What does not add up, each in a sentence. Empty if the books balance.
    pub differences: Vec<String>,
    /// What was counted, in the order in which it is shown.
    pub counts: Vec<(&'static str, usize)>,
    /// How late reminders were while nothing was wrong.
    pub late: Figures,
    /// How late they were if something was wrong between their time and their coming.
    pub late_by_faults: Figures,
    /// How long after the last fault everything was done.
    pub settled: Option<Duration>,
}

/// Balances the books: the journal, the starts of probes and the ends of their work, and what the system says.
pub fn balance(journal: &[Entry], starts: &[Effect], ends: &[Effect], state: &State) -> Balance {
    let mut balance = Balance { settled: state.settled, ..Balance::default() };
    let faults = Fault::all_in(journal);
    balance.count("faults", faults.len());
    mails::balance(journal, &faults, state, &mut balance);
    webhooks::balance(journal, &faults, &mut balance);
    probes::balance(journal, &faults, starts, ends, state, &mut balance);
    processes(journal, &mut balance);
    jobs(state, &mut balance);
    balance
}

impl Balance {
    fn count(&mut self, what: &'static str, count: usize) {
        self.counts.push((what, count));
    }

    fn differ(&mut self, difference: impl Into<String>) {
        self.differences.push(difference.into());
    }
}

/// A fault, from its beginning to its end.
#[derive(Debug, Clone, PartialEq)]
struct Fault {
    name: String,
    target: String,
    pid: Option<u32>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Fault {
    fn all_in(journal: &[Entry]) -> Vec<Self> {
        let mut faults: Vec<Self> = Vec::new();
        for Entry { at, what } in journal {
            match what {
                What::Begins { fault, target, pid } => faults.push(Self {
                    name: fault.clone(),
                    target: target.clone(),
                    pid: *pid,
                    from: *at,
                    until: DateTime::<Utc>::MAX_UTC,
                }),
                What::Ends { fault, target } => {
                    let begun = faults.iter_mut().rev().find(|f| f.name == *fault && f.target == *target);
                    if let Some(begun) = begun {
                        begun.until = *at;
                    }
                }
                _ => {}
            }
        }
        faults
    }

    /// Whether it lasted at some moment of this time.
    fn touches(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> bool {
        self.from <= until && self.until >= from
    }

    /// Whether it is done to a worker.
    fn is_of_worker(&self) -> bool {
        self.target.starts_with("worker-")
    }
}

/// No process ends by itself, and none answers what no fault excuses.
fn processes(journal: &[Entry], balance: &mut Balance) {
    for Entry { at, what } in journal {
        match what {
            What::Misbehaves { process, how } => balance.differ(format!("{at}: {process} {how}")),
            What::Odd { request, status, body } => {
                balance.differ(format!("{at}: {request} was answered with {status}: {body}"));
            }
            _ => {}
        }
    }
}

/// No job is left, and none is dead, unless its worker died with it three times: then it may be what kills them.
fn jobs(state: &State, balance: &mut Balance) {
    const MAX_CRASHES: i16 = common::ledger::MAX_CRASHES;
    balance.count("jobs in the ledger", state.jobs.len());
    let mut left: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut crashed = 0;
    for job in &state.jobs {
        match job.state.as_str() {
            "done" | "cancelled" => {}
            "dead" if job.crashes >= MAX_CRASHES => crashed += 1,
            other => *left.entry((&job.kind, other)).or_default() += 1,
        }
    }
    for ((kind, state), count) in left {
        balance.differ(format!("{count} jobs of kind {kind} are {state} at the end"));
    }
    balance.count("jobs given up after three crashes", crashed);
    if state.settled.is_none() {
        balance.differ("not everything was done in time after the last fault");
    }
}

/// A change that a client asked for.
#[derive(Debug, Clone)]
struct Asked {
    change: Change,
    /// When it was acknowledged or refused, and with what status.
    told: Option<(DateTime<Utc>, u16)>,
}

impl Asked {
    fn all_in(journal: &[Entry]) -> BTreeMap<u32, Vec<Self>> {
        let mut tasks: BTreeMap<u32, Vec<Self>> = BTreeMap::new();
        for Entry { at, what } in journal {
            match what {
                What::Asks { task, change } => {
                    let asked = Self { change: change.clone(), told: None };
                    tasks.entry(*task).or_default().push(asked);
                }
                What::Told { task, status, .. } => {
                    if let Some(last) = tasks.get_mut(task).and_then(|asked| asked.last_mut()) {
                        last.told = Some((*at, *status));
                    }
                }
                _ => {}
            }
        }
        tasks
    }

    fn acknowledged_at(&self) -> Option<DateTime<Utc>> {
        self.told.filter(|(_, status)| (200..300).contains(status)).map(|(at, _)| at)
    }
}

/// Seconds, for the times within which a fault excuses something.
const fn seconds(seconds: i64) -> TimeDelta {
    TimeDelta::seconds(seconds)
}

#[cfg(test)]
mod tests;
