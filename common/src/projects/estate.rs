use diesel::{
    QueryableByName,
    sql_types::{Array, Uuid},
};

use super::release;
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{ProjectId, UserId},
};

/// Leaves to the others what somebody shares with them, before their account is deleted: their projects and teams go to
/// whoever has the highest role there, for longest; what they owned in a project stays in it. What nobody else sees is
/// theirs alone, and is left for the deletion.
///
/// # Errors
/// If the database is away.
pub async fn hand_over_all(tx: &mut Tx, user: UserId) -> Result<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: ProjectId,
    }

    let shared: Vec<Row> = sql!(
        "SELECT p.id FROM projects p WHERE EXISTS
             (SELECT FROM project_access a WHERE a.project_id = p.id AND a.user_id = {user})
         AND EXISTS (SELECT FROM project_access a WHERE a.project_id = p.id AND a.user_id <> {user})
         ORDER BY p.id FOR UPDATE",
        user: Uuid = user,
    )
    .load(tx.conn())
    .await?;
    let shared: Vec<ProjectId> = shared.into_iter().map(|row| row.id).collect();
    let now = tx.clock().now();
    sql!(
        "WITH heirs AS MATERIALIZED (SELECT DISTINCT ON (m.team_id) m.team_id, m.user_id FROM team_members m
             WHERE m.user_id <> {user} AND m.team_id IN (SELECT team_id FROM team_members WHERE user_id = {user})
             AND NOT EXISTS (SELECT FROM team_members o
                 WHERE o.team_id = m.team_id AND o.role = 'owner' AND o.user_id <> {user})
             ORDER BY m.team_id, m.role DESC, m.created_at, m.user_id)
         UPDATE team_members m SET role = 'owner' FROM heirs h WHERE m.team_id = h.team_id AND m.user_id = h.user_id",
        user: Uuid = user,
    )
    .execute(tx.conn())
    .await?;
    sql!(
        "WITH heirs AS MATERIALIZED (SELECT DISTINCT ON (a.project_id) a.project_id, a.user_id
             FROM project_access a JOIN projects p ON p.id = a.project_id
             LEFT JOIN project_members m ON m.project_id = a.project_id AND m.user_id = a.user_id
             WHERE a.project_id = ANY ({shared}) AND p.owner_id = {user} AND a.user_id <> {user}
             ORDER BY a.project_id, a.role DESC, m.created_at, a.user_id),
         own AS (DELETE FROM project_members m USING heirs h
             WHERE m.project_id = h.project_id AND m.user_id = h.user_id)
         UPDATE projects p SET owner_id = h.user_id, version = p.version + 1, updated_at = {now}
         FROM heirs h WHERE p.id = h.project_id",
        shared: Array<Uuid> = shared.as_slice(),
        user: Uuid = user,
        now = now,
    )
    .execute(tx.conn())
    .await?;
    sql!("DELETE FROM project_members WHERE user_id = {user}", user: Uuid = user).execute(tx.conn()).await?;
    sql!(
        "WITH teams_left AS (DELETE FROM team_members WHERE user_id = {user} RETURNING team_id)
         DELETE FROM teams t WHERE t.id IN (SELECT team_id FROM teams_left)
             AND NOT EXISTS (SELECT FROM team_members m WHERE m.team_id = t.id AND m.user_id <> {user})",
        user: Uuid = user,
    )
    .execute(tx.conn())
    .await?;
    release(tx, Viewer { user_id: user, project: None }, &shared, &[user]).await
}
