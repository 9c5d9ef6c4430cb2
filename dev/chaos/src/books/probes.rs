use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use common::ids::JobId;

use super::{Balance, Fault, State, seconds};
use crate::{
    cluster::Effect,
    journal::{Entry, What},
};

/// A finish is written by the database's clock, which is this machine's: it may look so much older than it is, for the
/// statement's time is that of its transaction's beginning.
const CLOCKS: TimeDelta = TimeDelta::milliseconds(50);
/// The claim that a fault makes another worker take was made, or last renewed, so long before at most.
const LEASE: i64 = 16;

pub(super) fn balance(
    journal: &[Entry],
    faults: &[Fault],
    starts: &[Effect],
    ends: &[Effect],
    state: &State,
    balance: &mut Balance,
) {
    let (mut asked, mut committed) = (BTreeSet::new(), BTreeSet::new());
    for entry in journal {
        match entry.what {
            What::Enqueues { job } => drop(asked.insert(job)),
            What::Enqueued { job } => drop(committed.insert(job)),
            _ => {}
        }
    }
    let (starts, ends) = (by_job(starts), by_job(ends));
    balance.count("probes committed", committed.len());
    balance.count("starts of probes", starts.values().map(Vec::len).sum());
    let dead: BTreeSet<JobId> =
        state.jobs.iter().filter(|job| job.state == "dead").map(|job| job.id).collect();

    let lost: Vec<&JobId> =
        committed.iter().filter(|job| !ends.contains_key(job) && !dead.contains(job)).collect();
    if let Some(first) = lost.first() {
        balance
            .differ(format!("the work of {} committed probes was never done, such as {first}", lost.len()));
    }
    for job in starts.keys().filter(|job| !asked.contains(job)) {
        balance.differ(format!("probe {job} ran, and nobody had enqueued it"));
    }
    let again = starts.values().flat_map(|starts| starts.windows(2));
    let unexcused: Vec<(Effect, Effect)> =
        again.map(|pair| (pair[0], pair[1])).filter(|(one, two)| !excused(one, two, faults)).collect();
    if let Some((one, two)) = unexcused.first() {
        balance.differ(format!(
            "probes started again {} times although nothing had happened to their workers: {} in process {} at {}, \
             again in process {} at {}",
            unexcused.len(),
            one.job,
            one.pid,
            instant(one),
            two.pid,
            instant(two),
        ));
    }
    early(&ends, state, balance);
}

/// What is done in the ledger was done by whoever held it last, before it was noted.
fn early(ends: &BTreeMap<JobId, Vec<Effect>>, state: &State, balance: &mut Balance) {
    let finished = state.jobs.iter().filter(|job| job.is_probe && job.state == "done");
    let early: Vec<_> = finished
        .filter(|job| {
            let (Some(pid), Some(finished_at)) = (job.pid, job.finished_at) else { return true };
            let ends = ends.get(&job.id).map(Vec::as_slice).unwrap_or_default();
            !ends.iter().any(|end| end.pid == pid && instant(end) <= finished_at + CLOCKS)
        })
        .collect();
    if let Some(first) = early.first() {
        balance.differ(format!(
            "{} probes were noted as done before the process that held them had done their work, such as {} at {:?}",
            early.len(),
            first.id,
            first.finished_at
        ));
    }
}

/// Whether something happened to the process of the first start, or to PostgreSQL, so that another may have taken over.
fn excused(one: &Effect, two: &Effect, faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        (fault.pid == Some(one.pid) || fault.target == "postgres")
            && fault.touches(instant(one) - seconds(LEASE), instant(two))
    })
}

fn instant(effect: &Effect) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(effect.micros).unwrap_or_default()
}

/// In the order of time.
fn by_job(effects: &[Effect]) -> BTreeMap<JobId, Vec<Effect>> {
    let mut jobs: BTreeMap<JobId, Vec<Effect>> = BTreeMap::new();
    for effect in effects {
        jobs.entry(effect.job).or_default().push(*effect);
    }
    for effects in jobs.values_mut() {
        effects.sort_by_key(|effect| effect.micros);
    }
    jobs
}
