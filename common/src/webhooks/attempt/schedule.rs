use chrono::{DateTime, TimeDelta, Utc};

/// The pauses before the second, third, … attempt of a delivery (product §5). After the tenth failure it is exhausted,
/// three days and a half after the first.
pub const SCHEDULE: [TimeDelta; 9] = [
    TimeDelta::seconds(5),
    TimeDelta::minutes(5),
    TimeDelta::minutes(30),
    TimeDelta::hours(2),
    TimeDelta::hours(5),
    TimeDelta::hours(10),
    TimeDelta::hours(14),
    TimeDelta::hours(20),
    TimeDelta::hours(24),
];

/// A receiver's `Retry-After` is honoured up to this.
pub const MAX_RETRY_AFTER: TimeDelta = TimeDelta::hours(24);

/// The pause after so many failed attempts, varied by ± 20 % so that what failed together does not come back together;
/// `jitter` is a random number from 0 to 1. `None` if that was the last attempt.
pub fn pause(failed: i32, jitter: f64) -> Option<TimeDelta> {
    let pause = SCHEDULE.get(usize::try_from(failed - 1).ok()?)?;
    #[expect(clippy::cast_possible_truncation, reason = "at most 29 hours of milliseconds")]
    let millis = (pause.as_seconds_f64() * 1000.0 * (0.8 + 0.4 * jitter)) as i64;
    Some(TimeDelta::milliseconds(millis))
}

/// The pause that a `Retry-After` asks for (RFC 9110 §10.2.3: seconds, or a date), at most [`MAX_RETRY_AFTER`]; `None` if
/// it cannot be read.
pub fn retry_after(value: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let value = value.trim();
    let pause = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        // More digits than fit are more than a day in any case.
        value.parse().ok().and_then(TimeDelta::try_seconds).unwrap_or(MAX_RETRY_AFTER)
    } else {
        DateTime::parse_from_rfc2822(value).ok()?.with_timezone(&Utc) - now
    };
    Some(pause.clamp(TimeDelta::zero(), MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_as_documented_and_vary_by_a_fifth() {
        let seconds = |failed, jitter| pause(failed, jitter).map(|pause| pause.as_seconds_f64());
        let plan: Vec<f64> = (1..=9).filter_map(|failed| seconds(failed, 0.5)).collect();
        assert_eq!(plan, [5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0]);
        assert_eq!((seconds(1, 0.0), seconds(1, 1.0)), (Some(4.0), Some(6.0)));
        assert_eq!((seconds(0, 0.5), seconds(10, 0.5)), (None, None));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
        let now: DateTime<Utc> = "2030-01-02T08:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 02 Jan 2030 08:10:00 GMT", Some(600)),
            ("Wed, 02 Jan 2030 07:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 2100 23:59:59 GMT", Some(86_400)),
            ("90000", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("-5", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(TimeDelta::seconds), "{value:?}");
        }
    }
}
