//! How many mails a person may get on a day (UTC), so that a mistake or a malicious script cannot turn this
//! installation into a source of spam: `MAIL_PER_USER_PER_DAY`. A mail counts when the mail server has accepted it.
//! Whoever sends something that is not security mail asks [`left`] first, and puts it off until [`Allowance::Until`].

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Integer, Nullable, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::UserId,
};

/// Whether a person may get another mail today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// They may.
    Left,
    /// Not before this instant, when the next day begins.
    Until(DateTime<Utc>),
}

/// Until when the person `$user` gets no more mail, in SQL, or null; with the arguments `now` and `per_day`.
macro_rules! until_sql {
    ($user:literal) => {
        concat!(
            "(SELECT (c.day + 1)::timestamp AT TIME ZONE 'UTC' FROM mail_counts c
              WHERE c.user_id = ",
            $user,
            " AND c.day = ({now} AT TIME ZONE 'UTC')::date AND c.sent >= {per_day})"
        )
    };
}
pub(crate) use until_sql;

/// Counts a mail to the person `$user` if `$sent` is true, in SQL; with the argument `now`.
macro_rules! count_sql {
    ($user:literal, $sent:literal) => {
        concat!(
            "INSERT INTO mail_counts (user_id, day, sent)
             SELECT u.id, ({now} AT TIME ZONE 'UTC')::date, 1 FROM users u WHERE u.id = ",
            $user,
            " AND ",
            $sent,
            " ON CONFLICT (user_id, day) DO UPDATE SET sent = mail_counts.sent + 1"
        )
    };
}
pub(crate) use count_sql;

impl From<Option<DateTime<Utc>>> for Allowance {
    fn from(until: Option<DateTime<Utc>>) -> Self {
        until.map_or(Self::Left, Self::Until)
    }
}

/// The limit as PostgreSQL compares it.
pub(crate) fn limit(per_day: u32) -> i32 {
    i32::try_from(per_day).unwrap_or(i32::MAX)
}

/// Whether a person may get another mail today, of `per_day`. Mails that are under way are not counted yet: what is sent
/// to one person at the same time may pass the limit by as many.
///
/// # Errors
/// If the database is away.
pub async fn left(conn: &mut AsyncPgConnection, now: Now, user: UserId, per_day: u32) -> Result<Allowance> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Timestamptz>)]
        until: Option<DateTime<Utc>>,
    }

    let rows: Vec<Row> = sql!(
        concat!("SELECT ", until_sql!("{user}"), " AS until"),
        user: Uuid = user,
        now = now,
        per_day: Integer = limit(per_day),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().find_map(|row| row.until).into())
}

/// Counts a mail that was accepted.
///
/// # Errors
/// If the database is away.
pub async fn count(conn: &mut AsyncPgConnection, now: Now, user: UserId) -> Result<()> {
    sql!(
        count_sql!("{user}", "true"),
        user: Uuid = user,
        now = now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
