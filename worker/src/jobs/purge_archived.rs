use common::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    jobs::PurgeArchived,
    tasks::{self, TaskRow},
};
use diesel::sql_types::{BigInt, Integer};

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

async fn purge(mut tx: Tx, days: i32) -> Result<usize> {
    let purged: Vec<TaskRow> = sql!(
        "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE archived_at < {now} - make_interval(days => {days})
             ORDER BY archived_at LIMIT {batch} FOR UPDATE SKIP LOCKED) RETURNING id",
        now = tx.clock().now(),
        days: Integer = days,
        batch: BigInt = BATCH,
    )
    .load(tx.conn())
    .await?;
    tasks::outdate(&mut tx, purged.iter().map(|row| row.id));
    tx.commit().await?;
    Ok(purged.len())
}
