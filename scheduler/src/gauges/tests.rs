use chrono::TimeDelta;
use common::{jobs::MAINTENANCE, ledger, testing::database_at};

use super::*;
use crate::testing::enqueue;

#[tokio::test]
async fn unfinished_jobs_are_counted_and_the_oldest_that_may_start_is_aged() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    assert_eq!(unfinished(&db).await.unwrap(), []);
    let start = db.clock().instant();
    let running = enqueue(&db, |job| job.run_at(start - TimeDelta::seconds(60))).await;
    enqueue(&db, |job| job).await;
    enqueue(&db, |job| job.run_at(start + TimeDelta::hours(1))).await;
    let mut conn = db.conn().await.unwrap();
    ledger::claim(&mut conn, db.clock(), &[running], "worker", Duration::from_secs(15)).await.unwrap();
    db.clock().set(start + TimeDelta::seconds(5));

    let queue = MAINTENANCE.to_owned();
    let expected = Unfinished { queue, ready: 2, running: 1, oldest_ready_age: Some(5.0) };
    assert_eq!(unfinished(&db).await.unwrap(), [expected]);
    assert_eq!(reminders_due_unsent(&db).await.unwrap(), 0);
}
