use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::SESSION_LIFE;
use crate::{
    access::Viewer,
    clock::Now,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::SessionId,
};

/// A session that can go on, as its owner sees it. Where it was from is kept as a hash, and not shown.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// What the client called itself when it last renewed the session.
    #[schema(example = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")]
    pub user_agent: Option<String>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last renewed: at least every 15 minutes while it is in use.
    pub last_used_at: DateTime<Utc>,
    /// When it ends unless it is renewed before.
    pub expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    pub current: bool,
}

impl OpenSession {
    /// The viewer's sessions, the one used last first; `current` is the one that asks.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        now: Now,
        viewer: Viewer,
        current: SessionId,
    ) -> Result<Vec<Self>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Uuid)]
            family_id: SessionId,
            #[diesel(sql_type = Nullable<Text>)]
            user_agent: Option<String>,
            #[diesel(sql_type = Timestamptz)]
            issued_at: DateTime<Utc>,
            #[diesel(sql_type = Timestamptz)]
            expires_at: DateTime<Utc>,
            #[diesel(sql_type = Timestamptz)]
            absolute_expires_at: DateTime<Utc>,
        }

        // The newest token of each family is the session; the others were exchanged for it.
        let rows: Vec<Row> = sql!(
            "SELECT * FROM (
                 SELECT DISTINCT ON (family_id) family_id, user_agent, issued_at, expires_at, absolute_expires_at
                 FROM refresh_tokens WHERE user_id = {user} AND revoked_at IS NULL
                 ORDER BY family_id, issued_at DESC, id DESC) newest
             WHERE expires_at > {now} ORDER BY issued_at DESC, family_id DESC",
            user: Uuid = viewer.user_id,
            now = now,
        )
        .load(conn)
        .await?;
        let session = |row: Row| Self {
            id: row.family_id,
            user_agent: row.user_agent,
            // Older tokens of the family may be pruned, but all of them end at the same instant.
            created_at: row.absolute_expires_at - SESSION_LIFE,
            last_used_at: row.issued_at,
            expires_at: row.expires_at,
            current: row.family_id == current,
        };
        Ok(rows.into_iter().map(session).collect())
    }
}
