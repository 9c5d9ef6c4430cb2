mod accounts;

use common::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{FireId, JobId, floor},
    jobs::PruneHistory,
    ledger,
    tasks::{self, TaskRow},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Integer, Nullable, Uuid},
};

use super::{BATCH, in_batches};
use crate::{
    context::Context,
    job::{JobError, Run},
};

/// For how many days is kept what has no setting of its own (design §2.5).
mod keep {
    pub(super) const DEAD_JOBS: i32 = 30;
    pub(super) const FIRES: i32 = 90;
    pub(super) const SUMMARIES: i32 = 90;
    pub(super) const TRASH: i32 = 30;
    pub(super) const TOKENS: i32 = 1;
    pub(super) const EVENTS: i32 = 30;
    pub(super) const REPORTS: i32 = 7;
}

impl Run for PruneHistory {
    /// Deletes what is kept for a while only.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let days = context.settings.job_retention_days;
        prune_jobs(context, days).await?;
        prune_fires(context).await?;
        in_batches(&context.db, "summaries", summaries).await?;
        in_batches(&context.db, "trash", trash).await?;
        in_batches(&context.db, "tokens", tokens).await?;
        in_batches(&context.db, "links", links).await?;
        in_batches(&context.db, "idempotency keys", idempotency_keys).await?;
        in_batches(&context.db, "deliveries", deliveries).await?;
        in_batches(&context.db, "reports", reports).await?;
        in_batches(&context.db, "events", events).await?;
        in_batches(&context.db, "API tokens", accounts::tokens).await?;
        accounts::delete_due(&context.db).await
    }
}

async fn prune_jobs(context: &Context, days: i32) -> Result<(), JobError> {
    let (mut pruned, mut after): (usize, Option<JobId>) = (0, None);
    loop {
        let mut tx = context.db.begin().await?;
        let (count, last) = ledger::prune(&mut tx, after, BATCH, days, keep::DEAD_JOBS.max(days)).await?;
        tx.commit().await?;
        pruned += count;
        if last.is_none() {
            break;
        }
        after = last;
    }
    tracing::info!(what = "jobs", count = pruned, "pruned");
    Ok(())
}

async fn prune_fires(context: &Context) -> Result<(), JobError> {
    let (mut pruned, mut after): (usize, Option<FireId>) = (0, None);
    loop {
        let mut tx = context.db.begin().await?;
        let (count, last) = fires(&mut tx, after).await?;
        tx.commit().await?;
        pruned += count;
        if last.is_none() {
            break;
        }
        after = last;
    }
    tracing::info!(what = "fires", count = pruned, "pruned");
    Ok(())
}

/// The settled fires among the next rows after `after`. The last fire of a reminder that may fire again stays: it is
/// what says that it has been sent.
async fn fires(tx: &mut Tx, after: Option<FireId>) -> Result<(usize, Option<FireId>)> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        pruned: i64,
        #[diesel(sql_type = Nullable<Uuid>)]
        last: Option<FireId>,
    }

    let before = floor(tx.clock().instant() - chrono::Duration::days(keep::FIRES.into()));
    let rows: Vec<Row> = sql!(
        "WITH page AS MATERIALIZED (SELECT f.* FROM reminder_fires f WHERE f.id > {after} AND f.id < {before}
             ORDER BY f.id LIMIT {batch}),
         pruned AS (DELETE FROM reminder_fires f USING page p, reminders r, tasks t
             WHERE f.id = p.id AND r.id = p.reminder_id AND t.id = p.task_id
             AND f.state IN ('sent', 'dead', 'cancelled', 'skipped')
             AND coalesce(f.sent_at, f.fire_at) < {now} - make_interval(days => {days})
             AND (r.removed_at IS NOT NULL OR t.status IN ('done', 'cancelled') OR t.archived_at IS NOT NULL
                 OR t.deleted_at IS NOT NULL OR EXISTS (SELECT FROM reminder_fires n WHERE n.reminder_id = f.reminder_id
                     AND (n.occurrence_no, n.plan_no) > (f.occurrence_no, f.plan_no)))
             RETURNING f.id)
         SELECT (SELECT count(*) FROM pruned) AS pruned, (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last",
        after: Uuid = after.unwrap_or(uuid::Uuid::nil().into()),
        before: Uuid = before,
        batch: BigInt = BATCH,
        now = tx.clock().now(),
        days: Integer = keep::FIRES,
    )
    .load(tx.conn())
    .await?;
    let row = rows.into_iter().next();
    Ok(row.map_or((0, None), |row| (usize::try_from(row.pruned).unwrap_or(0), row.last)))
}

/// Declares the deletion of a batch of old rows. Ids are in the order of time: only the old end of a table is looked at,
/// and `$old` says which of it have served their time.
macro_rules! prune {
    ($(#[$doc:meta])* $name:ident: $table:literal after $days:expr, $old:literal) => {
        $(#[$doc])*
        async fn $name(mut tx: Tx) -> Result<usize> {
            let deleted = sql!(
                concat!(
                    "DELETE FROM ", $table, " WHERE id IN (SELECT id FROM ", $table, " WHERE id < {before} AND ", $old,
                    " ORDER BY id LIMIT {batch} FOR UPDATE SKIP LOCKED)"
                ),
                before: Uuid = floor(tx.clock().instant() - chrono::Duration::days($days.into())),
                now = tx.clock().now(),
                days: Integer = $days,
                batch: BigInt = BATCH,
            )
            .execute(tx.conn())
            .await?;
            tx.commit().await?;
            Ok(deleted)
        }
    };
}

prune! {
    summaries: "digest_runs" after keep::SUMMARIES, "state NOT IN ('planned', 'sending')"
}
prune! {
    /// One that was used or revoked stays until it expires: it still tells a thief from a stranger.
    tokens: "refresh_tokens" after keep::TOKENS, "expires_at < {now} - make_interval(days => {days})"
}
prune! {
    links: "one_time_tokens" after keep::TOKENS, "expires_at < {now} - make_interval(days => {days})"
}
prune! {
    deliveries: "webhook_deliveries" after keep::EVENTS, "created_at < {now} - make_interval(days => {days})"
}
prune! {
    reports: "reports" after keep::REPORTS, "created_at < {now} - make_interval(days => {days})"
}
prune! {
    events: "events" after keep::EVENTS, "created_at < {now} - make_interval(days => {days})"
}

async fn trash(mut tx: Tx) -> Result<usize> {
    let deleted: Vec<TaskRow> = sql!(
        "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE deleted_at < {now} - make_interval(days => {days})
             ORDER BY deleted_at LIMIT {batch} FOR UPDATE SKIP LOCKED) RETURNING id",
        now = tx.clock().now(),
        days: Integer = keep::TRASH,
        batch: BigInt = BATCH,
    )
    .load(tx.conn())
    .await?;
    tasks::outdate(&mut tx, deleted.iter().map(|row| row.id));
    tx.commit().await?;
    Ok(deleted.len())
}

async fn idempotency_keys(mut tx: Tx) -> Result<usize> {
    let deleted = sql!(
        "DELETE FROM idempotency_keys WHERE (principal, method, path, key) IN (
             SELECT principal, method, path, key FROM idempotency_keys WHERE expires_at < {now}
             ORDER BY expires_at LIMIT {batch} FOR UPDATE SKIP LOCKED)",
        now = tx.clock().now(),
        batch: BigInt = BATCH,
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(deleted)
}
