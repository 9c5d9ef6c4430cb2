use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::FireState;
use crate::{
    access::Viewer,
    clock::Now,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::{FireId, ReminderId, TaskId},
    page::{Cursors, Page},
    schema::sql_types,
    secrets::Key,
    tasks::visible_to_sql,
};

/// A delivery that is to come.
#[derive(Debug, Clone, QueryableByName, Serialize, ToSchema)]
pub struct UpcomingFire {
    /// Its id.
    #[diesel(sql_type = Uuid)]
    pub id: FireId,
    /// Of which reminder.
    #[diesel(sql_type = Uuid)]
    pub reminder_id: ReminderId,
    /// Of which task.
    #[diesel(sql_type = Uuid)]
    pub task_id: TaskId,
    /// What is to be done.
    #[diesel(sql_type = Text)]
    #[schema(example = "Ship it")]
    pub title: String,
    /// When it fires.
    #[diesel(sql_type = Timestamptz)]
    pub fire_at: DateTime<Utc>,
    /// Where it stands: what is due at this moment may be on its way.
    #[diesel(sql_type = sql_types::FireState)]
    pub state: FireState,
    /// Why, if that needs saying: `snoozed`, `mail_limit`, …
    #[diesel(sql_type = Nullable<Text>)]
    #[schema(example = "snoozed")]
    pub reason: Option<String>,
}

/// How far to look ahead.
#[derive(Debug, Clone, Default, Deserialize, Serialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct UpcomingFilter {
    /// So many days from now, 1 to 366.
    #[garde(inner(range(min = 1, max = 366)))]
    #[param(minimum = 1, maximum = 366, default = 7)]
    pub days: Option<u16>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

impl UpcomingFire {
    /// A page of what will remind the viewer of tasks that they still see, the earliest first.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        now: Now,
        filter: &UpcomingFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let cursors = Cursors::new(cursor_keys, "upcoming", filter)?;
        let after: Option<(DateTime<Utc>, FireId)> =
            filter.cursor.as_deref().map(|cursor| cursors.read(cursor)).transpose()?;
        let limit = filter.limit.unwrap_or(50);
        let rows = sql!(
            concat!(
                "SELECT f.id, f.reminder_id, f.task_id, t.title, f.fire_at, f.state, f.reason
                 FROM reminder_fires f JOIN tasks t ON t.id = f.task_id
                 WHERE f.user_id = {viewer} AND f.state IN ('planned', 'deferred', 'queued', 'sending')
                     AND f.fire_at <= {now} + make_interval(days => {days})
                     AND (f.fire_at, f.id) > (coalesce({after}, '-infinity'), coalesce({id}, '00000000-0000-0000-0000-000000000000'))
                     AND ",
                visible_to_sql!("t", "{viewer}", "{project}"),
                " ORDER BY f.fire_at, f.id LIMIT {limit}"
            ),
            viewer: Uuid = viewer.user_id,
            project: Nullable<Uuid> = viewer.project,
            now = now,
            days: Integer = i32::from(filter.days.unwrap_or(7)),
            after: Nullable<Timestamptz> = after.map(|(at, _)| at),
            id: Nullable<Uuid> = after.map(|(_, id)| id),
            limit: BigInt = i64::from(limit) + 1,
        )
        .load(conn)
        .await?;
        Page::of(rows, limit, &cursors, |fire: &Self| (fire.fire_at, fire.id))
    }
}
