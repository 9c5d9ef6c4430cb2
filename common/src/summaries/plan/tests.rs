use std::collections::BTreeMap;

use chrono::{Datelike as _, NaiveDateTime, Offset as _, TimeZone as _, Weekday};
use proptest::{prelude::*, test_runner::Config};

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn time(text: &str) -> NaiveTime {
    NaiveTime::parse_from_str(text, "%H:%M").unwrap()
}

fn daily(text: &str, tz: Tz) -> Wish {
    Wish { enabled: true, time: time(text), days: Days::ALL, tz }
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

#[test]
fn the_clocks_of_berlin() {
    let wish = daily("02:30", Tz::Europe__Berlin);
    for (after, next) in [
        ("2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"), // skipped: 03:30 summer time
        ("2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
        ("2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"), // twice: the first
        ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
    ] {
        assert_eq!(wish.next(None, at(after)), Some(at(next)), "{after}");
    }
}

#[test]
fn only_on_the_days_that_were_chosen() {
    let days = [Weekday::Mon, Weekday::Fri].into_iter().collect();
    let wish = Wish { days, ..daily("08:00", Tz::UTC) };
    assert_eq!(wish.next(None, at("2026-12-01T00:00:00Z")), Some(at("2026-12-04T08:00:00Z")));
    assert_eq!(wish.next(None, at("2026-12-04T08:00:00Z")), Some(at("2026-12-07T08:00:00Z")));
    assert_eq!(Wish { enabled: false, ..wish }.next(None, at("2026-12-01T00:00:00Z")), None);
    let none = Wish { days: std::iter::empty().collect(), ..wish };
    assert_eq!(none.next(None, at("2026-12-01T00:00:00Z")), None);
}

/// T18 of semantics §11.
#[test]
fn t18_four_hours_late_is_sent_and_more_is_not() {
    let wish = daily("08:00", Tz::Europe__Berlin);
    let next = at("2026-12-01T07:00:00Z");
    let tomorrow = Some(at("2026-12-02T07:00:00Z"));
    for (now, is_late) in [
        ("2026-12-01T07:00:00Z", false),
        ("2026-12-01T11:00:00Z", false),
        ("2026-12-01T11:00:01Z", true),
        ("2026-12-01T22:59:59Z", true),
    ] {
        let slot = Slot { local_date: date("2026-12-01"), at: next, is_late };
        assert_eq!(wish.due(None, next, at(now)), (vec![slot], tomorrow), "{now}");
    }
    assert_eq!(wish.due(None, next, at("2026-12-01T06:59:59Z")), (vec![], Some(next)));
}

#[test]
fn a_day_that_is_over_is_not_caught_up_with() {
    let wish = daily("23:30", Tz::UTC);
    let next = at("2026-12-01T23:30:00Z");
    let late = |now| wish.due(None, next, at(now)).0[0].is_late;
    assert!(!late("2026-12-01T23:59:59Z"));
    assert!(late("2026-12-02T00:00:00Z"));
}

#[test]
fn each_day_that_was_missed_is_written_down_once() {
    let wish = daily("08:00", Tz::UTC);
    let (slots, next) =
        wish.due(Some(date("2026-12-01")), at("2026-12-02T08:00:00Z"), at("2026-12-04T09:00:00Z"));
    let seen: Vec<_> = slots.iter().map(|slot| (slot.local_date.day(), slot.is_late)).collect();
    assert_eq!(seen, [(2, true), (3, true), (4, false)]);
    assert_eq!(next, Some(at("2026-12-05T08:00:00Z")));
    let (slots, _) = wish.due(None, at("1970-01-01T00:00:00Z"), at("2026-12-04T09:00:00Z"));
    assert_eq!(slots.len(), 31, "a long absence costs no more than a month");
}

/// T19 of semantics §11, and the flights of §7.
#[test]
fn t19_a_flight_never_brings_a_second_one_for_the_same_date() {
    let (tokyo, angeles) = (daily("08:00", Tz::Asia__Tokyo), daily("08:00", Tz::America__Los_Angeles));
    // Sent in Tokyo on the 2nd; in Los Angeles it is still the 1st, and then the 2nd again.
    let (done, next) = (Some(date("2026-12-02")), Some(at("2026-12-02T23:00:00Z")));
    let now = at("2026-12-02T03:00:00Z");
    assert_eq!(angeles.follow(&tokyo, done, next, now), Some(at("2026-12-03T16:00:00Z")));

    // East, not sent yet for the 2nd, whose time has passed there.
    let (done, next) = (Some(date("2026-12-01")), Some(at("2026-12-02T16:00:00Z")));
    for (now, is_late) in [("2026-12-02T02:00:00Z", false), ("2026-12-02T05:00:00Z", true)] {
        let followed = tokyo.follow(&angeles, done, next, at(now));
        assert_eq!(followed, Some(at("2026-12-01T23:00:00Z")), "{now}");
        let (slots, after) = tokyo.due(done, followed.unwrap(), at(now));
        assert_eq!((slots[0].local_date, slots[0].is_late), (date("2026-12-02"), is_late), "{now}");
        assert_eq!(after, Some(at("2026-12-02T23:00:00Z")), "{now}");
    }
}

#[test]
fn another_time_moves_what_is_still_to_come_today() {
    let (before, now) = (daily("10:00", Tz::UTC), at("2026-12-01T09:00:00Z"));
    let (today, tomorrow) = (date("2026-12-01"), at("2026-12-02T10:00:00Z"));
    let follow = |time, done, next: &str| daily(time, Tz::UTC).follow(&before, done, Some(at(next)), now);
    let ahead = "2026-12-01T10:00:00Z";
    // Later or earlier, still ahead.
    assert_eq!(follow("20:00", None, ahead), Some(at("2026-12-01T20:00:00Z")));
    assert_eq!(follow("09:01", None, ahead), Some(at("2026-12-01T09:01:00Z")));
    // Earlier and past: at once, however long past.
    assert_eq!(follow("08:00", None, ahead), Some(now));
    assert_eq!(follow("01:00", None, ahead), Some(now));
    // Sent already: tomorrow, also if the new time is still ahead today.
    for time in ["20:00", "08:00"] {
        let next = follow(time, Some(today), "2026-12-02T10:00:00Z").unwrap();
        assert_eq!(next, zone::resolve(tomorrow.date_naive().and_time(self::time(time)), Tz::UTC));
    }
    // Switched off and on after its time: tomorrow.
    let off = Wish { enabled: false, ..before };
    assert_eq!(off.follow(&before, None, Some(at(ahead)), now), None);
    assert_eq!(daily("08:00", Tz::UTC).follow(&off, None, None, now), Some(at("2026-12-02T08:00:00Z")));
    // Due, and nobody has taken it yet: it stays due, or moves ahead.
    assert_eq!(follow("07:00", None, "2026-12-01T08:30:00Z"), Some(at("2026-12-01T08:30:00Z")));
    assert_eq!(follow("11:00", None, "2026-12-01T08:30:00Z"), Some(at("2026-12-01T11:00:00Z")));
    assert_eq!(follow("11:00", None, "2026-11-30T08:30:00Z"), Some(at("2026-11-30T08:30:00Z")));
    // Today is not one of the days any more.
    let fridays = Wish { days: [Weekday::Fri].into_iter().collect(), ..before };
    assert_eq!(fridays.follow(&before, None, Some(at(ahead)), now), Some(at("2026-12-04T10:00:00Z")));
}

const ZONES: &[Tz] = &[
    Tz::UTC,
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::America__Santiago,
    Tz::America__Nuuk,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
    Tz::Pacific__Chatham,
    Tz::Asia__Kathmandu,
    Tz::Asia__Beirut,
    Tz::Africa__Casablanca,
];

/// A stretch of time in which a zone's distance from UTC does not change.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    begin: NaiveDateTime,
    offset: TimeDelta,
}

/// What the clocks of a zone showed from 2009 to 2032, found by asking for every quarter of an hour what they show.
#[derive(Debug, Clone)]
struct Clocks {
    tz: Tz,
    stretches: Vec<Stretch>,
}

impl Clocks {
    fn of(tz: Tz) -> Self {
        let start = at("2009-01-01T00:00:00Z").naive_utc();
        let offset = |utc: NaiveDateTime| {
            TimeDelta::seconds(tz.offset_from_utc_datetime(&utc).fix().local_minus_utc().into())
        };
        let mut stretches = vec![Stretch { begin: start, offset: offset(start) }];
        for hour in 0..24 * 366 * 24 {
            let utc = start + TimeDelta::hours(hour);
            let last = stretches[stretches.len() - 1].offset;
            if offset(utc) == last {
                continue;
            }
            let quarters = (0..4).map(|n| utc - TimeDelta::minutes(15 * n));
            let begin = quarters.take_while(|utc| offset(*utc) != last).last().unwrap();
            stretches.push(Stretch { begin, offset: offset(utc) });
        }
        Self { tz, stretches }
    }

    /// Every summary of a wish between two instants: a dumb walk along the wall. Each wall time of the wish comes when
    /// the clocks first show it, or by the offset before if they skip it; of two on one local date the first counts.
    fn slots(
        &self,
        wish: &Wish,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> BTreeMap<NaiveDate, DateTime<Utc>> {
        let mut found = BTreeMap::new();
        let days = (from.date_naive() - TimeDelta::days(2)).iter_days();
        for day in days.take_while(|day| *day <= to.date_naive() + TimeDelta::days(2)) {
            let wall = day.and_time(wish.time);
            let shown = self.stretches.iter().enumerate().find_map(|(n, stretch)| {
                let end = self.stretches.get(n + 1).map_or(NaiveDateTime::MAX, |next| next.begin);
                let utc = wall - stretch.offset;
                (stretch.begin <= utc && utc < end).then_some(utc)
            });
            let skipped = || {
                self.stretches.windows(2).find_map(|pair| {
                    let (before, after) = (pair[1].begin + pair[0].offset, pair[1].begin + pair[1].offset);
                    (before <= wall && wall < after).then(|| wall - pair[0].offset)
                })
            };
            let Some(utc) = shown.or_else(skipped) else { continue };
            let date = self.date(utc);
            if wish.days.contains(date) && from < utc.and_utc() && utc.and_utc() <= to {
                found.entry(date).or_insert(utc.and_utc());
            }
        }
        found
    }

    fn date(&self, utc: NaiveDateTime) -> NaiveDate {
        let stretch = self.stretches.iter().rev().find(|stretch| stretch.begin <= utc).unwrap();
        (utc + stretch.offset).date()
    }
}

/// What happens to the schedulers between two rounds.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many minutes pass until somebody looks; if it is long, everything was down.
    Pass(i64),
    /// The database's clock is set by so many minutes.
    Set(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..120_i64).prop_map(Step::Pass),
        2 => (120..2_000_i64).prop_map(Step::Pass),
        2 => (-60..=60_i64).prop_map(Step::Set),
    ];
    proptest::collection::vec(step, 1..6)
}

