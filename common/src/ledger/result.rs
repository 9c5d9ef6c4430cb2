//! What a job has to say to whoever waits for it.

use std::time::Duration;

use diesel::{
    QueryableByName,
    sql_types::{Jsonb, Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use tokio::time::{Instant, sleep};

use super::JobState;
use crate::{
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    ids::JobId,
    schema::sql_types,
};

/// How often the row is looked at: what is waited for takes tens of milliseconds at best.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A job that has ended.
#[derive(Debug, Clone, QueryableByName)]
pub struct Ended {
    /// How.
    #[diesel(sql_type = sql_types::JobState)]
    pub state: JobState,
    /// What it said ([`set_result`]).
    #[diesel(sql_type = Nullable<Jsonb>)]
    pub result: Option<serde_json::Value>,
    /// What went wrong last.
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
}

/// Keeps what a job has to say. What it says last stands, so a job that runs twice may say it twice.
///
/// # Errors
/// If the database is away.
pub async fn set_result(conn: &mut AsyncPgConnection, id: JobId, result: serde_json::Value) -> Result<()> {
    sql!("UPDATE jobs SET result = {result} WHERE id = {id}", result: Jsonb = result, id: Uuid = id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Waits until a job has ended, `within` at most: `None` if it has not by then. Holds no connection while it waits.
///
/// # Errors
/// If the database is away.
pub async fn wait_for(db: &Db, id: JobId, within: Duration) -> Result<Option<Ended>> {
    let until = Instant::now() + within;
    loop {
        let rows: Vec<Ended> = sql!(
            "SELECT state, result, errors -> -1 ->> 'text' AS error FROM jobs WHERE id = {id} AND finished_at IS NOT NULL",
            id: Uuid = id,
        )
        .load(&mut *db.conn().await?)
        .await?;
        if let Some(ended) = rows.into_iter().next() {
            return Ok(Some(ended));
        }
        if Instant::now() + LOOK_EVERY > until {
            return Ok(None);
        }
        sleep(LOOK_EVERY).await;
    }
}
