use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::{
    pg::Pg,
    query_builder::QueryFragment,
    sql_types::{Array, Integer, Nullable, Text, Timestamp, Timestamptz, Uuid},
};

use super::{
    NewReminder, Reminder, Reminders,
    plan::{Cause, Change, FireReason, FireState, Recipient, TaskFacts, When, plan},
    replan::Warning,
};
use crate::{
    db::sql,
    ids::{FireId, ReminderId, TaskId},
    tasks::Due,
    telemetry::Origin,
    users::Person,
    zone::{self, Zone},
};

/// The reminders of a task that is only being made, with their plan: nothing has to be asked, for nothing of the task is
/// planned. The task is open.
pub(crate) struct FirstReminders<'a> {
    task: TaskId,
    person: &'a Person,
    origin: Origin,
    planned: Vec<Planned>,
}

/// A reminder, and what follows from it.
struct Planned {
    reminder: Reminder,
    pinned: Option<(NaiveDateTime, Zone)>,
    change: Option<Change>,
}

/// A row of `reminder_fires`.
struct Fire {
    id: FireId,
    reminder: ReminderId,
    plan_no: i32,
    fire_at: DateTime<Utc>,
    state: FireState,
    reason: Option<FireReason>,
}

impl<'a> FirstReminders<'a> {
    /// Plans what [`check`](super::check) has passed, for a task of `person`'s that is due at `due`.
    pub(crate) fn plan(task: TaskId, due: &Due, new: &[NewReminder], person: &'a Person) -> Self {
        let facts = TaskFacts { closed: None, due: due.meaning() };
        let recipient = Recipient { tz: person.zone, day_start: person.day_start };
        let mut planned: Vec<Planned> = Vec::with_capacity(new.len());
        for reminder in new {
            let pinned = reminder.at.map(|at| at.pin(person.zone));
            // An instant and a local time that are the same are one reminder.
            if pinned.is_some() && planned.iter().any(|other| other.pinned == pinned) {
                continue;
            }
            let when = match pinned.clone() {
                Some((wall, zone)) => When::Absolute { wall, zone },
                None => When::Relative { offset_minutes: reminder.offset_minutes.unwrap_or_default() },
            };
            let change = plan(&facts, &when, false, recipient, person.now, &[], Cause::Edited);
            let reminder = Reminder {
                id: ReminderId::new(),
                user_id: person.id,
                kind: reminder.kind,
                offset_minutes: reminder.offset_minutes,
                at: pinned.as_ref().map(|(wall, zone)| zone::resolve(*wall, zone.tz())),
                fire_at: match change {
                    Some(Change::Insert { fire_at, .. }) => Some(fire_at),
                    _ => None,
                },
            };
            planned.push(Planned { reminder, pinned, change });
        }
        Self { task, person, origin: Origin::current(), planned }
    }

    /// The reminders as the task shows them.
    pub(crate) fn shown(&self) -> Reminders {
        Reminders(self.planned.iter().map(|planned| planned.reminder.clone()).collect())
    }

    /// What the person should know of them.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let warning = |planned: &Planned| Warning::of(planned.reminder.id, planned.change.as_ref()?);
        self.planned.iter().filter_map(warning).collect()
    }

    /// Writes the reminders and what is planned for them: further parts of a `WITH` that writes their task. Without reminders that is
    /// nothing, so that statement has to be [`Prepared`](crate::db::Prepared).
    pub(crate) fn insert(&self) -> Box<dyn QueryFragment<Pg> + Send + '_> {
        if self.planned.is_empty() {
            return Box::new(sql!(""));
        }
        Box::new(sql!(
            ", reminders AS ({reminders}), fires AS ({fires})",
            reminders = self.insert_reminders(),
            fires = self.insert_fires(),
        ))
    }

    fn insert_reminders(&self) -> impl QueryFragment<Pg> + Send + '_ {
        let (ids, kinds, offsets): (Vec<ReminderId>, Vec<&str>, Vec<Option<i32>>) = self
            .planned
            .iter()
            .map(|Planned { reminder, .. }| (reminder.id, reminder.kind.as_str(), reminder.offset_minutes))
            .collect();
        let (locals, zones): (Vec<Option<NaiveDateTime>>, Vec<Option<Zone>>) =
            self.planned.iter().map(|planned| planned.pinned.clone().unzip()).unzip();
        sql!(
            "INSERT INTO reminders (id, task_id, user_id, kind, offset_minutes, at_local, at_zone, created_at)
             SELECT n.id, {task}, {user}, n.kind::reminder_kind, n.offset_minutes, n.at_local, n.at_zone, {now}
             FROM unnest({ids}, {kinds}, {offsets}, {locals}, {zones}) AS n (id, kind, offset_minutes, at_local, at_zone)",
            task: Uuid = self.task,
            user: Uuid = self.person.id,
            now: Timestamptz = self.person.now,
            ids: Array<Uuid> = ids,
            kinds: Array<Text> = kinds,
            offsets: Array<Nullable<Integer>> = offsets,
            locals: Array<Nullable<Timestamp>> = locals,
            zones: Array<Nullable<Text>> = zones,
        )
    }

    fn insert_fires(&self) -> impl QueryFragment<Pg> + Send + '_ {
        let fires: Vec<Fire> = self.planned.iter().filter_map(Planned::fire).collect();
        sql!(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, plan_no, fire_at, planned_for, state, reason,
                 request_id, traceparent, created_at)
             SELECT n.id, n.reminder_id, {task}, {user}, n.plan_no, n.fire_at, n.fire_at, n.state::fire_state, n.reason,
                 {request_id}, {traceparent}, {now}
             FROM unnest({ids}, {reminders}, {plans}, {times}, {states}, {reasons})
                 AS n (id, reminder_id, plan_no, fire_at, state, reason)",
            task: Uuid = self.task,
            user: Uuid = self.person.id,
            now: Timestamptz = self.person.now,
            request_id: Nullable<Text> = self.origin.request_id.clone(),
            traceparent: Nullable<Text> = self.origin.traceparent.clone(),
            ids: Array<Uuid> = fires.iter().map(|fire| fire.id).collect::<Vec<_>>(),
            reminders: Array<Uuid> = fires.iter().map(|fire| fire.reminder).collect::<Vec<_>>(),
            plans: Array<Integer> = fires.iter().map(|fire| fire.plan_no).collect::<Vec<_>>(),
            times: Array<Timestamptz> = fires.iter().map(|fire| fire.fire_at).collect::<Vec<_>>(),
            states: Array<Text> = fires.iter().map(|fire| fire.state.as_str()).collect::<Vec<_>>(),
            reasons: Array<Nullable<Text>> =
                fires.iter().map(|fire| fire.reason.map(FireReason::as_str)).collect::<Vec<_>>(),
        )
    }
}

impl Planned {
    fn fire(&self) -> Option<Fire> {
        match self.change {
            Some(Change::Insert { plan_no, fire_at, state, reason }) => {
                Some(Fire { id: FireId::new(), reminder: self.reminder.id, plan_no, fire_at, state, reason })
            }
            _ => None,
        }
    }
}
