//! Where wall time meets instants, and nowhere else: time-zone names, and the one rule (semantics §2) by which a
//! clock on somebody's wall is read as a moment. No other module calls chrono's local-time conversions; what is due
//! when belongs to the nouns that call this one. There is no `AT TIME ZONE` in SQL: the time-zone database is the one
//! compiled in, so the instance cannot disagree with itself.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use chrono::offset::LocalResult;
use chrono::{
    DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Offset, SubsecRound as _, TimeDelta,
    TimeZone, Utc,
};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    error::{Code, Coded},
    metrics,
};

/// A time zone as a row stores it: an IANA name such as `Europe/Berlin`.
///
/// Input is checked ([`FromStr`], `Deserialize`), what the database holds is not: a name that this build does not know
/// (an older time-zone database, a damaged row) must not fail the row, so it is kept and replaced at use by
/// [`Zone::tz`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, AsExpression, FromSqlRow, ToSchema)]
#[diesel(sql_type = Text)]
#[schema(value_type = String, example = "Europe/Berlin")]
pub struct Zone(Name);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Known(Tz),
    Unknown(Box<str>),
}

impl Zone {
    /// Coordinated Universal Time.
    pub const UTC: Zone = Zone(Name::Known(Tz::UTC));

    /// Reads a stored name; never fails.
    pub fn stored(name: &str) -> Self {
        match name.parse() {
            Ok(tz) => Zone(Name::Known(tz)),
            Err(_) => Zone(Name::Unknown(name.into())),
        }
    }

    /// The IANA name, as stored.
    pub fn name(&self) -> &str {
        match &self.0 {
            Name::Known(tz) => tz.name(),
            Name::Unknown(name) => name,
        }
    }

    /// The zone's rules, or `None` if this build does not know the name.
    pub fn known(&self) -> Option<Tz> {
        match self.0 {
            Name::Known(tz) => Some(tz),
            Name::Unknown(_) => None,
        }
    }

    /// The zone's rules, or those of [`instance`] if this build does not know the name, which is counted
    /// (semantics §2, T32).
    pub fn tz(&self) -> Tz {
        match &self.0 {
            Name::Known(tz) => *tz,
            Name::Unknown(name) => {
                let instance = instance();
                fell_back(name, instance);
                instance
            }
        }
    }
}

static INSTANCE: OnceLock<Tz> = OnceLock::new();

/// Says which zone stands in for an unknown one (`DEFAULT_TIME_ZONE`). Each process says so once, at its start.
pub fn set_instance(tz: Tz) {
    let _ = INSTANCE.set(tz);
}

/// The zone of this installation; UTC until [`set_instance`].
pub fn instance() -> Tz {
    INSTANCE.get().copied().unwrap_or(Tz::UTC)
}

fn fell_back(name: &str, instance: Tz) {
    metrics::invalid_zone();
    tracing::warn!(
        zone.name = name,
        zone.used = instance.name(),
        "unknown time zone in the database, using the zone of the instance"
    );
}

/// Reads the name of a time zone, as configuration and requests give it.
///
/// # Errors
/// The name is not in the time-zone database; the error suggests one that is.
pub fn parse(name: &str) -> Result<Tz, UnknownZone> {
    name.parse().map_err(|_| UnknownZone::new(name))
}

/// A time-zone name that is not in the IANA database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.detail())]
pub struct UnknownZone {
    name: String,
    suggestion: Option<Tz>,
}

impl UnknownZone {
    /// No IANA name is longer; neither echoed nor compared beyond.
    const LONGEST: usize = 64;

    fn new(name: &str) -> Self {
        let short = name.len() <= Self::LONGEST;
        UnknownZone {
            name: if short { name.to_owned() } else { String::new() },
            suggestion: if short { nearest(name) } else { None },
        }
    }

    /// The zone that was probably meant.
    pub fn suggestion(&self) -> Option<Tz> {
        self.suggestion
    }

    fn detail(&self) -> String {
        let subject = match self.name.as_str() {
            "" => "unknown time zone".to_owned(),
            name => format!("unknown time zone {name:?}"),
        };
        match self.suggestion {
            Some(tz) => format!("{subject}: did you mean {:?}?", tz.name()),
            None => format!("{subject}: give an IANA name such as \"Europe/Berlin\" or \"UTC\""),
        }
    }
}

