use std::collections::BTreeSet;

use chrono::{NaiveDateTime, NaiveTime};
use common::testing::at;
use proptest::{prelude::*, test_runner::Config};

use super::*;

const ZONES: &[Tz] = &[
    Tz::UTC,
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::America__Santiago,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
    Tz::Pacific__Chatham,
    Tz::Asia__Kathmandu,
    Tz::Africa__Casablanca,
];

fn schedule(cron: &str, zone: Tz, catch_up: CatchUp) -> Schedule {
    Schedule::new("test", cron, zone, catch_up, &PruneHistory {}).unwrap()
}

fn zone() -> impl Strategy<Value = Tz> {
    proptest::sample::select(ZONES)
}

/// An instant from 2000 to 2037, half of them within hours of a change of the clocks in `zone`.
fn instant(zone: Tz) -> impl Strategy<Value = DateTime<Utc>> {
    let start = at("2000-01-01T00:00:00Z");
    let step = TimeDelta::minutes(30);
    let offset = |at: DateTime<Utc>| zone::to_local(at, zone) - at.naive_utc();
    let changed = |at: &DateTime<Utc>| offset(*at - step) != offset(*at);
    let mut changes: Vec<_> = (0..38 * 366)
        .map(|day| start + TimeDelta::days(day))
        .filter(|day| offset(*day) != offset(*day + TimeDelta::days(1)))
        .filter_map(|day| (1..=48).map(|n| day + step * n).find(changed))
        .collect();
    if changes.is_empty() {
        changes.push(start);
    }
    let hours = |n: i64| n * 3600;
    prop_oneof![
        (0..38 * 365 * hours(24)).prop_map(move |second| start + TimeDelta::seconds(second)),
        (proptest::sample::select(changes), -hours(3)..hours(3))
            .prop_map(|(change, seconds)| change + TimeDelta::seconds(seconds)),
    ]
}

/// Every wall minute of the days around, one by one.
fn brute_force(schedule: &Schedule, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let start = after.naive_utc().date().and_time(NaiveTime::MIN) - TimeDelta::days(1);
    let walls = (0..).map(|minute| start + TimeDelta::minutes(minute));
    let end: NaiveDateTime = until.naive_utc() + TimeDelta::days(1);
    let slots: BTreeSet<_> = walls
        .take_while(|wall| *wall < end)
        .filter(|wall| schedule.cron.includes(wall.and_utc()))
        .map(|wall| zone::resolve(wall, schedule.zone))
        .filter(|slot| after < *slot && *slot <= until)
        .collect();
    slots.into_iter().collect()
}

/// R18: each daily job once per local day, also where the clocks skip its time or show it twice; 120,000 days.
#[test]
fn a_daily_job_runs_once_per_local_day() {
    let moments = ZONES.iter().map(|zone| (*zone, instant(*zone).boxed())).collect::<Vec<_>>();
    let any = proptest::sample::select(moments).prop_flat_map(|(zone, moment)| (Just(zone), moment));
    proptest!(Config::with_cases(40_000), |((zone, start) in any, hour in 0..24_u32, minute in 0..60_u32)| {
        let daily = schedule(&format!("0 {minute} {hour} * * *"), zone, CatchUp::Skip);
        let first = zone::local_date(start, zone).succ_opt().unwrap();
        let days: Vec<_> = first.iter_days().take(3).collect();
        let slots = daily.slots(zone::start_of_day(days[0], zone) - TimeDelta::seconds(1),
            zone::end_of_day(days[2], zone) - TimeDelta::seconds(1));
        let dates: Vec<_> = slots.iter().map(|slot| zone::local_date(*slot, zone)).collect();
        // Samoa had no 30 December 2011.
        let real: Vec<_> = days.iter().copied()
            .filter(|day| zone::local_date(zone::start_of_day(*day, zone), zone) == *day).collect();
        prop_assert_eq!(dates, real);
        let wall = NaiveTime::from_hms_opt(hour, minute, 0).unwrap();
        prop_assert!(slots.iter().all(|slot| slots.contains(&zone::resolve(
            zone::local_date(*slot, zone).and_time(wall), zone))), "not at its time: {slots:?}");
    });
}

