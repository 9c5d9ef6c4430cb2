//! When a task is due: what the person meant, and the instant that follows from it (semantics §2).

use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, Timelike as _, Utc};
use chrono_tz::Tz;
use diesel::{AsChangeset, Insertable, Queryable, Selectable};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Ref, Schema, SchemaType, Type},
    },
};

use crate::{
    db::pg_enum,
    error::{Code, Coded},
    schema::tasks,
    zone::{self, Zone},
};

pg_enum! {
    /// How a due date is meant.
    DueKind: DueKind {
        /// All day.
        Date = "date",
        /// A time on the clock of whoever has the task, wherever that is.
        Floating = "floating",
        /// A time on the clock of a named zone.
        Zoned = "zoned",
    }
}

/// When a task is due, as the table keeps it; the default is "not at all". Written in JSON as [`DueObject`], or null.
#[derive(Debug, Clone, Default, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tasks, treat_none_as_null = true, check_for_backend(diesel::pg::Pg))]
pub struct Due {
    #[diesel(column_name = due_kind)]
    kind: Option<DueKind>,
    #[diesel(column_name = due_date)]
    date: Option<NaiveDate>,
    #[diesel(column_name = due_time)]
    time: Option<NaiveTime>,
    #[diesel(column_name = due_zone)]
    zone: Option<Zone>,
    #[diesel(column_name = due_at)]
    at: Option<DateTime<Utc>>,
}

/// What a due date means, without the columns that do not belong to its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// All day.
    Date(NaiveDate),
    /// That time on the clock of whoever has the task.
    Floating(NaiveDateTime),
    /// That time on the clock of this zone.
    Zoned(NaiveDateTime, Zone),
}

impl Meaning {
    /// The instant from which it is overdue, for somebody in `tz`: the end of the day, or the time itself.
    pub fn instant(&self, tz: Tz) -> DateTime<Utc> {
        match self {
            Self::Date(date) => zone::end_of_day(*date, tz),
            Self::Floating(wall) => zone::resolve(*wall, tz),
            Self::Zoned(wall, zone) => zone::resolve(*wall, zone.tz()),
        }
    }
}

impl Due {
    /// A due date for somebody in `tz`.
    pub fn new(meaning: Meaning, tz: Tz) -> Self {
        let at = Some(meaning.instant(tz));
        match meaning {
            Meaning::Date(date) => {
                Self { kind: Some(DueKind::Date), date: Some(date), at, ..Self::default() }
            }
            Meaning::Floating(wall) => Self {
                kind: Some(DueKind::Floating),
                date: Some(wall.date()),
                time: Some(wall.time()),
                at,
                ..Self::default()
            },
            Meaning::Zoned(wall, zone) => Self {
                kind: Some(DueKind::Zoned),
                date: Some(wall.date()),
                time: Some(wall.time()),
                zone: Some(zone),
                at,
            },
        }
    }

    /// What it means; `None` if the task is not due.
    pub fn meaning(&self) -> Option<Meaning> {
        let (kind, date) = (self.kind?, self.date?);
        let wall = self.time.map(|time| date.and_time(time));
        match (kind, wall, &self.zone) {
            (DueKind::Floating, Some(wall), _) => Some(Meaning::Floating(wall)),
            (DueKind::Zoned, Some(wall), Some(zone)) => Some(Meaning::Zoned(wall, zone.clone())),
            // The schema allows no other combination.
            _ => Some(Meaning::Date(date)),
        }
    }

    /// The instant from which it is overdue; `None` if the task is not due.
    pub fn at(&self) -> Option<DateTime<Utc>> {
        self.at
    }
}

/// A due date as answers show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DueObject {
    /// How it is meant.
    kind: DueKind,
    /// The day.
    #[schema(example = "2026-12-01")]
    date: NaiveDate,
    /// The time on the clock; null for all day.
    #[schema(value_type = Option<String>, example = "17:00")]
    time: Option<String>,
    /// The zone of a `zoned` time.
    zone: Option<Zone>,
    /// The instant from which it is overdue.
    at: DateTime<Utc>,
    /// Whether it has no time.
    all_day: bool,
}

impl Serialize for Due {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (Some(kind), Some(date), Some(at)) = (self.kind, self.date, self.at) else {
            return serializer.serialize_none();
        };
        let time = self.time.map(|time| {
            let form = if time.second() == 0 { "%H:%M" } else { "%H:%M:%S" };
            time.format(form).to_string()
        });
        let all_day = time.is_none();
        DueObject { kind, date, time, zone: self.zone.clone(), at, all_day }.serialize(serializer)
    }
}

/// A due date as a client writes it: the object, or a string such as `2026-12-01`, `2026-12-01T17:00` or
/// `2026-12-01T17:00+01:00`.
#[derive(Debug, Clone, PartialEq)]
pub enum DueInput {
    /// A day.
    Date(NaiveDate),
    /// A time on the clock, in a zone if it is named.
    Wall(NaiveDateTime, Option<Zone>),
    /// A time on everybody's own clock: the object says `"kind": "floating"`.
    Floating(NaiveDateTime),
    /// An instant: a time with an offset.
    Instant(DateTime<Utc>),
}

