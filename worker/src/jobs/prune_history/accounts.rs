use common::{
    db::{Db, RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::UserId,
    projects,
    tasks::{self, TaskRow},
    users::due_for_deletion,
};
use diesel::sql_types::{BigInt, Integer, Uuid};

use super::BATCH;
use crate::{job::JobError, jobs::in_batches};

/// Accounts that are begun in one transaction.
const ACCOUNTS: i64 = 10;
/// For how many days a token is kept that is not good any more.
const KEEP_TOKENS: i32 = 30;

/// API tokens that were revoked or have expired; their owner can read for a while when each was last used.
pub(super) async fn tokens(mut tx: Tx) -> Result<usize> {
    let deleted = sql!(
        "DELETE FROM api_tokens WHERE id IN (SELECT id FROM api_tokens
             WHERE least(revoked_at, expires_at) < {now} - make_interval(days => {days})
             ORDER BY id LIMIT {batch} FOR UPDATE SKIP LOCKED)",
        now = tx.clock().now(),
        days: Integer = KEEP_TOKENS,
        batch: BigInt = BATCH,
    )
    .execute(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(deleted)
}

/// Deletes the accounts whose grace is over (common::users::DELETION_GRACE). What they share with others stays with them. What a person has much of goes first and in
/// batches, so that no statement takes long; the account comes last, and takes the rest with it. A run that was
/// interrupted is continued by the next.
pub(super) async fn delete_due(db: &Db) -> Result<(), JobError> {
    loop {
        let mut tx = db.begin().await?;
        let due = due_for_deletion(&mut tx, ACCOUNTS).await?;
        tx.commit().await?;
        for user in &due {
            let mut tx = db.begin().await?;
            let handed = projects::hand_over_all(&mut tx, *user).await;
            tx.finish(handed).await?;
            in_batches(db, "tasks of an account", |tx| tasks(tx, *user)).await?;
            account(db, *user).await?;
        }
        if due.len() < usize::try_from(ACCOUNTS).unwrap_or(usize::MAX) {
            return Ok(());
        }
    }
}

async fn tasks(mut tx: Tx, user: UserId) -> Result<usize> {
    let deleted: Vec<TaskRow> = sql!(
        "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE owner_id = {user} ORDER BY id LIMIT {batch} FOR UPDATE) RETURNING id",
        user: Uuid = user,
        batch: BigInt = BATCH,
    )
    .load(tx.conn())
    .await?;
    tasks::outdate(&mut tx, deleted.iter().map(|row| row.id));
    tx.commit().await?;
    Ok(deleted.len())
}

async fn account(db: &Db, user: UserId) -> Result<()> {
    let mut tx = db.begin().await?;
    sql!("DELETE FROM users WHERE id = {user} AND NOT is_active AND deletion_requested_at IS NOT NULL", user: Uuid = user)
        .execute(tx.conn())
        .await?;
    tx.commit().await?;
    tracing::info!(user.id = %user, "an account was deleted, as its owner had asked");
    Ok(())
}