/// The zone whose full name or city is closest to `name`, if any is close: `berlin`, `New York`, `Europe/Berln`.
fn nearest(name: &str) -> Option<Tz> {
    let wanted = name.trim().replace(' ', "_").to_ascii_lowercase();
    if wanted.is_empty() {
        return None;
    }
    let distance = |tz: Tz| {
        let full = tz.name().to_ascii_lowercase();
        let city = full.rsplit('/').next().unwrap_or(&full);
        // A city of the right name in the wrong region is a better guess than one that is merely spelt alike.
        let by_city = match wanted.rsplit('/').next() {
            Some(part) if part == city => 1,
            _ => usize::MAX,
        };
        strsim::damerau_levenshtein(&wanted, &full)
            .min(strsim::damerau_levenshtein(&wanted, city).saturating_add(1))
            .min(by_city)
    };
    let near = wanted.len() / 4 + 1;
    let (best, tz) =
        TZ_VARIANTS.into_iter().map(|tz| (distance(tz), tz)).min_by_key(|(distance, _)| *distance)?;
    (best <= near.min(4)).then_some(tz)
}

/// The instant at which a clock in `tz` shows `wall`, by RFC 5545 §3.3.5: a time in a gap is read with the offset
/// before the gap (02:30 becomes 03:30 summer time), a time that comes twice is its first occurrence.
pub fn resolve(wall: NaiveDateTime, tz: Tz) -> DateTime<Utc> {
    match tz.from_local_datetime(&wall) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
        LocalResult::None => match gap(wall, tz) {
            Some((_, before)) => at_offset(wall, before),
            None => wall.and_utc(),
        },
    }
}

/// The first instant of the local day `date`. It is not midnight where the clocks skip midnight, and the first instant
/// of the next day where they skip the day (Pacific/Apia, 2011-12-30).
pub fn start_of_day(date: NaiveDate, tz: Tz) -> DateTime<Utc> {
    let midnight = date.and_time(NaiveTime::MIN);
    match gap(midnight, tz) {
        Some((begin, before)) => at_offset(begin, before),
        None => resolve(midnight, tz),
    }
}

/// The first instant after the local day `date`: when something due on that day is overdue.
pub fn end_of_day(date: NaiveDate, tz: Tz) -> DateTime<Utc> {
    start_of_day(date.succ_opt().unwrap_or(date), tz)
}

/// What a clock in `tz` shows at `instant`.
pub fn to_local(instant: DateTime<Utc>, tz: Tz) -> NaiveDateTime {
    let utc = instant.naive_utc();
    utc.checked_add_offset(tz.offset_from_utc_datetime(&utc).fix()).unwrap_or(utc)
}

/// The local date in `tz` at `instant`.
pub fn local_date(instant: DateTime<Utc>, tz: Tz) -> NaiveDate {
    to_local(instant, tz).date()
}

/// `instant` up to its next whole second: clocks on walls show no fractions, and a reminder is never early.
pub fn whole_second(instant: DateTime<Utc>) -> DateTime<Utc> {
    const NEARLY: TimeDelta = TimeDelta::nanoseconds(999_999_999);
    instant.checked_add_signed(NEARLY).unwrap_or(instant).trunc_subsecs(0)
}

/// A wall time and zone that [`resolve`] to exactly `instant`: in `tz`, or in UTC for the second occurrence of a wall
/// time that comes twice in `tz`, which cannot be named there.
pub fn pin(instant: DateTime<Utc>, tz: Tz) -> (NaiveDateTime, Tz) {
    let wall = to_local(instant, tz);
    if resolve(wall, tz) == instant { (wall, tz) } else { (instant.naive_utc(), Tz::UTC) }
}

/// If the clocks skip `wall`: the first wall time that they skip, and the offset before.
fn gap(wall: NaiveDateTime, tz: Tz) -> Option<(NaiveDateTime, FixedOffset)> {
    let (begin, before) = GapInfo::new(&wall, &tz)?.begin?;
    Some((begin, before.fix()))
}

fn at_offset(wall: NaiveDateTime, offset: FixedOffset) -> DateTime<Utc> {
    wall.checked_sub_offset(offset).unwrap_or(wall).and_utc()
}

impl From<Tz> for Zone {
    fn from(tz: Tz) -> Self {
        Zone(Name::Known(tz))
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        parse(name).map(Zone::from)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse()
            .map_err(|error: UnknownZone| serde::de::Error::custom(Coded(Code::InvalidTimeZone, error)))
    }
}

impl ToSql<Text, Pg> for Zone {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Text, Pg>::to_sql(self.name(), out)
    }
}

impl FromSql<Text, Pg> for Zone {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Zone::stored(&<String as FromSql<Text, Pg>>::from_sql(value)?))
    }
}

#[cfg(test)]
mod tests;
