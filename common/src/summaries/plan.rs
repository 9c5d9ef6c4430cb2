//! When a daily summary is due (semantics §7): pure functions over a person's wishes, their zone, and the last local
//! date that is dealt with. They neither read a clock nor the database.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::{notifications::Days, zone};

/// A summary that is later than this is not sent any more.
pub const TOO_LATE: TimeDelta = TimeDelta::hours(4);
/// Days before now that are still written down as missed, after a long absence of every scheduler.
const REACH: TimeDelta = TimeDelta::days(31);

/// When a person wants their summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Whether they want it at all.
    pub enabled: bool,
    /// The time on their clock.
    pub time: NaiveTime,
    /// On which days of the week.
    pub days: Days,
    /// Where their clock hangs.
    pub tz: Tz,
}

/// A day's summary whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The person's local date then: there is one summary for it.
    pub local_date: NaiveDate,
    /// When it was to be sent.
    pub at: DateTime<Utc>,
    /// Whether it is too late for that: by more than [`TOO_LATE`], or the local date has changed.
    pub is_late: bool,
}

/// Whether a summary of `scheduled_at` is not sent any more at `now`.
pub fn is_too_late(scheduled_at: DateTime<Utc>, now: DateTime<Utc>, tz: Tz) -> bool {
    now - scheduled_at > TOO_LATE || zone::local_date(now, tz) > zone::local_date(scheduled_at, tz)
}

impl Wish {
    /// The first summary after `after`, for a local date after `done`, the last one that is dealt with; `None` if none
    /// is wanted. A time that the clocks skip comes right after, one that comes twice counts once.
    pub fn next(&self, done: Option<NaiveDate>, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.enabled || self.days.is_empty() {
            return None;
        }
        // The day before too: what the clocks skip may come on the next date (Nuuk, 23:30). A chosen weekday comes
        // within eight days even where the clocks skip one of them.
        let today = zone::local_date(after, self.tz);
        let first = done.map_or(today, |done| done.max(today)).pred_opt()?;
        first.iter_days().take(18).map(|day| zone::resolve(day.and_time(self.time), self.tz)).find(|at| {
            let date = zone::local_date(*at, self.tz);
            *at > after && done.is_none_or(|done| date > done) && self.days.contains(date)
        })
    }

    /// What is owed at `now` when `next` was to be the next one, in order, and when the one after it is due.
    pub fn due(
        &self,
        mut done: Option<NaiveDate>,
        next: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> (Vec<Slot>, Option<DateTime<Utc>>) {
        let mut slots = Vec::new();
        let mut next = if next < now - REACH { self.next(done, now - REACH) } else { Some(next) };
        while let Some(at) = next.filter(|at| *at <= now) {
            let local_date = zone::local_date(at, self.tz);
            if self.enabled && done.is_none_or(|done| local_date > done) {
                slots.push(Slot { local_date, at, is_late: is_too_late(at, now, self.tz) });
                done = Some(local_date);
            }
            next = self.next(done, at);
        }
        (slots, next)
    }

    /// When the next one is due after this wish replaced `before` at `now`, when `next` was planned.
    ///
    /// What was still to come today stays owed: if its time has passed by the new wish, it is sent at once; after a
    /// flight to the east only if that time is not too long ago, after a change of the settings in any case. What was
    /// dealt with for a date never comes again.
    pub fn follow(
        &self,
        before: &Self,
        done: Option<NaiveDate>,
        next: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        if !self.enabled || self.days.is_empty() {
            return None;
        }
        let Some(planned) = next else { return self.next(done, now) };
        let (today, date) = (zone::local_date(now, self.tz), zone::local_date(planned, before.tz));
        if planned <= now && date != today {
            // Nobody has taken it yet: it is judged by who does.
            return Some(planned);
        }
        let at = zone::resolve(today.and_time(self.time), self.tz);
        let is_owed = date <= today
            && done.is_none_or(|done| today > done)
            && self.days.contains(today)
            && zone::local_date(at, self.tz) == today;
        if !is_owed {
            return self.next(done, now);
        }
        Some(match () {
            () if at > now => at,
            () if planned <= now => planned,
            () if before.tz != self.tz => at,
            () => now,
        })
    }
}

#[cfg(test)]
mod tests;
