use common::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    events::EventType,
    ids::TaskId,
    jobs::ArchiveCompleted,
    tasks::{self, TaskRow},
};
use diesel::sql_types::{BigInt, Integer};

use super::{BATCH, in_batches};
use crate::{
    context::Context,
    job::{JobError, Run},
};

impl Run for ArchiveCompleted {
    /// Puts away what was finished long ago; a project may say how long. Each person can take it out again.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let days = context.settings.archive_done_after_days;
        in_batches(&context.db, "archived", |tx| archive(tx, days)).await
    }
}

/// One batch. What somebody is just changing is left for the next time.
async fn archive(mut tx: Tx, days: i32) -> Result<usize> {
    let archived: Vec<TaskRow> = sql!(
        "WITH old AS MATERIALIZED (SELECT t.id FROM tasks t LEFT JOIN projects p ON p.id = t.project_id
             WHERE t.completed_at < {now} - make_interval(days => coalesce(p.archive_done_after_days, {days}))
                 AND t.archived_at IS NULL AND t.deleted_at IS NULL
             ORDER BY t.completed_at LIMIT {batch} FOR NO KEY UPDATE OF t SKIP LOCKED),
         open AS MATERIALIZED (SELECT id FROM reminder_fires WHERE task_id IN (SELECT id FROM old)
             AND state IN ('planned', 'deferred', 'queued') ORDER BY id FOR UPDATE),
         cancelled AS (UPDATE reminder_fires SET state = 'cancelled', reason = 'task_archived'
             WHERE id IN (SELECT id FROM open))
         UPDATE tasks SET archived_at = {now}, updated_at = {now}, version = version + 1 WHERE id IN (SELECT id FROM old)
         RETURNING id",
        now = tx.clock().now(),
        days: Integer = days,
        batch: BigInt = BATCH,
    )
    .load(tx.conn())
    .await?;
    let ids: Vec<TaskId> = archived.into_iter().map(|row| row.id).collect();
    tasks::outdate(&mut tx, ids.iter().copied());
    tasks::record_all(&mut tx, EventType::TaskArchived, &ids).await?;
    tx.commit().await?;
    Ok(ids.len())
}
