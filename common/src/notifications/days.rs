use chrono::{Datelike as _, NaiveDate, Weekday};
use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    serialize::{self, Output, ToSql},
    sql_types::SmallInt,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, Schema, Type},
    },
};

use crate::error::{Code, Coded};

/// Days of the week: in JSON a list of their names, in the table a bit for each, Monday first.
#[derive(Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = SmallInt)]
pub struct Days(u8);

const NAMES: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);

    /// Whether the date is on one of them.
    pub fn contains(self, date: NaiveDate) -> bool {
        self.has(date.weekday())
    }

    fn has(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(_, day)| self.has(*day)).map(|(name, _)| name)
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.num_days_from_monday()
}

impl FromIterator<Weekday> for Days {
    fn from_iter<I: IntoIterator<Item = Weekday>>(days: I) -> Self {
        Self(days.into_iter().fold(0, |bits, day| bits | bit(day)))
    }
}

impl std::fmt::Debug for Days {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// A day of the week by its name.
struct Day(Weekday);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let day = NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, day)| Self(day));
        day.ok_or_else(|| {
            let refusal = Coded(Code::InvalidValue, "A day is one of mon, tue, wed, thu, fri, sat and sun.");
            serde::de::Error::custom(refusal)
        })
    }
}

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let days: Vec<Day> = Vec::deserialize(deserializer)?;
        if days.is_empty() {
            let refusal = Coded(
                Code::InvalidValue,
                "Name at least one day, or switch the summary off: `digest_enabled`.",
            );
            return Err(serde::de::Error::custom(refusal));
        }
        Ok(days.into_iter().map(|Day(day)| day).collect())
    }
}

impl ToSql<SmallInt, Pg> for Days {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<SmallInt, Pg>::to_sql(&i16::from(self.0), &mut out.reborrow())
    }
}

impl FromSql<SmallInt, Pg> for Days {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(u8::try_from(<i16 as FromSql<SmallInt, Pg>>::from_sql(value)?)?))
    }
}

impl PartialSchema for Days {
    fn schema() -> RefOr<Schema> {
        let day =
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(NAMES.map(|(name, _)| name)));
        ArrayBuilder::new()
            .items(day)
            .description(Some("Days of the week; each counts once"))
            .examples([serde_json::json!(["mon", "tue", "wed", "thu", "fri"])])
            .into()
    }
}

impl ToSchema for Days {
    fn name() -> std::borrow::Cow<'static, str> {
        "Days".into()
    }
}
