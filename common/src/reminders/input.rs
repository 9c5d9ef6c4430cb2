use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDateTime, Utc};
use chrono_tz::Tz;
use garde::Validate;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::ReminderKind;
use crate::{
    error::{Code, Coded, Error, FieldError, Result},
    zone::{self, Zone},
};

/// Reminders of one person on one task at most.
pub const MAX_PER_TASK: usize = 20;
/// As for due dates: no sum can leave what chrono and PostgreSQL hold.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2200;
/// The earliest and the latest offset, in minutes: a year before, 30 days after.
const OFFSETS: std::ops::RangeInclusive<i32> = -366 * 24 * 60..=30 * 24 * 60;

/// What a client may ask for: `{"kind": "relative", "offset_minutes": -30}` or
/// `{"kind": "absolute", "at": "2026-12-01T15:00"}`. [`check`] says whether the fields fit together.
#[derive(Debug, Clone, PartialEq, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"kind": "absolute", "at": "2030-12-01T15:00:00Z"}))]
pub struct NewReminder {
    /// What it is counted from.
    pub kind: ReminderKind,
    /// For `relative`: minutes from the due date, negative before it, from a year before to 30 days after. Whole days
    /// are calendar days: a day before 09:00 is 09:00, also when the clocks change.
    #[serde(default)]
    #[schema(example = -30, minimum = -527_040, maximum = 43_200)]
    pub offset_minutes: Option<i32>,
    /// For `absolute`: an instant (`2026-12-01T15:00:00Z`), or a local time (`2026-12-01T15:00`) in the person's own
    /// time zone.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "2026-12-01T15:00:00Z")]
    pub at: Option<At>,
}

/// A moment as a client writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The same everywhere.
    Instant(DateTime<Utc>),
    /// What a clock on the person's wall shows.
    Local(NaiveDateTime),
}

