//! The table `queues`: what is paused, and why.

use diesel::{QueryableByName, sql_types::Text};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, sql},
    error::Result,
};

/// The names of the queues that are paused. Workers ask every second.
///
/// # Errors
/// If the database is away.
pub async fn paused(conn: &mut AsyncPgConnection) -> Result<Vec<String>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        name: String,
    }

    let rows: Vec<Row> = sql!("SELECT name FROM queues WHERE paused_at IS NOT NULL").load(conn).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// Pauses a queue, unless somebody has already; `by` and `reason` say who and why.
///
/// # Errors
/// If the database is away.
pub async fn pause(
    conn: &mut AsyncPgConnection,
    now: Now,
    queue: &str,
    by: &str,
    reason: &str,
) -> Result<()> {
    sql!(
        "INSERT INTO queues (name, paused_at, paused_by, reason) VALUES ({queue}, {now}, {by}, {reason})
         ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by, reason = excluded.reason
         WHERE queues.paused_at IS NULL",
        queue: Text = queue,
        now = now,
        by: Text = by,
        reason: Text = reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends the pause of a queue, if it was `by` that paused it.
///
/// # Errors
/// If the database is away.
pub async fn resume(conn: &mut AsyncPgConnection, queue: &str, by: &str) -> Result<()> {
    sql!(
        "UPDATE queues SET paused_at = NULL, paused_by = NULL, reason = NULL WHERE name = {queue} AND paused_by = {by}",
        queue: Text = queue,
        by: Text = by,
    )
    .execute(conn)
    .await?;
    Ok(())
}
