//! Time as an argument. In production the database's clock decides, so that processes whose clocks differ agree;
//! a test passes the instant it wants. Nothing else in the workspace may ask for the time: `now()` in SQL and
//! `Utc::now` in code fail a lint test, except here. Leases and `alive_until` alone always use real time
//! (`clock_timestamp()`): they measure whether a process lives, not when something is due (design §4.4).

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, SubsecRound as _, Utc};
use diesel::{
    expression::{AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate},
    pg::Pg,
    query_builder::{AstPass, QueryFragment, QueryId},
    sql_types::{Nullable, Timestamptz},
};

/// Where "now" comes from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The database decides. What production uses.
    #[default]
    Database,
    /// A test decides: microseconds since 1970, shared by everything that the test started.
    Fixed(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands still at `instant` until [`Clock::set`].
    pub fn fixed(instant: DateTime<Utc>) -> Self {
        Self::Fixed(Arc::new(AtomicI64::new(instant.timestamp_micros())))
    }

    /// Moves a fixed clock; the database's clock cannot be moved, and the call is ignored.
    pub fn set(&self, instant: DateTime<Utc>) {
        if let Self::Fixed(micros) = self {
            micros.store(instant.timestamp_micros(), Ordering::SeqCst);
        }
    }

    /// What a statement writes where it needs the time.
    pub fn now(&self) -> Now {
        match self {
            Self::Database => Now(None),
            Self::Fixed(micros) => Now(DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst))),
        }
    }

    /// The instant by this process, for what leaves the database out: the age of a token, a line in a log.
    /// Microseconds, as PostgreSQL keeps them.
    pub fn instant(&self) -> DateTime<Utc> {
        match self.now() {
            Now(Some(instant)) => instant,
            #[expect(clippy::disallowed_methods, reason = "the one place where the process's clock is read")]
            Now(None) => Utc::now().trunc_subsecs(6),
        }
    }
}

/// The SQL expression for "now": `coalesce($n, now())`, where `$n` is NULL in production.
#[derive(Debug, Clone, Copy)]
pub struct Now(Option<DateTime<Utc>>);

impl Expression for Now {
    type SqlType = Timestamptz;
}

impl<QS: ?Sized> AppearsOnTable<QS> for Now {}
impl<QS: ?Sized> SelectableExpression<QS> for Now {}

impl ValidGrouping<()> for Now {
    type IsAggregate = is_aggregate::Never;
}

impl QueryId for Now {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for Now {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> diesel::QueryResult<()> {
        out.push_sql("coalesce(");
        out.push_bind_param::<Nullable<Timestamptz>, _>(&self.0)?;
        out.push_sql(", now())");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_is_shared_and_keeps_microseconds() {
        let start: DateTime<Utc> = "2026-03-29T01:30:00.123456789Z".parse().unwrap();
        let clock = Clock::fixed(start);
        let same = clock.clone();
        assert_eq!(same.instant(), start.trunc_subsecs(6));
        let later = start + chrono::Duration::hours(1);
        clock.set(later);
        assert_eq!(same.instant(), later.trunc_subsecs(6));
    }
}
