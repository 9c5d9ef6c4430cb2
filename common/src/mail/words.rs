use std::fmt;

use chrono::{DateTime, Duration, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::{
    tasks::due::Meaning,
    zone::{self, Zone},
};

/// When something is due, for somebody in `tz`: "Tue 1 Dec 2026, 17:00 CET, in 30 minutes".
pub(super) fn due(due: &Meaning, tz: Tz, now: DateTime<Utc>) -> String {
    let today = zone::local_date(now, tz);
    match due {
        Meaning::Date(date) => format!("{}, all day, {}", day(*date), days(*date - today)),
        Meaning::Floating(wall) => moment(zone::resolve(*wall, tz), tz, now),
        Meaning::Zoned(wall, zone) => {
            let there = zone.tz();
            let instant = zone::resolve(*wall, there);
            if zone::to_local(instant, tz) == zone::to_local(instant, there) {
                return moment(instant, tz, now);
            }
            let (clock, distance) = (Clock(instant, there), distance(instant - now));
            format!(
                "{} {} ({clock} in {}), {distance}",
                day(zone::local_date(instant, tz)),
                Clock(instant, tz),
                city(zone)
            )
        }
    }
}

/// What is overdue, for somebody in `tz`: "Tue 1 Dec 2026, all day, 3 days late".
pub(super) fn overdue(overdue: &Meaning, tz: Tz, now: DateTime<Utc>) -> String {
    let text = due(overdue, tz, now);
    let late = |rest: &str, by: &str| format!("{rest}{by} late");
    text.strip_suffix(" ago")
        .map(|rest| late(rest, ""))
        .or_else(|| text.strip_suffix("yesterday").map(|rest| late(rest, "1 day")))
        .unwrap_or(text)
}

/// A moment as it is on the clock of somebody in `tz`: "Tue 1 Dec 2026, 17:00 CET".
pub(super) fn instant(instant: DateTime<Utc>, tz: Tz) -> String {
    format!("{}, {}", day(zone::local_date(instant, tz)), Clock(instant, tz))
}

fn moment(instant: DateTime<Utc>, tz: Tz, now: DateTime<Utc>) -> String {
    format!("{}, {}", self::instant(instant, tz), distance(instant - now))
}

/// By how much a mail is late, if that needs saying (semantics §1, §9): "This reminder was planned for 09:00 and
/// is 2 h late."
pub(super) fn late(what: &str, fire_at: DateTime<Utc>, tz: Tz, now: DateTime<Utc>) -> Option<String> {
    let late = now - fire_at;
    if late <= Duration::seconds(60) {
        return None;
    }
    let by = match (late.num_hours(), late.num_minutes()) {
        (0, minutes) => format!("{minutes} min"),
        (hours, _) => format!("{hours} h"),
    };
    let planned = zone::to_local(fire_at, tz);
    let time = planned.format("%H:%M");
    let planned = if planned.date() == zone::local_date(now, tz) {
        time.to_string()
    } else {
        format!("{}, {time}", day(planned.date()))
    };
    Some(format!("This {what} was planned for {planned} and is {by} late."))
}

/// A day: "Tue 1 Dec 2026".
pub(super) fn day(date: NaiveDate) -> String {
    date.format("%a %-d %b %Y").to_string()
}

/// A time with the name that its zone has then: `17:00 CET`. Where a zone has none, its distance from UTC.
struct Clock(DateTime<Utc>, Tz);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.0.with_timezone(&self.1);
        let name = local.format("%Z").to_string();
        write!(f, "{} ", local.format("%H:%M"))?;
        if name.starts_with(['+', '-']) {
            write!(f, "UTC{}", local.format("%:z"))
        } else {
            f.write_str(&name)
        }
    }
}

/// `Asia/Tokyo` as people say it.
fn city(zone: &Zone) -> String {
    zone.name().rsplit('/').next().unwrap_or_default().replace('_', " ")
}

/// "in 30 minutes", "2 hours ago", "now".
fn distance(until: Duration) -> String {
    let minutes = (until.num_seconds().abs() + 30) / 60;
    let length = match (minutes / (24 * 60), minutes / 60, minutes % 60) {
        (0, 0, 0) => return "now".to_owned(),
        (0, 0, minutes) => count(minutes, "minute"),
        (0, hours, 0) => count(hours, "hour"),
        (0, hours, minutes) => format!("{} {}", count(hours, "hour"), count(minutes, "minute")),
        (days, ..) => count(days, "day"),
    };
    if until < Duration::zero() { format!("{length} ago") } else { format!("in {length}") }
}

/// The distance between days: "today", "tomorrow", "3 days ago".
fn days(until: Duration) -> String {
    match until.num_days() {
        0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        -1 => "yesterday".to_owned(),
        ahead @ 1.. => format!("in {}", count(ahead, "day")),
        behind => format!("{} ago", count(-behind, "day")),
    }
}

/// A number of things: "1 task", "2 tasks".
pub(super) fn count(number: i64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Asia, Europe};

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn due_is_absolute_with_its_zone_and_relative() {
        let floating = Meaning::Floating("2026-12-01T17:00:00".parse().unwrap());
        let say = |due_: &Meaning, tz, now| due(due_, tz, at(now));
        assert_eq!(
            say(&floating, Europe::Berlin, "2026-12-01T15:30:00Z"),
            "Tue 1 Dec 2026, 17:00 CET, in 30 minutes"
        );
        assert_eq!(
            say(&floating, America::Sao_Paulo, "2026-12-01T18:29:40Z"),
            "Tue 1 Dec 2026, 17:00 UTC-03:00, in 1 hour 30 minutes"
        );
        assert_eq!(
            say(&floating, Europe::Berlin, "2026-12-03T17:00:00Z"),
            "Tue 1 Dec 2026, 17:00 CET, 2 days ago"
        );
        let tokyo = Meaning::Zoned("2026-12-02T00:30:00".parse().unwrap(), Asia::Tokyo.into());
        assert_eq!(
            say(&tokyo, Europe::Berlin, "2026-12-01T15:30:00Z"),
            "Tue 1 Dec 2026 16:30 CET (00:30 JST in Tokyo), now"
        );
        let day = Meaning::Date("2026-12-01".parse().unwrap());
        for (now, relative) in [
            ("2026-11-28T12:00:00Z", "in 3 days"),
            ("2026-11-30T22:59:59Z", "tomorrow"),
            ("2026-11-30T23:00:00Z", "today"),
            ("2026-12-02T12:00:00Z", "yesterday"),
        ] {
            assert_eq!(say(&day, Europe::Berlin, now), format!("Tue 1 Dec 2026, all day, {relative}"));
        }
    }

    /// T16 of semantics §11.
    #[test]
    fn t16_lateness_is_said_from_a_minute_on() {
        let planned = at("2026-12-01T08:00:00Z");
        let say = |now| late("reminder", planned, Europe::Berlin, at(now));
        assert_eq!(say("2026-12-01T08:01:00Z"), None);
        let label = |planned, by| Some(format!("This reminder was planned for {planned} and is {by} late."));
        assert_eq!(say("2026-12-01T08:01:01Z"), label("09:00", "1 min"));
        assert_eq!(say("2026-12-01T10:00:05Z"), label("09:00", "2 h"));
        assert_eq!(say("2026-12-02T07:59:00Z"), label("Tue 1 Dec 2026, 09:00", "23 h"));
    }
}