impl DueInput {
    /// What somebody in `tz` means by it: an instant becomes a time of that zone, and so does a time without a zone if
    /// it is `shared` with others. It is due by a clock in `clock`.
    pub fn resolve(&self, tz: Tz, clock: Tz, shared: bool) -> Due {
        let meaning = match self {
            Self::Date(date) => Meaning::Date(*date),
            Self::Wall(wall, None) if shared => Meaning::Zoned(*wall, tz.into()),
            Self::Wall(wall, None) | Self::Floating(wall) => Meaning::Floating(*wall),
            Self::Wall(wall, Some(zone)) => Meaning::Zoned(*wall, zone.clone()),
            Self::Instant(instant) => {
                let (wall, tz) = zone::pin(*instant, tz);
                Meaning::Zoned(wall, tz.into())
            }
        };
        Due::new(meaning, clock)
    }
}

const DATE_FORM: &str = "A date has the form 2026-12-01.";
const TIME_FORM: &str = "A time has the form 17:00.";
const TIME: &str = r"^\d{2}:\d{2}(:\d{2})?$";
/// Far enough for everybody, and no sum of a date and an offset can leave what chrono and PostgreSQL hold.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2200;

fn date(text: &str) -> Result<NaiveDate, Coded<String>> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map_err(|_| Coded(Code::InvalidDate, format!("{DATE_FORM} Or there is no such day.")))?;
    if YEARS.contains(&date.year()) {
        Ok(date)
    } else {
        Err(Coded(Code::InvalidDate, format!("The year is {} to {}.", YEARS.start(), YEARS.end())))
    }
}

fn time(text: &str) -> Result<NaiveTime, Coded<String>> {
    ["%H:%M", "%H:%M:%S"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(text, form).ok())
        .filter(|time| time.nanosecond() < 1_000_000_000)
        .ok_or_else(|| Coded(Code::InvalidDate, TIME_FORM.to_owned()))
}

impl FromStr for DueInput {
    type Err = Coded<String>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((day, clock)) = text.split_once(['T', ' ']) else { return Ok(Self::Date(date(text)?)) };
        let day = date(day)?;
        if let Ok(instant) = DateTime::parse_from_rfc3339(&with_seconds(text)) {
            return Ok(Self::Instant(zone::whole_second(instant.to_utc())));
        }
        Ok(Self::Wall(day.and_time(time(clock)?), None))
    }
}

/// `17:00+01:00` with the seconds that RFC 3339 wants.
fn with_seconds(text: &str) -> String {
    let (minutes, rest) = text.split_at_checked(16).unwrap_or((text, ""));
    if rest.starts_with(':') { text.to_owned() } else { format!("{minutes}:00{rest}") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    #[serde(deserialize_with = "date_field")]
    date: NaiveDate,
    #[serde(default, deserialize_with = "time_field")]
    time: Option<NaiveTime>,
    #[serde(default)]
    zone: Option<Zone>,
    #[serde(default)]
    kind: Option<DueKind>,
    /// What an answer shows beside these is taken back and not looked at.
    #[serde(default, rename = "at")]
    _at: serde::de::IgnoredAny,
    #[serde(default, rename = "all_day")]
    _all_day: serde::de::IgnoredAny,
}

fn date_field<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveDate, D::Error> {
    date(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(crate) fn time_field<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NaiveTime>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|text| time(&text)).transpose().map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for DueInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = DueInput;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a date such as \"2026-12-01\", or an object with date, time and zone")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DueInput, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DueInput, A::Error> {
                let object = Object::deserialize(MapAccessDeserializer::new(map))?;
                let (due, kind) = match (object.time, object.zone) {
                    (None, None) => (DueInput::Date(object.date), DueKind::Date),
                    (Some(time), None) => {
                        (DueInput::Wall(object.date.and_time(time), None), DueKind::Floating)
                    }
                    (Some(time), zone) => (DueInput::Wall(object.date.and_time(time), zone), DueKind::Zoned),
                    (None, Some(_)) => {
                        return Err(A::Error::custom(Coded(
                            Code::InvalidDate,
                            "A zone needs a time. Add `time`, or leave `zone` out for all day.",
                        )));
                    }
                };
                match object.kind {
                    Some(said) if said != kind => Err(A::Error::custom(Coded(
                        Code::InvalidDate,
                        format!(
                            "With these fields the kind is `{kind}`, not `{said}`. `kind` may be left out."
                        ),
                    ))),
                    Some(DueKind::Floating) => match due {
                        DueInput::Wall(wall, None) => Ok(DueInput::Floating(wall)),
                        due => Ok(due),
                    },
                    _ => Ok(due),
                }
            }
        }

        deserializer.deserialize_any(Form)
    }
}

