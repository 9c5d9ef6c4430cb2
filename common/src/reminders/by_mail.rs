use diesel::{
    QueryableByName,
    sql_types::{Bool, Text, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{TaskId, UserId},
    mail::links::ActionLink,
    tasks::viewers_sql,
};

/// What a link in a reminder's mail is about, as things stand.
#[derive(Debug, Clone, QueryableByName)]
pub struct Subject {
    /// Whose mail it was.
    #[diesel(sql_type = Uuid)]
    pub user_id: UserId,
    /// Of which task it reminded.
    #[diesel(sql_type = Uuid)]
    pub task_id: TaskId,
    /// The task's title.
    #[diesel(sql_type = Text)]
    pub title: String,
    /// Whether the task is closed, or has come to another occurrence.
    #[diesel(sql_type = Bool)]
    pub moved_on: bool,
    /// Whether this link was used.
    #[diesel(sql_type = Bool)]
    pub used: bool,
}

impl Subject {
    /// `None` if the person may not see the task any more, or either is gone.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(conn: &mut AsyncPgConnection, link: ActionLink) -> Result<Option<Self>> {
        let rows = sql!(
            concat!(
                "SELECT f.user_id, t.id AS task_id, t.title,
                     t.status IN ('done', 'cancelled') OR t.occurrence_no <> f.occurrence_no AS moved_on,
                     EXISTS (SELECT FROM mail_actions m WHERE m.token_id = {token}) AS used
                 FROM reminder_fires f JOIN tasks t ON t.id = f.task_id JOIN users u ON u.id = f.user_id
                 WHERE f.id = {fire} AND u.is_active AND t.deleted_at IS NULL AND t.archived_at IS NULL
                     AND f.user_id = ANY ",
                viewers_sql!("t")
            ),
            token: Uuid = link.id(),
            fire: Uuid = link.fire,
        )
        .load(conn)
        .await?;
        Ok(rows.into_iter().next())
    }

    /// Uses the link up: an action works once, though two requests come at the same time. False if it was used.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn use_up(&self, tx: &mut Tx, link: ActionLink) -> Result<bool> {
        let used = sql!(
            "INSERT INTO mail_actions (token_id, user_id, task_id, action, used_at)
             VALUES ({token}, {user}, {task}, {action}, {now}) ON CONFLICT DO NOTHING",
            token: Uuid = link.id(),
            user: Uuid = self.user_id,
            task: Uuid = self.task_id,
            action: Text = link.action.as_str(),
            now = tx.clock().now(),
        )
        .execute(tx.conn())
        .await?;
        Ok(used == 1)
    }
}
