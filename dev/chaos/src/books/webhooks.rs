use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use common::ids::TaskId;

use super::{Asked, Balance, Fault, seconds};
use crate::journal::{Change, Entry, What};

/// A worker whose webhook was taken notes that within so long: what happens to it later does not repeat the call.
const NOTED: TimeDelta = seconds(45);

/// A webhook that has come.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    arrived_at: DateTime<Utc>,
    receiver: &'a str,
    taken: bool,
}

/// What receivers are told of a change.
fn event_type(change: &Change) -> &'static str {
    match change {
        Change::Create { .. } => "task.created",
        Change::Move { .. } => "task.updated",
        Change::Complete => "task.completed",
        Change::Delete => "task.deleted",
    }
}

/// Each change that was acknowledged was told to its person's receiver, if they have one, by one event; none was told that nobody asked
/// for.
pub(super) fn balance(journal: &[Entry], faults: &[Fault], balance: &mut Balance) {
    let mut events: BTreeMap<(TaskId, &str), BTreeMap<&str, Vec<Call<'_>>>> = BTreeMap::new();
    let mut ids: BTreeMap<u32, TaskId> = BTreeMap::new();
    let (mut count, mut subscribed) = (0, BTreeSet::new());
    for entry in journal {
        match &entry.what {
            What::Call { arrived_at, receiver, webhook_id, event, task, taken } => {
                count += 1;
                let call = Call { arrived_at: *arrived_at, receiver, taken: *taken };
                events.entry((*task, event)).or_default().entry(webhook_id).or_default().push(call);
            }
            What::Subscribed { person } => drop(subscribed.insert(person.as_str())),
            What::Told { task, id: Some(id), .. } => drop(ids.insert(*task, *id)),
            _ => {}
        }
    }
    balance.count("webhooks", count);
    let tasks = Asked::all_in(journal);
    let (mut told, mut known) = (0, BTreeSet::new());
    for (task, asked) in &tasks {
        let Some(id) = ids.get(task) else { continue };
        let person = asked.iter().find_map(|one| match &one.change {
            Change::Create { person, .. } => Some(person.as_str()),
            _ => None,
        });
        for name in ["task.created", "task.updated", "task.completed", "task.deleted"] {
            known.insert((*id, name));
            let come = events.get(&(*id, name));
            let of_name = || asked.iter().filter(|one| event_type(&one.change) == name);
            let certain = of_name().filter(|one| one.acknowledged_at().is_some()).count();
            let taken = come.into_iter().flat_map(BTreeMap::values);
            let taken = taken.filter(|calls| calls.iter().any(|call| call.taken)).count();
            told += taken;
            if taken < certain && person.is_some_and(|person| subscribed.contains(person)) {
                balance.differ(format!(
                    "{certain} {name} of task {task} were acknowledged, and {taken} were told"
                ));
            }
            if come.map_or(0, BTreeMap::len) > of_name().count() {
                balance.differ(format!("more than {} {name} of task {task} were told", of_name().count()));
            }
            let strangers = come.into_iter().flat_map(BTreeMap::values).flatten();
            for call in strangers.filter(|call| Some(call.receiver) != person) {
                balance.differ(format!("{name} of task {task} of {person:?} was told to {}", call.receiver));
            }
        }
    }
    let all_are_known = tasks.keys().all(|task| ids.contains_key(task));
    for (task, name) in events.keys().filter(|event| all_are_known && !known.contains(*event)) {
        balance.differ(format!("{name} of {task} was told, and nobody had asked for it"));
    }
    balance.count("changes told to their receivers", told);
    let repeated: usize =
        events.values().flatten().map(|(id, calls)| copies(id, calls, faults, balance)).sum();
    balance.count("webhooks repeated after they were taken, under the same webhook-id", repeated);
}

/// How often an event that was taken came again: only if its worker, the ledger or the receiver was disturbed just then.
fn copies(id: &str, calls: &[Call<'_>], faults: &[Fault], balance: &mut Balance) -> usize {
    let taken: Vec<DateTime<Utc>> =
        calls.iter().filter(|call| call.taken).map(|call| call.arrived_at).collect();
    let Some((first, again)) = taken.split_first() else { return 0 };
    let disturbs = |fault: &&Fault| {
        (fault.is_of_worker() || ["postgres", "receiver"].contains(&fault.target.as_str()))
            && fault.touches(*first - seconds(16), *first + NOTED)
    };
    if !again.is_empty() && !faults.iter().any(|fault| disturbs(&fault)) {
        balance.differ(format!(
            "the webhook {id} was taken {} times, and nothing was wrong: {taken:?}",
            taken.len()
        ));
    }
    again.len()
}