impl PartialSchema for DueInput {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str, pattern: &str, example: &str| {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .description(Some(description))
                .pattern(Some(pattern))
                .examples([example])
        };
        let ignored =
            || ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("Not looked at"));
        OneOfBuilder::new()
            .description(Some("A day, a time on the clock, or an instant."))
            .item(text(
                "`2026-12-01` (all day), `2026-12-01T17:00` (floating) or `2026-12-01T17:00+01:00` (an instant)",
                r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$",
                "2026-12-01",
            ))
            .item(
                ObjectBuilder::new()
                    .property("date", text("The day, from 1970 to 2200", r"^\d{4}-\d{2}-\d{2}$", "2026-12-01"))
                    .property(
                        "time",
                        text("The time on the clock; absent or null for all day", TIME, "17:00")
                            .schema_type(SchemaType::from_iter([Type::String, Type::Null])),
                    )
                    .property(
                        "zone",
                        OneOfBuilder::new()
                            .item(Ref::from_schema_name("Zone"))
                            .item(ObjectBuilder::new().schema_type(Type::Null))
                            .description(Some("Absent or null for the clock of whoever has the task")),
                    )
                    .property(
                        "kind",
                        OneOfBuilder::new()
                            .item(Ref::from_schema_name("DueKind"))
                            .item(ObjectBuilder::new().schema_type(Type::Null))
                            .description(Some("It follows from the others, but for a `floating` time in a team")),
                    )
                    .property("at", ignored())
                    .property("all_day", ignored())
                    .required("date")
                    .additional_properties(Some(AdditionalProperties::FreeForm(false)))
                    .examples([serde_json::json!({"date": "2026-12-01", "time": "17:00"})]),
            )
            .into()
    }
}

impl ToSchema for DueInput {
    fn name() -> std::borrow::Cow<'static, str> {
        "DueInput".into()
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Europe};
    use serde_json::json;

    use super::*;

    fn due(input: serde_json::Value, tz: Tz) -> serde_json::Value {
        let input: DueInput = serde_json::from_value(input).unwrap();
        serde_json::to_value(input.resolve(tz, tz, false)).unwrap()
    }

    #[test]
    fn each_form_becomes_its_kind() {
        let berlin = Europe::Berlin;
        assert_eq!(
            due(json!("2026-12-01"), berlin),
            json!({"kind": "date", "date": "2026-12-01", "time": null, "zone": null, "at": "2026-12-01T23:00:00Z", "all_day": true}),
        );
        let floating = json!({"kind": "floating", "date": "2026-12-01", "time": "17:00", "zone": null, "at": "2026-12-01T16:00:00Z", "all_day": false});
        assert_eq!(due(json!("2026-12-01T17:00"), berlin), floating);
        assert_eq!(due(json!({"date": "2026-12-01", "time": "17:00"}), berlin), floating);
        // What an answer shows may be sent back as it is.
        assert_eq!(due(floating.clone(), berlin), floating);
    }

    #[test]
    fn an_offset_becomes_a_time_of_the_persons_zone() {
        assert_eq!(
            due(json!("2026-12-01T17:00+01:00"), America::New_York),
            json!({"kind": "zoned", "date": "2026-12-01", "time": "11:00", "zone": "America/New_York", "at": "2026-12-01T16:00:00Z", "all_day": false}),
        );
    }

    /// T5 of semantics §11.
    #[test]
    fn a_zoned_time_does_not_depend_on_the_persons_zone() {
        let tokyo = json!({"date": "2026-06-01", "time": "09:00", "zone": "Asia/Tokyo"});
        assert_eq!(due(tokyo, America::New_York)["at"], "2026-06-01T00:00:00Z");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_code() {
        for (input, path, code) in [
            (json!({"date": "2026-02-30"}), "date", "invalid_date"),
            (json!({"date": "0001-01-01"}), "date", "invalid_date"),
            (json!({"date": "2026-12-01", "time": "25:00"}), "time", "invalid_date"),
            (json!({"date": "2026-12-01", "time": "23:59:60"}), "time", "invalid_date"),
            (
                json!({"date": "2026-12-01", "time": "09:00", "zone": "Mars/Base"}),
                "zone",
                "invalid_time_zone",
            ),
            (json!({"date": "2026-12-01", "zone": "UTC"}), ".", "invalid_date"),
            (json!({"date": "2026-12-01", "kind": "zoned"}), ".", "invalid_date"),
            (json!("tomorrow"), ".", "invalid_date"),
            (json!("2026-12-01T"), ".", "invalid_date"),
            (json!("2026-12-01T17:00+99:00"), ".", "invalid_date"),
            (json!("2026-12-01Tü00"), ".", "invalid_date"),
        ] {
            let text = input.to_string();
            let mut json = serde_json::Deserializer::from_str(&text);
            let error = serde_path_to_error::deserialize::<_, DueInput>(&mut json).unwrap_err();
            assert_eq!(error.path().to_string(), path, "{text}: {error}");
            let message = error.inner().to_string();
            let message = message.rsplit_once(" at line").map_or(message.as_str(), |(text, _)| text);
            let Some(Coded(found, _)) = Coded::read(message) else { panic!("{text}: no code in {message}") };
            assert_eq!(found.name(), code, "{text}");
        }
    }
}
