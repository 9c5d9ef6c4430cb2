use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid},
};

use super::NewJob;
use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    dispatcher::DueJob,
    error::Result,
    ids::JobId,
    telemetry::Origin,
};

/// Writes many jobs in one statement, and answers their ids in the same order. Unique keys are for
/// [`enqueue_once`](super::enqueue_once): here they fail the transaction if they are taken.
///
/// # Errors
/// If the database is away.
pub async fn enqueue_all(tx: &mut Tx, jobs: Vec<NewJob>) -> Result<Vec<JobId>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
        #[diesel(sql_type = Timestamptz)]
        run_at: DateTime<Utc>,
        #[diesel(sql_type = Bool)]
        due: bool,
    }

    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<JobId> = jobs.iter().map(|_| JobId::new()).collect();
    let current = Origin::current();
    let origins: Vec<&Origin> = jobs.iter().map(|job| job.origin.as_ref().unwrap_or(&current)).collect();
    let rows: Vec<Row> = sql!(
        "INSERT INTO jobs (id, kind, queue, lane, args, priority, max_attempts, run_at, unique_key, created_at, request_id, traceparent)
         SELECT j.id, j.kind, j.queue, j.lane, j.args, j.priority, j.max_attempts, coalesce(j.run_at, {now}), j.unique_key, {now},
             j.request_id, j.traceparent
         FROM unnest({ids}, {kinds}, {queues}, {lanes}, {args}, {priorities}, {attempts}, {times}, {keys}, {requests}, {traces})
             AS j (id, kind, queue, lane, args, priority, max_attempts, run_at, unique_key, request_id, traceparent)
         RETURNING id, run_at, run_at <= created_at AS due",
        now = tx.clock().now(),
        ids: Array<Uuid> = ids.clone(),
        kinds: Array<Text> = jobs.iter().map(|job| job.kind).collect::<Vec<_>>(),
        queues: Array<Text> = jobs.iter().map(|job| job.queue).collect::<Vec<_>>(),
        lanes: Array<Text> = jobs.iter().map(|job| job.lane.as_str()).collect::<Vec<_>>(),
        args: Array<Jsonb> = jobs.iter().map(|job| &job.args).collect::<Vec<_>>(),
        priorities: Array<SmallInt> = jobs.iter().map(|job| job.priority).collect::<Vec<_>>(),
        attempts: Array<SmallInt> = jobs.iter().map(|job| job.max_attempts).collect::<Vec<_>>(),
        times: Array<Nullable<Timestamptz>> = jobs.iter().map(|job| job.run_at).collect::<Vec<_>>(),
        keys: Array<Nullable<Text>> = jobs.iter().map(|job| job.unique_key.as_deref()).collect::<Vec<_>>(),
        requests: Array<Nullable<Text>> = origins.iter().map(|o| o.request_id.as_deref()).collect::<Vec<_>>(),
        traces: Array<Nullable<Text>> = origins.iter().map(|o| o.traceparent.as_deref()).collect::<Vec<_>>(),
    )
    .load(tx.conn())
    .await?;
    // RETURNING promises no order, and the ids rise in the order of `jobs`.
    for Row { id, run_at, .. } in rows.into_iter().filter(|row| row.due) {
        let Ok(position) = ids.binary_search(&id) else { continue };
        let NewJob { queue, lane, priority, .. } = &jobs[position];
        tx.push_at_commit(DueJob {
            id,
            queue: (*queue).to_owned(),
            lane: lane.clone(),
            priority: *priority,
            run_at,
        });
    }
    Ok(ids)
}
