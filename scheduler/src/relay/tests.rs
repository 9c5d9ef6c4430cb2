use std::collections::BTreeSet;

use chrono::TimeDelta;
use common::{
    jobs::MAINTENANCE,
    ledger::{self, Again, Finish, JobState},
    testing::database_at,
};

use super::*;
use crate::testing::{enqueue, is_pushed, no_redis, redis};

const LEASE: Duration = Duration::from_secs(15);

/// What a worker would be given.
async fn fetch(queue: &Queue) -> BTreeSet<JobId> {
    let mut ids = BTreeSet::new();
    loop {
        let leased = queue.fetch(500, LEASE).await.unwrap();
        if leased.is_empty() {
            return ids;
        }
        ids.extend(leased.into_iter().map(|leased| leased.id));
    }
}

#[tokio::test]
async fn the_dispatcher_has_two_seconds_and_what_was_planned_goes_when_it_is_due() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let (redis, start) = (redis(), db.clock().instant());
    let (mut relay, queue) = (Relay::new(db.clone(), redis.clone()), Queue::new(&redis, MAINTENANCE));
    let now = enqueue(&db, |job| job).await;
    let soon = enqueue(&db, |job| job.run_at(start + TimeDelta::seconds(1))).await;
    assert_eq!(relay.relay().await.unwrap(), 0);

    db.clock().set(start + TimeDelta::seconds(1));
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert_eq!(fetch(&queue).await, BTreeSet::from([soon]));

    db.clock().set(start + TimeDelta::seconds(2));
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert_eq!(fetch(&queue).await, BTreeSet::from([now]));
    assert!(is_pushed(&db, now).await && is_pushed(&db, soon).await);
    assert_eq!(relay.relay().await.unwrap(), 0);
}

/// R4: killed between push and mark. The job is in Redis already, and the relay must not come back to it for ever.
#[tokio::test]
async fn a_job_that_was_pushed_but_not_marked_is_marked() {
    let (_database, db, mut due) = database_at("2026-05-04T10:00:00Z").await;
    let redis = redis();
    let queue = Queue::new(&redis, MAINTENANCE);
    let id = enqueue(&db, |job| job).await;
    queue.push(&[due.try_recv().unwrap()]).await.unwrap();
    db.clock().set(db.clock().instant() + TimeDelta::seconds(2));
    let mut relay = Relay::new(db.clone(), redis);
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert!(is_pushed(&db, id).await);
    assert_eq!(fetch(&queue).await, BTreeSet::from([id]));
}

#[tokio::test]
async fn a_retry_that_redis_refuses_is_not_marked() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let redis = redis();
    let (mut relay, queue) = (Relay::new(db.clone(), redis.clone()), Queue::new(&redis, MAINTENANCE));
    let id = enqueue(&db, |job| job).await;
    db.clock().set(db.clock().instant() + TimeDelta::seconds(2));
    relay.relay().await.unwrap();
    fetch(&queue).await;
    let mut conn = db.conn().await.unwrap();
    let claims = ledger::claim(&mut conn, db.clock(), &[id], "worker", LEASE).await.unwrap();
    let again = Finish {
        id,
        fence: claims[0].fence,
        state: JobState::Ready,
        again: Again::After(Duration::ZERO),
        error: None,
    };
    ledger::finish(&mut conn, db.clock(), vec![again]).await.unwrap();
    // The worker has not told Redis yet.
    assert_eq!(relay.relay().await.unwrap(), 0);
    assert!(!is_pushed(&db, id).await);
    queue.ack(&[id]).await.unwrap();
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert_eq!(fetch(&queue).await, BTreeSet::from([id]));
}

#[tokio::test]
async fn two_relays_share_a_backlog_and_an_absent_redis_costs_nothing() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    sql!(
        "INSERT INTO jobs (id, kind, queue, lane, args, run_at, max_attempts, created_at)
         SELECT gen_random_uuid(), 'prune_history', 'maintenance', 'system', '[]', {now}, 1, {now}
         FROM generate_series(1, 2500)",
        now = db.clock().now(),
    )
    .execute(&mut db.conn().await.unwrap())
    .await
    .unwrap();
    db.clock().set(db.clock().instant() + TimeDelta::seconds(2));
    Relay::new(db.clone(), no_redis()).relay().await.unwrap_err();

    let redis = redis();
    let drain = async || {
        let mut relay = Relay::new(db.clone(), redis.clone());
        let mut taken = 0;
        loop {
            match relay.relay().await.unwrap() {
                0 => return taken,
                count => taken += count,
            }
        }
    };
    let (one, other) = tokio::join!(drain(), drain());
    assert_eq!(one + other, 2500, "each job is one relay's: {one} and {other}");
    assert_eq!(fetch(&Queue::new(&redis, MAINTENANCE)).await.len(), 2500);
}

/// R33: what ended is in the way of whoever begins with the oldest. A round looks no further back than it has to, and what became
/// visible late is found by the sweep.
#[tokio::test]
async fn a_round_begins_where_the_last_one_ended_and_the_sweep_with_the_oldest() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let (redis, start) = (redis(), db.clock().instant());
    let mut relay = Relay::new(db.clone(), redis.clone());
    assert_eq!(relay.relay().await.unwrap(), 0);
    let seen = start - BACK;
    let late = enqueue(&db, |job| job.run_at(seen - TimeDelta::microseconds(1))).await;
    let again = enqueue(&db, |job| job.run_at(seen)).await;
    db.clock().set(start + TimeDelta::seconds(2));
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert!(is_pushed(&db, again).await && !is_pushed(&db, late).await);
    Sweep::new(db.clone(), redis).round().await.unwrap();
    assert!(is_pushed(&db, late).await);
}

/// What could not be pushed is not forgotten, however long it takes.
#[tokio::test]
async fn after_a_failure_a_round_begins_with_the_oldest() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let start = db.clock().instant();
    let mut relay = Relay::new(db.clone(), redis());
    assert_eq!(relay.relay().await.unwrap(), 0);
    let job = enqueue(&db, |job| job).await;
    let working = std::mem::replace(&mut relay.redis, no_redis());
    for hours in 1..3 {
        db.clock().set(start + TimeDelta::hours(hours));
        relay.from = Some(start);
        relay.relay().await.unwrap_err();
    }
    relay.redis = working;
    db.clock().set(start + TimeDelta::hours(3));
    assert_eq!(relay.relay().await.unwrap(), 1);
    assert!(is_pushed(&db, job).await);
}