impl FromStr for At {
    type Err = Coded<&'static str>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "Write an instant such as 2026-12-01T15:00:00Z, or a local time such as 2026-12-01T15:00.";
        let at = match DateTime::parse_from_rfc3339(text) {
            Ok(instant) => Self::Instant(zone::whole_second(instant.to_utc())),
            Err(_) => ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"]
                .iter()
                .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
                .map(Self::Local)
                .ok_or(Coded(Code::InvalidDate, FORM))?,
        };
        if YEARS.contains(&at.year()) {
            Ok(at)
        } else {
            Err(Coded(Code::InvalidDate, "The year is 1970 to 2200."))
        }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl At {
    fn year(self) -> i32 {
        match self {
            Self::Instant(instant) => instant.year(),
            Self::Local(local) => local.year(),
        }
    }

    /// The instant that it means for somebody in `tz`.
    pub(super) fn instant(self, tz: Tz) -> DateTime<Utc> {
        match self {
            Self::Instant(instant) => instant,
            Self::Local(local) => zone::resolve(local, tz),
        }
    }

    /// The wall time and zone that are stored: the person's own, unless the instant has no wall time there.
    pub(super) fn pin(self, person: Tz) -> (NaiveDateTime, Zone) {
        let (local, tz) = match self {
            Self::Local(local) => (local, person),
            Self::Instant(instant) => zone::pin(instant, person),
        };
        (local, tz.into())
    }
}

/// Checks reminders of a task that is due or not; `pointer` is where they stand in the body.
///
/// # Errors
/// [`Error::Invalid`] with an entry for each rule that is broken.
pub fn check(reminders: &[NewReminder], has_due: bool, pointer: &str) -> Result<()> {
    let mut errors = Vec::new();
    if reminders.len() > MAX_PER_TASK {
        errors.push(FieldError::at(
            pointer,
            Code::TooMany,
            format!("A task has at most {MAX_PER_TASK} reminders."),
        ));
    }
    for (position, reminder) in reminders.iter().enumerate() {
        let at = |field: &str| format!("{pointer}/{position}{field}");
        if let Err((field, code, detail)) = reminder.check(has_due) {
            errors.push(FieldError::at(at(field), code, detail));
        } else if reminders[..position].contains(reminder) {
            errors.push(FieldError::at(at(""), Code::Duplicate, "The same reminder is there twice."));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

impl NewReminder {
    /// Checks one that is changed or added alone; its fields are those of the body.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the field.
    pub fn check_alone(&self, has_due: bool) -> Result<()> {
        self.check(has_due).map_err(|(field, code, detail)| Error::invalid(field, code, detail))
    }

    fn check(&self, has_due: bool) -> Result<(), (&'static str, Code, String)> {
        const OFFSET: &str = "/offset_minutes";
        const AT: &str = "/at";
        match (self.kind, self.offset_minutes, self.at) {
            (ReminderKind::Relative, _, Some(_)) => {
                Err((AT, Code::UnknownField, "A relative reminder has no `at`.".to_owned()))
            }
            (ReminderKind::Absolute, Some(_), _) => {
                Err((OFFSET, Code::UnknownField, "An absolute reminder has no `offset_minutes`.".to_owned()))
            }
            (ReminderKind::Relative, None, _) => Err((
                OFFSET,
                Code::Required,
                "A relative reminder needs `offset_minutes`; -30 is half an hour before.".to_owned(),
            )),
            (ReminderKind::Absolute, _, None) => {
                Err((AT, Code::Required, "An absolute reminder needs `at`.".to_owned()))
            }
            (ReminderKind::Relative, Some(offset), None) if !OFFSETS.contains(&offset) => Err((
                OFFSET,
                Code::InvalidValue,
                format!(
                    "An offset lies from {} (a year before) to {} (30 days after).",
                    OFFSETS.start(),
                    OFFSETS.end()
                ),
            )),
            (ReminderKind::Relative, Some(_), None) if !has_due => Err((
                "",
                Code::ReminderNeedsDue,
                "Give the task a due date, or use an absolute reminder.".to_owned(),
            )),
            (ReminderKind::Relative, Some(_), None) | (ReminderKind::Absolute, None, Some(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<NewReminder, String> {
        let mut json = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())
    }

    #[test]
    fn both_kinds_are_read() {
        assert_eq!(read(r#"{"kind":"relative","offset_minutes":-30}"#).unwrap().offset_minutes, Some(-30));
        let at = |text: &str| read(&format!(r#"{{"kind":"absolute","at":"{text}"}}"#)).unwrap().at.unwrap();
        assert_eq!(at("2026-12-01T16:00:00+01:00"), At::Instant("2026-12-01T15:00:00Z".parse().unwrap()));
        assert_eq!(
            at("2026-12-01T15:00:00.001Z"),
            At::Instant("2026-12-01T15:00:01Z".parse().unwrap()),
            "never early"
        );
        assert_eq!(at("2026-12-01T15:00"), At::Local("2026-12-01T15:00:00".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        for (json, path) in [
            (r#"{"kind":"relative","ofset_minutes":-30}"#, "ofset_minutes: unknown field"),
            (r#"{"kind":"absolute","at":"tomorrow"}"#, "at: invalid_date: Write an instant"),
            (r#"{"kind":"relative","offset_minutes":"x"}"#, "offset_minutes: invalid type"),
            (r#"{"kind":"sometimes"}"#, "kind: unknown variant"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.starts_with(path), "{json}: {error}");
        }
    }

    #[test]
    fn fields_have_to_fit_together() {
        let errors = |jsons: &[&str], has_due| {
            let reminders: Vec<_> = jsons.iter().map(|json| read(json).unwrap()).collect();
            match check(&reminders, has_due, "/reminders") {
                Ok(()) => Vec::new(),
                Err(Error::Invalid(errors)) => {
                    errors.into_iter().map(|e| (e.pointer.unwrap(), e.code)).collect()
                }
                Err(other) => panic!("{other}"),
            }
        };
        let half_an_hour = r#"{"kind":"relative","offset_minutes":-30}"#;
        assert_eq!(errors(&[half_an_hour], true), []);
        let wrong = errors(
            &[
                half_an_hour,
                half_an_hour,
                r#"{"kind":"relative"}"#,
                r#"{"kind":"absolute"}"#,
                r#"{"kind":"relative","offset_minutes":50000}"#,
                r#"{"kind":"absolute","at":"2026-12-01T15:00","offset_minutes":1}"#,
            ],
            true,
        );
        assert_eq!(
            wrong,
            [
                ("/reminders/1".into(), Code::Duplicate),
                ("/reminders/2/offset_minutes".into(), Code::Required),
                ("/reminders/3/at".into(), Code::Required),
                ("/reminders/4/offset_minutes".into(), Code::InvalidValue),
                ("/reminders/5/offset_minutes".into(), Code::UnknownField),
            ]
        );
        assert_eq!(errors(&[half_an_hour], false), [("/reminders/0".into(), Code::ReminderNeedsDue)]);
        assert_eq!(errors(&[r#"{"kind":"absolute","at":"2026-12-01T15:00"}"#], false), []);
        let many: Vec<String> =
            (0..21).map(|n| format!(r#"{{"kind":"relative","offset_minutes":{n}}}"#)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(errors(&many, true), [("/reminders".into(), Code::TooMany)]);
    }
}
