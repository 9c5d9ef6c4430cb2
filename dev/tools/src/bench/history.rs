//! P12: jobs that were finished long ago. They are there while everything else is measured, and then they are pruned as
//! `prune_history` does it.

use std::time::Instant;

use anyhow::ensure;
use chrono::TimeDelta;
use common::{
    clock::Clock,
    db::{Db, RunQueryDsl as _, sql},
    ids::JobId,
    ledger,
};
use diesel::sql_types::{Integer, Timestamptz};

use super::table::percentile;

/// Rows of a transaction, as in `worker/src/jobs.rs`.
const BATCH: i64 = 1_000;
/// After so many days a job is pruned, whatever became of it.
const DAYS: i32 = 7;

/// Writes finished jobs, as the schema's owner, and has the statistics counted.
pub(super) async fn write(owner: &Db, count: u32) -> anyhow::Result<()> {
    if count == 0 {
        return Ok(());
    }
    // Ids of 1970, so that they come before all others.
    sql!(
        "INSERT INTO jobs (id, kind, queue, lane, args, state, attempt, fence, run_at, max_attempts, created_at, started_at, finished_at)
         SELECT ('00000000-0000-7001-a000-' || lpad(to_hex(n), 12, '0'))::uuid, 'send_reminder', 'mail', 'past',
             jsonb_build_object('user_id', '00000000-0000-7000-9000-000000000000'), 'done', 1, 1, {past}, 6, {past}, {past}, {past}
         FROM generate_series(1, {count}) AS n",
        past: Timestamptz = Clock::Database.instant() - TimeDelta::days(2 * i64::from(DAYS)),
        count: Integer = i32::try_from(count)?,
    )
    .execute(&mut *owner.conn().await?)
    .await?;
    sql!("VACUUM ANALYZE jobs").execute(&mut *owner.conn().await?).await?;
    Ok(())
}

/// Prunes them: how many a second, and milliseconds of the slowest transaction and of the slowest but one in a hundred.
pub(super) async fn prune(db: &Db, count: u32) -> anyhow::Result<(f64, f64, f64)> {
    let (mut pruned, mut after): (usize, Option<JobId>) = (0, None);
    let mut millis = Vec::new();
    let begun = Instant::now();
    loop {
        let batch = Instant::now();
        let mut tx = db.begin().await?;
        let (deleted, last) = ledger::prune(&mut tx, after, BATCH, DAYS, DAYS).await?;
        tx.commit().await?;
        millis.push(batch.elapsed().as_secs_f64() * 1e3);
        pruned += deleted;
        if last.is_none() {
            break;
        }
        after = last;
    }
    ensure!(pruned == count as usize, "{pruned} of {count} finished jobs were pruned");
    millis.sort_by(f64::total_cmp);
    let a_second = pruned as f64 / begun.elapsed().as_secs_f64();
    Ok((a_second, percentile(&millis, 99), millis.last().copied().unwrap_or_default()))
}
