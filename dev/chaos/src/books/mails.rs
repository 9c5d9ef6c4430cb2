use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{Asked, Balance, Fault, State, seconds};
use crate::{
    figures::Figures,
    journal::{Change, Entry, Title, What},
};

/// A worker that gave a mail away notes that, and tries for so long, and the mail server's answer takes so long at
/// most: what happens to either later does not repeat the mail.
const NOTED: i64 = 45;
/// An ambiguous mail is sent once more, not more often (semantics §5.4).
const COPIES: usize = 2;

/// A mail that has come.
#[derive(Debug, Clone, Copy)]
struct Mail<'a> {
    arrived_at: DateTime<Utc>,
    message_id: &'a str,
    to: &'a [String],
}

/// One reminder of a task, from the change that asked for it to the one that took it back.
struct Reminder<'a> {
    title: Title,
    person: &'a str,
    at: DateTime<Utc>,
    asked: &'a Asked,
    next: Option<&'a Asked>,
}

pub(super) fn balance(journal: &[Entry], faults: &[Fault], state: &State, balance: &mut Balance) {
    let tasks = Asked::all_in(journal);
    let mut mails: BTreeMap<Title, Vec<Mail<'_>>> = BTreeMap::new();
    let mut ids: BTreeMap<&str, Vec<DateTime<Utc>>> = BTreeMap::new();
    for entry in journal {
        if let What::Mail { arrived_at, message_id, to, titles } = &entry.what {
            ids.entry(message_id).or_default().push(*arrived_at);
            for title in titles {
                mails.entry(*title).or_default().push(Mail { arrived_at: *arrived_at, message_id, to });
            }
        }
    }
    balance.count("tasks", tasks.len());
    balance.count("changes asked for", tasks.values().map(Vec::len).sum());
    balance.count("mails", ids.values().map(Vec::len).sum());
    copies(&ids, faults, balance);

    let reminders: Vec<Reminder<'_>> =
        tasks.iter().flat_map(|(task, asked)| reminders(*task, asked)).collect();
    for title in mails.keys() {
        if reminders.iter().all(|reminder| reminder.title != *title) {
            balance.differ(format!("a mail names {title}, which nobody asked for"));
        }
    }
    let (mut wanted, mut unwanted, mut either, mut given_up) = (0, 0, 0, 0);
    let (mut late, mut late_by_faults) = (Vec::new(), Vec::new());
    for reminder in &reminders {
        let come = mails.get(&reminder.title).map(Vec::as_slice).unwrap_or_default();
        correct(reminder, come, balance);
        let first = come.iter().map(|mail| mail.arrived_at).min();
        match reminder.expectation() {
            Expectation::Comes => {
                wanted += 1;
                if first.is_none() {
                    match excuse(reminder, faults, state) {
                        Ok(()) => given_up += 1,
                        Err(seen) => balance.differ(format!(
                            "the reminder {} of {} at {} has not come: {seen}",
                            reminder.title, reminder.person, reminder.at
                        )),
                    }
                }
            }
            Expectation::Stays => {
                unwanted += 1;
                if let (Some(first), Some(next)) = (first, reminder.next) {
                    balance.differ(format!(
                        "the reminder {} of {} at {} came at {first}, although {:?} was acknowledged at {:?}",
                        reminder.title,
                        reminder.person,
                        reminder.at,
                        next.change,
                        next.acknowledged_at()
                    ));
                }
            }
            Expectation::Either => either += 1,
        }
        if let Some(lateness) = first.and_then(|first| (first - reminder.at).to_std().ok()) {
            let disturbed = first.is_some_and(|first| {
                faults.iter().any(|fault| fault.touches(reminder.at - seconds(1), first))
            });
            if disturbed { &mut late_by_faults } else { &mut late }.push(lateness);
        }
    }
    balance.count("reminders that had to come", wanted);
    balance.count("of them given up, as the API says, after two ambiguous tries or three crashes", given_up);
    balance.count("reminders that had to stay away", unwanted);
    balance.count("reminders that crossed their change: both is right", either);
    balance.late = Figures::new(late);
    balance.late_by_faults = Figures::new(late_by_faults);
    last_states(&tasks, state, balance);
}

/// The reminders that a task was to send, one for its making and each time it was moved.
fn reminders(task: u32, asked: &[Asked]) -> Vec<Reminder<'_>> {
    let mut all: Vec<Reminder<'_>> = Vec::new();
    let mut person = "";
    for (index, one) in asked.iter().enumerate() {
        let at = match &one.change {
            Change::Create { person: owner, remind_at } => {
                person = owner;
                *remind_at
            }
            Change::Move { remind_at } => *remind_at,
            Change::Complete | Change::Delete => continue,
        };
        let version = u32::try_from(all.len() + 1).unwrap_or(u32::MAX);
        all.push(Reminder {
            title: Title { task, version },
            person,
            at,
            asked: one,
            next: asked.get(index + 1),
        });
    }
    all
}