/// R18 of the goals: whatever the clocks, the restarts and the steps of the database's clock do, each local day has
/// its summary once, at its instant, and what was too late is known as that. 100,000 cases against a walk along the wall.
#[test]
fn r18_each_local_day_has_its_summary_once() {
    let clocks: Vec<_> = ZONES.iter().map(|tz| Clocks::of(*tz)).collect();
    let day = 24 * 60_i64;
    let case =
        (0..clocks.len(), any::<prop::sample::Index>(), any::<bool>(), -2 * day..2 * day, 0..24 * 366 * day);
    let wish =
        (0..day, prop_oneof![3 => Just(127_u8), 1 => 1..=127_u8], prop::option::weighted(0.5, -90..90_i64));
    let config = Config { failure_persistence: None, ..Config::with_cases(100_000) };
    proptest!(config, |((zone, change, is_near, near, minute) in case, (wall, mask, close) in wish, steps in steps())| {
        let clocks = &clocks[zone];
        let change = clocks.stretches[change.index(clocks.stretches.len())];
        let (first, last) = (at("2009-02-01T00:00:00Z"), at("2031-12-01T00:00:00Z"));
        let start = match is_near {
            true => change.begin.and_utc() + TimeDelta::minutes(near),
            false => first + TimeDelta::minutes(minute),
        };
        let start = start.clamp(first, last);
        // Half of the times are near what the clocks skip or repeat.
        let wall = match close {
            Some(minutes) => (change.begin + change.offset + TimeDelta::minutes(minutes)).time(),
            None => NaiveTime::MIN + TimeDelta::minutes(wall),
        };
        let days = (0..7).filter(|n| mask & 1 << n != 0).map(|n| Weekday::try_from(n).unwrap()).collect();
        let wish = Wish { enabled: true, time: wall, days, tz: clocks.tz };

        let (mut next, mut done, mut now, mut latest) = (wish.next(None, start), None, start, start);
        let mut seen = BTreeMap::new();
        for step in steps {
            now += match step { Step::Pass(minutes) | Step::Set(minutes) => TimeDelta::minutes(minutes) };
            latest = latest.max(now);
            let Some(due) = next else { continue };
            let (slots, after) = wish.due(done, due, now);
            for slot in slots {
                prop_assert!(slot.at <= now, "early: {slot:?} at {now}");
                let late = now - slot.at > TimeDelta::hours(4)
                    || clocks.date(now.naive_utc()) != clocks.date(slot.at.naive_utc());
                prop_assert_eq!(slot.is_late, late);
                prop_assert_eq!(seen.insert(slot.local_date, slot.at), None, "twice: {:?}", slot);
                done = Some(slot.local_date);
            }
            next = after;
        }
        // What the clock showed before it was set back was dealt with then.
        prop_assert_eq!(seen, clocks.slots(&wish, start, latest));
    });
}
