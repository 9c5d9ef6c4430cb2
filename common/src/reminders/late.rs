use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Double, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::FireState;
use crate::{
    clock::Now,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::{FireId, JobId, TaskId, UserId},
    page::{Cursors, Page, Paging},
    schema::sql_types,
    secrets::Key,
};

/// A delivery whose time has come and that is neither sent nor settled, as an operator sees it: without a word of the
/// task.
#[derive(Debug, Clone, QueryableByName, Serialize, ToSchema)]
pub struct LateFire {
    /// Its id.
    #[diesel(sql_type = Uuid)]
    pub id: FireId,
    /// Of which task.
    #[diesel(sql_type = Uuid)]
    pub task_id: TaskId,
    /// For whom.
    #[diesel(sql_type = Uuid)]
    pub user_id: UserId,
    /// `planned`: no scheduler has taken it; `queued`: it has a job; `sending`: it is on its way.
    #[diesel(sql_type = sql_types::FireState)]
    pub state: FireState,
    /// When it was to be sent.
    #[diesel(sql_type = Timestamptz)]
    pub fire_at: DateTime<Utc>,
    /// How many seconds ago that was.
    #[diesel(sql_type = Double)]
    #[schema(example = 12.5)]
    pub late_by_s: f64,
    /// Why an earlier try came to nothing.
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    /// What the mail server said.
    #[diesel(sql_type = Nullable<Text>)]
    #[schema(example = "421 4.7.0 try again later")]
    pub smtp_reply: Option<String>,
    /// The job that has it.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub job_id: Option<JobId>,
    /// The request that planned it.
    #[diesel(sql_type = Nullable<Text>)]
    pub request_id: Option<String>,
}

impl LateFire {
    /// A page, the latest first. Only operators may see it.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        now: Now,
        paging: &Paging,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let cursors = Cursors::new(cursor_keys, "late", &())?;
        let after: Option<(DateTime<Utc>, FireId)> =
            paging.cursor.as_deref().map(|cursor| cursors.read(cursor)).transpose()?;
        // Two halves, for two partial indexes.
        let rows = sql!(
            "SELECT id, task_id, user_id, state, fire_at, extract(epoch FROM {now} - fire_at)::float8 AS late_by_s,
                 reason, smtp_reply, job_id, request_id
             FROM (
                 (SELECT * FROM reminder_fires WHERE state IN ('planned', 'deferred') AND fire_at <= {now}
                     AND fire_at >= coalesce({after}, '-infinity'))
                 UNION ALL
                 (SELECT * FROM reminder_fires WHERE state IN ('queued', 'sending') AND fire_at <= {now})) f
             WHERE (fire_at, id) > (coalesce({after}, '-infinity'), coalesce({id}, '00000000-0000-0000-0000-000000000000'))
             ORDER BY fire_at, id LIMIT {limit}",
            now = now,
            after: Nullable<Timestamptz> = after.map(|(at, _)| at),
            id: Nullable<Uuid> = after.map(|(_, id)| id),
            limit: BigInt = i64::from(paging.limit()) + 1,
        )
        .load(conn)
        .await?;
        Page::of(rows, paging.limit(), &cursors, |fire: &Self| (fire.fire_at, fire.id))
    }
}
