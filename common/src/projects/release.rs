use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryableByName,
    sql_types::{Array, Timestamptz, Uuid},
};

use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{ProjectId, TaskId, TeamId, UserId},
    schema::projects,
    tasks,
};

/// The projects of a team, locked: nobody puts a task into them meanwhile.
pub(crate) async fn lock_of_team(tx: &mut Tx, team: TeamId) -> Result<Vec<ProjectId>> {
    let ids = projects::table
        .filter(projects::team_id.eq(team))
        .order(projects::id)
        .select(projects::id)
        .for_update()
        .load(tx.conn())
        .await?;
    Ok(ids)
}

/// Takes these projects, which are locked, from those of `people` who are not in them any more: what they were to do there
/// is nobody's now, and what they owned there is the project's owner's. What is in a project stays there, and who has left
/// it does not keep it through a task.
pub(crate) async fn release(
    tx: &mut Tx,
    by: Viewer,
    projects: &[ProjectId],
    people: &[UserId],
) -> Result<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: TaskId,
        #[diesel(sql_type = Timestamptz)]
        updated_at: DateTime<Utc>,
    }

    let rows: Vec<Row> = sql!(
        "WITH gone AS MATERIALIZED (SELECT p.id AS project_id, u.id AS user_id
             FROM projects p CROSS JOIN unnest({people}) AS u (id)
             WHERE p.id = ANY ({projects}) AND NOT EXISTS
                 (SELECT FROM project_access a WHERE a.project_id = p.id AND a.user_id = u.id)),
         lost AS MATERIALIZED (SELECT t.id FROM tasks t WHERE t.project_id = ANY ({projects})
             AND EXISTS (SELECT FROM gone g WHERE g.project_id = t.project_id AND g.user_id IN (t.owner_id, t.assignee_id))
             ORDER BY t.id FOR NO KEY UPDATE)
         UPDATE tasks t SET version = t.version + 1, updated_at = {now},
             owner_id = CASE WHEN (t.project_id, t.owner_id) IN (SELECT project_id, user_id FROM gone)
                 THEN p.owner_id ELSE t.owner_id END,
             assignee_id = CASE WHEN (t.project_id, t.assignee_id) NOT IN (SELECT project_id, user_id FROM gone)
                 THEN t.assignee_id END
         FROM projects p WHERE t.id IN (SELECT id FROM lost) AND p.id = t.project_id
         RETURNING t.id, t.updated_at",
        people: Array<Uuid> = people,
        projects: Array<Uuid> = projects,
        now = tx.clock().now(),
    )
    .load(tx.conn())
    .await?;
    let Some(now) = rows.as_slice().first().map(|row| row.updated_at) else { return Ok(()) };
    let ids: Vec<TaskId> = rows.into_iter().map(|row| row.id).collect();
    tasks::outdate(tx, ids.iter().copied());
    tasks::recount(tx, by, now, &ids).await?;
    tasks::record_released(tx, by, &ids, &["assignee_id", "owner_id"]).await
}
