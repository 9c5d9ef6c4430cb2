//! People and their accounts.

use chrono::{DateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use diesel::{OptionalExtension as _, QueryDsl as _};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, pg_enum},
    error::{Error, Result},
    ids::UserId,
    schema::users,
    zone::Zone,
};

pg_enum! {
    /// What a person may do beside their own work.
    UserRole: UserRole {
        /// Their own work.
        User = "user",
        /// Also the operator's routes.
        Admin = "admin",
    }
}

/// What a person's settings decide about time, and the time by which it is decided.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    /// Who.
    pub id: UserId,
    /// Where their clock hangs.
    pub zone: Tz,
    /// When a day begins that names no time: all-day reminders fire then.
    pub day_start: NaiveTime,
    /// Now, by the database's clock.
    pub now: DateTime<Utc>,
}

impl Person {
    /// Reads the settings, and the time with them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is gone.
    pub async fn load(conn: &mut AsyncPgConnection, id: UserId, now: Now) -> Result<Self> {
        let (zone, day_start, now): (Zone, NaiveTime, DateTime<Utc>) = users::table
            .find(id)
            .select((users::time_zone, users::day_start, now))
            .first(conn)
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))?;
        Ok(Self { id, zone: zone.tz(), day_start, now })
    }
}
