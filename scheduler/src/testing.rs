//! What the tests of this crate share.

use common::{
    db::{Db, RunQueryDsl as _},
    ids::JobId,
    jobs::PruneHistory,
    ledger::{self, NewJob},
    redis::Redis,
    schema::jobs,
    testing::setting,
};
use diesel::{ExpressionMethods as _, QueryDsl as _};

/// A Redis with keys of this test's own.
pub(crate) fn redis() -> Redis {
    Redis::new(&setting("TEST_REDIS_URL"), &format!("test:{}", JobId::new())).unwrap()
}

/// A Redis that is not there.
pub(crate) fn no_redis() -> Redis {
    Redis::new("redis://127.0.0.1:1", "tt").unwrap()
}

/// As `FLUSHALL`, for the keys of this test.
pub(crate) async fn flush(redis: &Redis) {
    let mut conn = redis.queue();
    let keys: Vec<String> = redis::cmd("KEYS").arg(redis.key("*")).query_async(&mut conn).await.unwrap();
    redis::cmd("DEL").arg(keys).query_async::<()>(&mut conn).await.unwrap();
}

/// A committed job, due now unless changed.
pub(crate) async fn enqueue(db: &Db, change: impl FnOnce(NewJob) -> NewJob) -> JobId {
    let mut tx = db.begin().await.unwrap();
    let id = ledger::enqueue(&mut tx, change(NewJob::of(&PruneHistory {}).unwrap())).await.unwrap();
    tx.commit().await.unwrap();
    id
}

/// Whether the ledger counts a job as pushed.
pub(crate) async fn is_pushed(db: &Db, id: JobId) -> bool {
    let pushed = jobs::table.filter(jobs::id.eq(id)).filter(jobs::pushed_at.is_not_null());
    pushed.count().get_result::<i64>(&mut db.conn().await.unwrap()).await.unwrap() == 1
}
