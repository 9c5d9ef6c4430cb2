use std::time::Duration;

use common::{
    db::{Db, RunQueryDsl as _, sql},
    metrics,
    redis::Redis,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Double},
};

use crate::rounds::Round;

/// These change slowly, and the size of a database takes a look at each of its files.
const EVERY: Duration = Duration::from_secs(10);

/// The loop that measures PostgreSQL and Redis themselves.
pub struct Stores {
    db: Db,
    redis: Redis,
}

/// PostgreSQL, as far as everybody may see it.
#[derive(Debug, QueryableByName)]
struct Postgres {
    #[diesel(sql_type = BigInt)]
    size: i64,
    #[diesel(sql_type = BigInt)]
    connections: i64,
    #[diesel(sql_type = BigInt)]
    limit: i64,
}

impl Stores {
    /// A loop that has not measured anything yet.
    pub fn new(db: Db, redis: Redis) -> Self {
        Self { db, redis }
    }
}

impl Round for Stores {
    const NAME: &'static str = "stores";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        let postgres = postgres(&self.db).await?;
        metrics::postgres(postgres.size as f64, postgres.connections as f64, postgres.limit as f64);
        let (used, limit) = redis_memory(&self.redis).await?;
        metrics::redis_memory(used, limit);
        let (finished_at, size) = newest_backup(&self.db).await?;
        metrics::backup(finished_at, size);
        Ok(EVERY)
    }
}

async fn postgres(db: &Db) -> anyhow::Result<Postgres> {
    let row = sql!(
        "SELECT pg_database_size(current_database()) AS size,
             (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
             current_setting('max_connections')::bigint AS limit"
    )
    .get_result(&mut db.conn().await?)
    .await?;
    Ok(row)
}

/// When the newest backup was finished, in Unix time, and its bytes; 0 if there is none.
async fn newest_backup(db: &Db) -> anyhow::Result<(f64, f64)> {
    #[derive(QueryableByName)]
    struct Backup {
        #[diesel(sql_type = Double)]
        finished_at: f64,
        #[diesel(sql_type = BigInt)]
        size: i64,
    }

    let mut newest: Vec<Backup> = sql!(
        "SELECT extract(epoch FROM finished_at)::float8 AS finished_at, size_bytes AS size
         FROM backups ORDER BY finished_at DESC LIMIT 1"
    )
    .load(&mut db.conn().await?)
    .await?;
    Ok(newest.pop().map_or((0.0, 0.0), |backup| (backup.finished_at, backup.size as f64)))
}

/// Bytes that Redis uses, and may use; 0 is no limit.
async fn redis_memory(redis: &Redis) -> anyhow::Result<(f64, f64)> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis.queue()).await?;
    let value = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.ok_or_else(|| anyhow::anyhow!("INFO memory does not say {name}"))
    };
    Ok((value("used_memory:")?, value("maxmemory:")?))
}

#[cfg(test)]
mod tests {
    use common::testing::{database_at, setting};

    use super::*;

    #[tokio::test]
    async fn the_newest_backup_is_the_one_that_was_finished_last() {
        let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
        assert_eq!(newest_backup(&db).await.unwrap(), (0.0, 0.0));
        diesel::sql_query(
            "INSERT INTO backups (finished_at, size_bytes, file)
             VALUES (to_timestamp(2000), 7, 'b'), (to_timestamp(1000), 8, 'a')",
        )
        .execute(&mut db.conn().await.unwrap())
        .await
        .unwrap();
        assert_eq!(newest_backup(&db).await.unwrap(), (2000.0, 7.0));
    }

    #[tokio::test]
    async fn both_stores_say_how_large_they_are() {
        let (_database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
        let postgres = postgres(&db).await.unwrap();
        assert!(postgres.size > 1_000_000 && postgres.connections >= 1, "{postgres:?}");
        assert!(postgres.limit >= postgres.connections, "{postgres:?}");
        let redis = Redis::new(&setting("TEST_REDIS_URL"), "stores").unwrap();
        let (used, limit) = redis_memory(&redis).await.unwrap();
        assert!(used > 100_000.0 && limit >= 0.0, "{used} {limit}");
    }
}
