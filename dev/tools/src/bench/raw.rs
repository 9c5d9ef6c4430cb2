//! What the servers can do without any code of ours, with the same rows, ids and batches: the limits beside which our
//! figures are read.

use std::time::Instant;

use common::{
    db::{Db, RunQueryDsl as _, sql},
    ids::JobId,
};
use diesel::sql_types::{Array, Integer, Jsonb, Uuid};
use futures::future::try_join_all;

use super::fixture::{BATCH, nothing};

/// Ids a second that go through a sorted set, in and out: pipelines of `ZADD`, then pipelines of `ZPOPMIN`, in as many
/// loops as the queue is measured with.
pub(super) async fn zadd_zpopmin(
    redis: &common::redis::Connection,
    key: &str,
    ids: &[JobId],
    loops: usize,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let parts = ids.chunks(ids.len().div_ceil(loops)).map(|part| {
        let mut redis = redis.clone();
        async move {
            for batch in part.chunks(BATCH) {
                let mut pipe = redis::pipe();
                for (score, id) in batch.iter().enumerate() {
                    pipe.zadd(key, id, score).ignore();
                }
                pipe.query_async::<()>(&mut redis).await?;
            }
            for batch in part.chunks(BATCH) {
                let mut pipe = redis::pipe();
                for _ in batch {
                    pipe.zpopmin(key, 1).ignore();
                }
                pipe.query_async::<()>(&mut redis).await?;
            }
            redis::RedisResult::Ok(())
        }
    });
    try_join_all(parts).await?;
    Ok(ids.len() as f64 / start.elapsed().as_secs_f64())
}

/// Rows a second that are taken and finished by their ids, in batches, a commit each, through two connections: the two
/// updates that a job of ours costs as well, in a table like `jobs`.
pub(super) async fn batched_updates(owner: &Db, count: usize) -> anyhow::Result<f64> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
    }

    make_table(owner, count).await?;
    let ids: Vec<Row> = sql!("SELECT id FROM raw_jobs ORDER BY id").load(&mut owner.conn().await?).await?;
    let ids: Vec<JobId> = ids.into_iter().map(|row| row.id).collect();
    let start = Instant::now();
    let parts = ids.chunks(ids.len().div_ceil(2)).map(async |part| {
        let mut conn = owner.conn().await?;
        for batch in part.chunks(BATCH) {
            sql!(
                "UPDATE raw_jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker = 'raw',
                    started_at = {now}, pushed_at = {now}, alive_until = {now} + interval '15 s'
                 WHERE id = ANY({ids}) AND state = 'ready'",
                ids: Array<Uuid> = batch,
                now = owner.clock().now(),
            )
            .execute(&mut conn)
            .await?;
            sql!(
                "UPDATE raw_jobs SET state = 'done', alive_until = NULL, finished_at = {now}
                 WHERE id = ANY({ids}) AND state = 'running'",
                ids: Array<Uuid> = batch,
                now = owner.clock().now(),
            )
            .execute(&mut conn)
            .await?;
        }
        anyhow::Ok(())
    });
    try_join_all(parts).await?;
    Ok(ids.len() as f64 / start.elapsed().as_secs_f64())
}

/// Rows a second that so many connections insert into a table like `jobs`, a row a commit.
pub(super) async fn single_inserts(owner: &Db, count: usize, connections: usize) -> anyhow::Result<f64> {
    make_table(owner, 0).await?;
    let start = Instant::now();
    let inserts = (0..connections).map(async |_| {
        let mut conn = owner.conn().await?;
        for _ in 0..count / connections {
            sql!(
                "INSERT INTO raw_jobs (id, kind, queue, lane, args, priority, max_attempts, run_at, created_at)
                 VALUES ({id}, 'probe', 'probe', 'ann', {args}, 1, 25, {now}, {now})",
                id: Uuid = JobId::new(),
                args: Jsonb = serde_json::to_value(nothing("ann"))?,
                now = owner.clock().now(),
            )
            .execute(&mut conn)
            .await?;
        }
        anyhow::Ok(())
    });
    try_join_all(inserts).await?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Makes the table anew, with `count` rows that wait.
async fn make_table(owner: &Db, count: usize) -> anyhow::Result<()> {
    let mut conn = owner.conn().await?;
    sql!("DROP TABLE IF EXISTS raw_jobs").execute(&mut conn).await?;
    sql!("CREATE TABLE raw_jobs (LIKE jobs INCLUDING ALL) WITH (fillfactor = 50)").execute(&mut conn).await?;
    sql!(
        "INSERT INTO raw_jobs (id, kind, queue, lane, args, priority, max_attempts, run_at, created_at)
         SELECT gen_random_uuid(), 'probe', 'probe', 'ann', {args}, 1, 25, {now}, {now} FROM generate_series(1, {count})",
        args: Jsonb = serde_json::to_value(nothing("ann"))?,
        now = owner.clock().now(),
        count: Integer = i32::try_from(count)?,
    )
    .execute(&mut conn)
    .await?;
    Ok(())
}
