//! In test builds alone: the planted defects of this crate (`common::sabotage`). Each function does nothing unless
//! its defect is planted. Nothing that is shipped belongs here.

use std::{sync::Arc, time::Duration};

use common::{
    db::{AsyncPgConnection, RunQueryDsl as _},
    ids::JobId,
    ledger::Finish,
    sabotage::Sabotage,
};
use diesel::{
    QueryableByName,
    sql_types::{Array, Integer, Uuid},
};

use super::{Job, LEASE, Worker};
use crate::job::Outcome;

/// Says that a job is done before its work is. True if so.
pub(crate) async fn finish_early(worker: &Worker, job: &Arc<Job>) -> bool {
    let planted = Sabotage::AckBeforeFinish.is_planted();
    if planted {
        worker.end(job, Outcome::Done).await;
    }
    planted
}

/// How long Redis keeps a job for the worker that fetched it.
pub(super) fn lease() -> Duration {
    if Sabotage::DoubleClaim.is_planted() { Duration::from_secs(1) } else { LEASE }
}

/// Takes jobs away from whoever holds them.
pub(super) async fn take_from_holders(conn: &mut AsyncPgConnection, ids: &[JobId]) -> anyhow::Result<()> {
    if Sabotage::DoubleClaim.is_planted() {
        let statement =
            "UPDATE jobs SET state = 'ready', attempt = attempt - 1 WHERE id = ANY($1) AND state = 'running'";
        diesel::sql_query(statement).bind::<Array<Uuid>, _>(ids).execute(conn).await?;
    }
    Ok(())
}

/// Gives each finish the fence that its job has by now.
pub(super) async fn with_present_fences(
    conn: &mut AsyncPgConnection,
    mut finishes: Vec<Finish>,
) -> anyhow::Result<Vec<Finish>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
        #[diesel(sql_type = Integer)]
        fence: i32,
    }

    if Sabotage::SkipFence.is_planted() {
        let ids: Vec<JobId> = finishes.iter().map(|finish| finish.id).collect();
        let rows: Vec<Row> = diesel::sql_query("SELECT id, fence FROM jobs WHERE id = ANY($1)")
            .bind::<Array<Uuid>, _>(ids)
            .load(conn)
            .await?;
        for finish in &mut finishes {
            finish.fence = rows.iter().find(|row| row.id == finish.id).map_or(finish.fence, |row| row.fence);
        }
    }
    Ok(finishes)
}