#[test]
fn slots_are_those_of_brute_force() {
    let expression = proptest::sample::select(vec![
        "0 30 2 * * *",
        "0 0 * * * *",
        "0 */15 0-3 * * *",
        "0 10 4 * * Sun",
        "0 * * * * *",
        "0 45 23,0,1 29-31 * *",
        "0 37 0,2 * * *",
    ]);
    let any = zone().prop_flat_map(|zone| (Just(zone), instant(zone)));
    proptest!(Config::with_cases(500), |((zone, after) in any, expression in expression, minutes in 0..480_i64)| {
        let schedule = schedule(expression, zone, CatchUp::Skip);
        let until = after + TimeDelta::minutes(minutes);
        let slots = schedule.slots(after, until);
        prop_assert_eq!(&slots, &brute_force(&schedule, after, until));
        // However often one looks, each slot comes once.
        let middle = after + TimeDelta::minutes(minutes / 3);
        prop_assert_eq!(&slots, &[schedule.slots(after, middle), schedule.slots(middle, until)].concat());
        prop_assert_eq!(schedule.next(after, until - after), slots.first().copied());
    });
}

#[test]
fn the_clocks_of_berlin() {
    let daily = schedule("0 30 2 * * *", Tz::Europe__Berlin, CatchUp::Skip);
    let slots = |from, until| daily.slots(at(from), at(until));
    // Skipped: right after, at 03:30 summer time; also for who looks from 03:10.
    for from in ["2026-03-29T00:00:00Z", "2026-03-29T01:10:00Z"] {
        assert_eq!(slots(from, "2026-03-29T23:00:00Z"), [at("2026-03-29T01:30:00Z")], "{from}");
    }
    // Twice: the first; also for who looks at the second 02:10.
    for until in ["2026-10-25T01:10:00Z", "2026-10-25T23:00:00Z"] {
        assert_eq!(slots("2026-10-25T00:00:00Z", until), [at("2026-10-25T00:30:00Z")], "{until}");
    }
}

#[test]
fn what_was_missed_is_caught_up_with_as_the_table_says() {
    let (last, now) = (at("2026-05-04T10:00:00Z"), at("2026-05-04T10:10:30Z"));
    let owed = |catch_up| schedule("0 * * * * *", Tz::UTC, catch_up).owed(last, now);
    let minutes =
        |range: std::ops::RangeInclusive<i64>| range.map(|m| last + TimeDelta::minutes(m)).collect();
    let newest = Some(at("2026-05-04T10:10:00Z"));
    for (catch_up, slots, skipped) in [
        (CatchUp::Skip, vec![], 10),
        (CatchUp::Latest, minutes(10..=10), 9),
        (CatchUp::All { max: 10 }, minutes(1..=10), 0),
        (CatchUp::All { max: 3 }, minutes(8..=10), 7),
    ] {
        assert_eq!(owed(catch_up), Owed { slots, skipped, last: newest }, "{catch_up:?}");
    }
}

#[test]
fn a_slot_that_is_merely_late_runs_whatever_the_policy() {
    let now = at("2026-05-04T10:10:09Z");
    for catch_up in [CatchUp::Skip, CatchUp::Latest, CatchUp::All { max: 0 }] {
        let owed = schedule("0 * * * * *", Tz::UTC, catch_up).owed(at("2026-05-04T10:00:00Z"), now);
        assert_eq!(owed.slots, [at("2026-05-04T10:10:00Z")], "{catch_up:?}");
        assert_eq!(owed.skipped, 9);
    }
}

#[test]
fn a_long_absence_costs_no_more_than_a_month() {
    let schedule = schedule("0 * * * * *", Tz::UTC, CatchUp::Latest);
    let owed = schedule.owed(at("2001-01-01T00:00:00Z"), at("2026-05-04T10:10:09Z"));
    assert_eq!(owed.slots.len() + owed.skipped, 31 * 24 * 60);
    let back_in_time = schedule.owed(at("2027-01-01T00:00:00Z"), at("2026-05-04T10:10:09Z"));
    assert_eq!(back_in_time, Owed::default());
}

#[test]
fn the_table_can_be_read_and_its_names_are_its_own() {
    let table = table(Tz::Europe__Berlin).unwrap();
    let names: BTreeSet<_> = table.iter().map(Schedule::name).collect();
    assert_eq!(names.len(), table.len());
    let weekly = table.iter().find(|schedule| schedule.name() == "purge_archived").unwrap();
    // A Sunday, 04:10 summer time.
    assert_eq!(weekly.next(at("2026-06-01T00:00:00Z"), TimeDelta::days(7)), Some(at("2026-06-07T02:10:00Z")));
}

/// Summaries announce what the job will take.
#[test]
fn the_archiving_that_summaries_announce_is_that_of_the_table() {
    let table = table(zone::instance()).unwrap();
    let archive = table.iter().find(|schedule| schedule.name() == "archive_completed").unwrap();
    let now = at("2026-06-01T08:00:00Z");
    assert_eq!(archive.next(now, TimeDelta::days(2)), Some(common::summaries::next_archiving(now)));
}
