use common::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::TaskId,
    jobs::PurgeArchived,
    tasks,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Integer, Uuid},
};

use super::{BATCH, in_batches};
use crate::{
    context::Context,
    job::{JobError, Run},
};

impl Run for PurgeArchived {
    /// Deletes what was put away long ago, for good, if the operator wants that.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let Some(days) = context.settings.purge_archived_after_days else {
            return Err(JobError::Cancel("PURGE_ARCHIVED_AFTER_DAYS is not set".to_owned()));
        };
        in_batches(&context.db, "purged", |tx| purge(tx, days)).await
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: TaskId,
    #[diesel(sql_type = Bool)]
    is_purged: bool,
}

async fn purge(mut tx: Tx, days: i32) -> Result<usize> {
    let rows: Vec<Row> = sql!(
        "WITH old AS (SELECT id FROM tasks WHERE archived_at < {now} - make_interval(days => {days})
             ORDER BY archived_at LIMIT {batch} FOR UPDATE SKIP LOCKED),
         -- What was a part of them stays, and is a part of nothing.
         freed AS (UPDATE tasks SET parent_id = NULL, version = version + 1, updated_at = {now}
             WHERE parent_id IN (SELECT id FROM old) AND id NOT IN (SELECT id FROM old) RETURNING id),
         purged AS (DELETE FROM tasks WHERE id IN (SELECT id FROM old) RETURNING id)
         SELECT id, true AS is_purged FROM purged UNION ALL SELECT id, false FROM freed",
        now = tx.clock().now(),
        days: Integer = days,
        batch: BigInt = BATCH,
    )
    .load(tx.conn())
    .await?;
    tasks::outdate(&mut tx, rows.iter().map(|row| row.id));
    tx.commit().await?;
    Ok(rows.iter().filter(|row| row.is_purged).count())
}
