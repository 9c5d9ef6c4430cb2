use chrono::TimeDelta;
use common::{
    jobs::MAINTENANCE,
    ledger,
    testing::{TestDatabase, database_at},
};

use super::*;
use crate::{
    relay::Relay,
    testing::{enqueue, flush, no_redis, redis},
};

/// A database at a fixed time, a Redis that holds two jobs, and a reconcile that has made its first pass.
async fn two_pushed_jobs() -> (TestDatabase, Db, Redis, Reconcile, [JobId; 2]) {
    let (database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let redis = redis();
    let ids = [enqueue(&db, |job| job).await, enqueue(&db, |job| job).await];
    advance(&db, 2);
    Relay::new(db.clone(), redis.clone()).relay().await.unwrap();
    let mut reconcile = Reconcile::new(db.clone(), redis.clone());
    assert!(reconcile.is_due().await.unwrap());
    assert!(!reconcile.reconcile().await.unwrap());
    assert!(!reconcile.is_due().await.unwrap());
    (database, db, redis, reconcile, ids)
}

fn advance(db: &Db, seconds: i64) {
    db.clock().set(db.clock().instant() + TimeDelta::seconds(seconds));
}

async fn waiting(redis: &Redis) -> u64 {
    Queue::new(redis, MAINTENANCE).sizes().await.unwrap().0
}

/// R12: what is not running continues, what is running is not started twice.
#[tokio::test]
async fn after_a_flush_everything_comes_back_at_once_but_what_is_running() {
    let (_database, db, redis, mut reconcile, [running, _]) = two_pushed_jobs().await;
    let mut conn = db.conn().await.unwrap();
    let lease = Duration::from_secs(600);
    ledger::claim(&mut conn, db.clock(), &[running], "worker", lease).await.unwrap();
    flush(&redis).await;
    assert!(reconcile.is_due().await.unwrap());
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 1);
    assert!(!reconcile.is_due().await.unwrap());
    assert!(!Reconcile::new(db.clone(), redis.clone()).is_due().await.unwrap(), "for no scheduler");

    // Its worker is gone: now it is an orphan that only the ledger knows.
    sql!("UPDATE jobs SET alive_until = clock_timestamp() - interval '1 s' WHERE state = 'running'")
        .execute(&mut conn)
        .await
        .unwrap();
    advance(&db, 31);
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 2);
}

#[tokio::test]
async fn a_single_lost_job_comes_back_with_the_next_pass() {
    let (_database, db, redis, mut reconcile, [lost, _]) = two_pushed_jobs().await;
    let queue = Queue::new(&redis, MAINTENANCE);
    queue.renew(&[lost], Duration::from_secs(15)).await.unwrap();
    queue.ack(&[lost]).await.unwrap();
    assert_eq!(waiting(&redis).await, 1);
    advance(&db, 29);
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 1, "a pass every 30 s");
    advance(&db, 2);
    // Two schedulers: the second finds the pass made.
    let mut other = Reconcile::new(db.clone(), redis.clone());
    let (one, two) = tokio::join!(reconcile.reconcile(), other.reconcile());
    assert!(!one.unwrap() && !two.unwrap());
    assert_eq!(waiting(&redis).await, 2);
    assert!(!reconcile.is_due().await.unwrap());
}

#[tokio::test]
async fn while_another_has_the_lock_nothing_happens() {
    let (_database, db, redis, mut reconcile, _) = two_pushed_jobs().await;
    flush(&redis).await;
    let mut tx = db.begin().await.unwrap();
    assert!(lock(&mut tx).await.unwrap());
    assert!(!reconcile.reconcile().await.unwrap());
    assert_eq!(waiting(&redis).await, 0);
    tx.commit().await.unwrap();
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 2);
}

#[tokio::test]
async fn a_redis_that_loses_its_data_during_a_pass_gets_another() {
    let (_database, db, redis, mut reconcile, _) = two_pushed_jobs().await;
    flush(&redis).await;
    let mut tx = db.begin().await.unwrap();
    let mut pass = reconcile.begin(&mut tx).await.unwrap().unwrap();
    let rows = page(&mut tx, &pass).await.unwrap();
    pass.pushed += reconcile.push_unknown(rows).await.unwrap();
    flush(&redis).await;
    complete(&mut tx, pass).await.unwrap();
    tx.commit().await.unwrap();
    assert!(reconcile.is_due().await.unwrap());
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 2);
}

#[tokio::test]
async fn a_pass_has_many_pages_and_survives_an_absent_redis() {
    let (_database, db, redis, mut reconcile, _) = two_pushed_jobs().await;
    // All due at one instant, so that pages are told apart by id alone.
    sql!(
        "INSERT INTO jobs (id, kind, queue, lane, args, run_at, max_attempts, created_at, pushed_at)
         SELECT gen_random_uuid(), 'prune_history', 'maintenance', 'system', '[]', {now}, 1, {now}, {now}
         FROM generate_series(1, 1200)",
        now = db.clock().now(),
    )
    .execute(&mut db.conn().await.unwrap())
    .await
    .unwrap();
    flush(&redis).await;
    Reconcile::new(db.clone(), no_redis()).reconcile().await.unwrap_err();
    reconcile.reconcile().await.unwrap();
    assert_eq!(waiting(&redis).await, 1202);
}
