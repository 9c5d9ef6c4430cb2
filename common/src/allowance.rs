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
        "SELECT (SELECT (day + 1)::timestamp AT TIME ZONE 'UTC' FROM mail_counts
             WHERE user_id = {user} AND day = ({now} AT TIME ZONE 'UTC')::date AND sent >= {per_day}) AS until",
        user: Uuid = user,
        now = now,
        per_day: Integer = i32::try_from(per_day).unwrap_or(i32::MAX),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().find_map(|row| row.until).map_or(Allowance::Left, Allowance::Until))
}

/// Counts a mail that was accepted.
///
/// # Errors
/// If the database is away.
pub async fn count(conn: &mut AsyncPgConnection, now: Now, user: UserId) -> Result<()> {
    sql!(
        "INSERT INTO mail_counts (user_id, day, sent)
         SELECT id, ({now} AT TIME ZONE 'UTC')::date, 1 FROM users WHERE id = {user}
         ON CONFLICT (user_id, day) DO UPDATE SET sent = mail_counts.sent + 1",
        user: Uuid = user,
        now = now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