enum Expectation {
    Comes,
    Stays,
    /// The change that asked for it or the one that took it back crossed it, or was never answered.
    Either,
}

impl Reminder<'_> {
    fn expectation(&self) -> Expectation {
        match (self.asked.acknowledged_at(), self.next) {
            // It was moved to a time that had passed when it was moved: nobody is reminded again (semantics §4).
            (Some(at), _) if at >= self.at && matches!(self.asked.change, Change::Move { .. }) => {
                Expectation::Either
            }
            (Some(_), None) => Expectation::Comes,
            (_, Some(next)) if next.acknowledged_at().is_some_and(|at| at < self.at) => Expectation::Stays,
            _ => Expectation::Either,
        }
    }
}

/// None is early, goes to somebody else, or comes in two different mails.
fn correct(reminder: &Reminder<'_>, come: &[Mail<'_>], balance: &mut Balance) {
    for mail in come {
        if mail.arrived_at < reminder.at {
            balance.differ(format!(
                "the reminder {} at {} came early, at {}",
                reminder.title, reminder.at, mail.arrived_at
            ));
        }
        if mail.to != [reminder.person] {
            balance.differ(format!(
                "the reminder {} of {} went to {:?}",
                reminder.title, reminder.person, mail.to
            ));
        }
    }
    let ids: BTreeSet<&str> = come.iter().map(|mail| mail.message_id).collect();
    if ids.len() > 1 {
        balance.differ(format!(
            "the reminder {} came in {} different mails: {ids:?}",
            reminder.title,
            ids.len()
        ));
    }
}

/// A mail comes twice only if whoever sent it, noted that, or took it was disturbed just then.
fn copies(ids: &BTreeMap<&str, Vec<DateTime<Utc>>>, faults: &[Fault], balance: &mut Balance) {
    let mut repeated = 0;
    for (id, arrivals) in ids.iter().filter(|(_, arrivals)| arrivals.len() > 1) {
        repeated += arrivals.len() - 1;
        let Some(first) = arrivals.iter().min() else { continue };
        let disturbs = |fault: &&Fault| {
            (fault.is_of_worker() || ["postgres", "smtp"].contains(&fault.target.as_str()))
                && fault.touches(*first - seconds(1), *first + seconds(NOTED))
        };
        if arrivals.len() > COPIES {
            balance.differ(format!("the mail {id} came {} times: {arrivals:?}", arrivals.len()));
        } else if !faults.iter().any(|fault| disturbs(&fault)) {
            balance.differ(format!("the mail {id} came twice, and nothing was wrong: {arrivals:?}"));
        }
    }
    balance.count("mails repeated, under the same Message-ID", repeated);
}

/// A reminder that was cut short twice in the middle of its mail is dead, and so is one whose job met three crashes: both
/// are documented, and the API says so.
fn excuse(reminder: &Reminder<'_>, faults: &[Fault], state: &State) -> Result<(), String> {
    let Some(task) = state.tasks.get(&reminder.title.task) else {
        return Err("the API does not know its task".to_owned());
    };
    let disturbances = faults
        .iter()
        .filter(|fault| fault.is_of_worker() || ["postgres", "smtp"].contains(&fault.target.as_str()))
        .filter(|fault| fault.touches(reminder.at - seconds(1), DateTime::<Utc>::MAX_UTC))
        .count();
    let dead = |reason: &str| task.fires.iter().any(|(state, why)| state == "dead" && why == reason);
    let excused = (dead("ambiguous") && disturbances >= 2) || (dead("job_dead") && disturbances >= 3);
    if excused { Ok(()) } else { Err(format!("its fires are {:?}", task.fires)) }
}

/// Each task is as its last acknowledged change left it. The last change may be unanswered: then both is right.
fn last_states(tasks: &BTreeMap<u32, Vec<Asked>>, state: &State, balance: &mut Balance) {
    let mut checked = 0;
    for (task, asked) in tasks {
        if let Some(refused) = asked.iter().find(|one| one.told.is_some_and(|(_, status)| status >= 300)) {
            balance.differ(format!("{:?} of task {task} was refused: {:?}", refused.change, refused.told));
        }
        if asked.iter().any(|one| one.acknowledged_at().is_none()) {
            continue;
        }
        checked += 1;
        let Some(found) = state.tasks.get(task) else {
            balance.differ(format!("task {task} was acknowledged and is not there"));
            continue;
        };
        let versions =
            asked.iter().filter(|one| matches!(one.change, Change::Create { .. } | Change::Move { .. }));
        let title = Title { task: *task, version: u32::try_from(versions.count()).unwrap_or(u32::MAX) };
        let deleted = asked.iter().any(|one| one.change == Change::Delete);
        let done = asked.iter().any(|one| one.change == Change::Complete);
        let same =
            found.there != deleted && (deleted || (found.title == title.to_string() && found.done == done));
        if !same {
            balance.differ(format!(
                "task {task} was left as {title}, done: {done}, deleted: {deleted}, and is {found:?}"
            ));
        }
    }
    balance.count("tasks whose last state was checked", checked);
}
