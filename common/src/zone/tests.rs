use chrono::{Days, TimeDelta};
use chrono_tz::{Africa, America, Asia, Atlantic, Australia, Europe, Pacific};
use proptest::prelude::*;

use super::*;

fn wall(text: &str) -> NaiveDateTime {
    text.parse().unwrap()
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn a_gap_is_read_with_the_offset_before_it() {
    for (text, tz, expected) in [
        ("2026-03-29T02:30:00", Europe::Berlin, "2026-03-29T01:30:00Z"),
        ("2026-03-08T02:00:00", America::New_York, "2026-03-08T07:00:00Z"),
        ("2026-10-04T02:15:00", Australia::Lord_Howe, "2026-10-03T15:45:00Z"),
        ("2011-12-30T12:00:00", Pacific::Apia, "2011-12-30T22:00:00Z"),
    ] {
        assert_eq!(resolve(wall(text), tz), utc(expected), "{text} {tz}");
    }
}

#[test]
fn a_time_that_comes_twice_is_its_first_occurrence() {
    for (text, tz, expected) in [
        ("2026-10-25T02:30:00", Europe::Berlin, "2026-10-25T00:30:00Z"),
        ("2026-04-05T01:45:00", Australia::Lord_Howe, "2026-04-04T14:45:00Z"),
        ("2018-02-17T23:30:00", America::Sao_Paulo, "2018-02-18T01:30:00Z"),
    ] {
        assert_eq!(resolve(wall(text), tz), utc(expected), "{text} {tz}");
    }
}

#[test]
fn a_day_starts_at_its_first_instant() {
    for (date, tz, expected) in [
        ("2026-01-01", Tz::UTC, "2026-01-01T00:00:00Z"),
        // the clocks skip 00:00 to 01:00
        ("2018-11-04", America::Sao_Paulo, "2018-11-04T03:00:00Z"),
        ("2024-04-26", Africa::Cairo, "2024-04-25T22:00:00Z"),
        // they skip 23:30 to 00:30, so the day starts at half past midnight
        ("1919-03-31", America::Toronto, "1919-03-31T04:30:00Z"),
        // they skip the whole day
        ("2011-12-30", Pacific::Apia, "2011-12-30T10:00:00Z"),
        ("2011-12-31", Pacific::Apia, "2011-12-30T10:00:00Z"),
        // midnight comes twice
        ("2026-11-01", America::Havana, "2026-11-01T04:00:00Z"),
        ("2025-10-26", Atlantic::Azores, "2025-10-26T00:00:00Z"),
    ] {
        assert_eq!(start_of_day(day(date), tz), utc(expected), "{date} {tz}");
    }
    assert_eq!(end_of_day(day("2026-10-25"), Europe::Berlin), utc("2026-10-25T23:00:00Z"));
}

#[test]
fn the_second_occurrence_is_pinned_in_utc() {
    let (first, second) = (utc("2026-10-25T00:30:00Z"), utc("2026-10-25T01:30:00Z"));
    assert_eq!(pin(first, Europe::Berlin), (wall("2026-10-25T02:30:00"), Europe::Berlin));
    assert_eq!(pin(second, Europe::Berlin), (wall("2026-10-25T01:30:00"), Tz::UTC));
}

#[test]
fn the_ends_of_time_do_not_panic() {
    for tz in TZ_VARIANTS {
        for wall in [NaiveDateTime::MIN, NaiveDateTime::MAX] {
            resolve(wall, tz);
            start_of_day(wall.date(), tz);
            end_of_day(wall.date(), tz);
            to_local(wall.and_utc(), tz);
        }
    }
}

#[test]
fn an_unknown_name_suggests_a_near_one() {
    for (name, suggestion) in [
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("US/New_York", "America/New_York"),
        ("Asia/Kolkatta", "Asia/Kolkata"),
        ("utc", "UTC"),
    ] {
        assert_eq!(parse(name).unwrap_err().suggestion().map(Tz::name), Some(suggestion), "{name}");
    }
    assert_eq!(
        parse("Europe/Berln").unwrap_err().to_string(),
        r#"unknown time zone "Europe/Berln": did you mean "Europe/Berlin"?"#
    );
    for name in ["Mars/Base", "", "   ", "\r\nX-Header: 1"] {
        let error = parse(name).unwrap_err();
        assert_eq!(error.suggestion(), None, "{name}");
        assert!(error.to_string().ends_with(r#"give an IANA name such as "Europe/Berlin" or "UTC""#));
        assert!(!error.to_string().contains('\n'));
    }
    assert!(parse(&"x".repeat(1_000_000)).unwrap_err().to_string().len() < 100);
}

#[test]
fn t32_an_unknown_stored_name_falls_back_to_the_instance() {
    let stored = Zone::stored("Mars/Base");
    assert_eq!((stored.name(), stored.known()), ("Mars/Base", None));
    assert_eq!(stored.tz(), instance());
    assert_eq!(serde_json::to_string(&stored).unwrap(), r#""Mars/Base""#);
    assert_eq!(Zone::stored("Asia/Tokyo").tz(), Asia::Tokyo);
}

#[test]
fn json_is_the_name() {
    let zone: Zone = serde_json::from_str(r#""Europe/Berlin""#).unwrap();
    assert_eq!(zone, Zone::from(Europe::Berlin));
    assert_eq!(serde_json::to_string(&zone).unwrap(), r#""Europe/Berlin""#);
    assert!(serde_json::from_str::<Zone>(r#""Mars/Base""#).is_err());
}

/// The rules from the definition: go through every minute of the two days around and look at the clock.
struct Oracle {
    /// (minute, what the clock shows), in the order of time.
    shown: Vec<(DateTime<Utc>, NaiveDateTime)>,
}

impl Oracle {
    fn around(date: NaiveDate, tz: Tz) -> Self {
        let from = date.and_time(NaiveTime::MIN).and_utc() - TimeDelta::days(2);
        let shown = (0..5 * 24 * 60).map(|minute| {
            let at = from + TimeDelta::minutes(minute);
            (at, at.with_timezone(&tz).naive_local())
        });
        Oracle { shown: shown.collect() }
    }

    fn resolve(&self, wall: NaiveDateTime) -> DateTime<Utc> {
        match self.shown.iter().find(|(_, shown)| *shown == wall) {
            Some((at, _)) => *at,
            None => {
                let skipped =
                    self.shown.windows(2).find(|pair| pair[0].1 < wall && wall < pair[1].1).unwrap();
                skipped[0].0 + (wall - skipped[0].1)
            }
        }
    }

    fn start_of_day(&self, date: NaiveDate) -> DateTime<Utc> {
        self.shown.iter().find(|(_, shown)| shown.date() >= date).unwrap().0
    }
}

/// Days on which something happens to the clock are rare: half of the cases are taken from them.
fn moments() -> impl Strategy<Value = (Tz, NaiveDateTime)> {
    let odd = prop_oneof![
        Just((Europe::Berlin, "2026-03-29")),
        Just((Europe::Berlin, "2026-10-25")),
        Just((Australia::Lord_Howe, "2026-10-04")),
        Just((Australia::Lord_Howe, "2026-04-05")),
        Just((Pacific::Apia, "2011-12-30")),
        Just((Pacific::Kwajalein, "1993-08-21")),
        Just((America::Sao_Paulo, "2018-11-04")),
        Just((America::St_Johns, "2010-11-07")),
        Just((Africa::Cairo, "2024-04-26")),
        Just((Africa::Casablanca, "2026-03-22")),
        Just((America::Havana, "2026-11-01")),
        Just((Asia::Pyongyang, "2015-08-15")),
        Just((America::Scoresbysund, "2024-03-31")),
        Just((Asia::Gaza, "2026-10-24")),
    ]
    .prop_map(|(tz, date)| (tz, day(date)));
    let any = (proptest::sample::select(TZ_VARIANTS.to_vec()), 0..55_000u64)
        .prop_map(|(tz, days)| (tz, day("1973-01-01") + Days::new(days)));
    let near = (prop_oneof![odd, any], -1..=1i64, 0..24 * 60i64);
    near.prop_map(|((tz, date), days, minute)| {
        (tz, date.and_time(NaiveTime::MIN) + TimeDelta::days(days) + TimeDelta::minutes(minute))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_agree_with_a_clock_watched_for_days((tz, wall) in moments()) {
        let oracle = Oracle::around(wall.date(), tz);
        prop_assert_eq!(resolve(wall, tz), oracle.resolve(wall));
        prop_assert_eq!(start_of_day(wall.date(), tz), oracle.start_of_day(wall.date()));
    }

    #[test]
    fn what_is_pinned_resolves_to_the_same_instant((tz, wall) in moments()) {
        let (at, zone) = pin(wall.and_utc(), tz);
        prop_assert_eq!(resolve(at, zone), wall.and_utc());
    }
}
