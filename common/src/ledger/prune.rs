use diesel::{
    QueryableByName,
    sql_types::{BigInt, Integer, Nullable, Uuid},
};

use crate::{
    clock::Clock,
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{JobId, floor},
};

/// Deletes jobs that finished more than `days` ago, dead ones after `dead_days`, among the next `batch` rows after
/// `after` in the order of their ids, which is that of their making. Answers how many, and where to go on; nothing
/// is left when there is no such place.
///
/// # Errors
/// If the database is away.
pub async fn prune(
    tx: &mut Tx,
    after: Option<JobId>,
    batch: i64,
    days: i32,
    dead_days: i32,
) -> Result<(usize, Option<JobId>)> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        pruned: i64,
        #[diesel(sql_type = Nullable<Uuid>)]
        last: Option<JobId>,
    }

    let before = oldest_kept(tx.clock(), days.min(dead_days));
    let rows: Vec<Row> = sql!(
        "WITH page AS MATERIALIZED (SELECT id, state, finished_at FROM jobs WHERE id > {after} AND id < {before}
             ORDER BY id LIMIT {batch}),
         pruned AS (DELETE FROM jobs j USING page p WHERE j.id = p.id AND j.finished_at < {now}
             - make_interval(days => CASE p.state WHEN 'dead' THEN {dead_days} ELSE {days} END) RETURNING j.id)
         SELECT (SELECT count(*) FROM pruned) AS pruned, (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last",
        after: Uuid = after.unwrap_or(uuid::Uuid::nil().into()),
        before: Uuid = before,
        batch: BigInt = batch,
        now = tx.clock().now(),
        days: Integer = days,
        dead_days: Integer = dead_days,
    )
    .load(tx.conn())
    .await?;
    let row = rows.into_iter().next();
    Ok(row.map_or((0, None), |row| (usize::try_from(row.pruned).unwrap_or(0), row.last)))
}

/// No job with a later id can have finished so long ago.
fn oldest_kept(clock: &Clock, days: i32) -> uuid::Uuid {
    floor(clock.instant() - chrono::Duration::days(days.into()))
}
