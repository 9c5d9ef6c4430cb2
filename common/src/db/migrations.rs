use std::time::Duration;

use anyhow::Context as _;
use diesel::{
    dsl::sql,
    pg::Pg,
    sql_types::{BigInt, Bool},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::Db;
use crate::error::{Error, Result};

/// The migrations, compiled in.
pub type Migrations = EmbeddedMigrations;

const MIGRATIONS: Migrations = embed_migrations!("../migrations");

/// Held while migrating, so that replicas that start together do not collide. Any constant would do.
const ADVISORY_LOCK: i64 = 0x7461_736b_7472_6163;

/// Brings the schema up to date as its owner, and says which migrations ran. Needs a runtime with several threads.
///
/// # Errors
/// If the database is away, the role may not, or a migration fails; each migration is a transaction of its own.
pub async fn run_migrations(owner_url: &str) -> anyhow::Result<Vec<String>> {
    let mut conn = super::pool::connect(owner_url, &super::pool::Session::Owner)
        .await
        .context("cannot connect with MIGRATE_DATABASE_URL")?;
    diesel::sql_query("SELECT pg_advisory_lock($1)")
        .bind::<BigInt, _>(ADVISORY_LOCK)
        .execute(&mut conn)
        .await?;
    // The lock is the connection's: it goes with it.
    let mut harness = AsyncMigrationHarness::new(conn);
    let ran = harness.run_pending_migrations(MIGRATIONS).map_err(|error| anyhow::anyhow!(error))?;
    Ok(ran.iter().map(ToString::to_string).collect())
}

/// A database that does not answer is named after so long; less than a loop may take for a round.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a process cannot work with this database: it is away, or its schema is older than this build. `None` if it can.
pub async fn problem(db: &Db) -> Option<String> {
    let current = async { schema_is_current(&mut *db.conn().await?).await };
    match tokio::time::timeout(PATIENCE, current).await {
        Ok(Ok(true)) => None,
        Ok(Ok(false)) => Some(
            "the schema is older than this program: run `tasktracker-api migrate` with MIGRATE_DATABASE_URL"
                .to_owned(),
        ),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Whether every migration that this build knows has run; not if none ever has.
async fn schema_is_current(conn: &mut AsyncPgConnection) -> Result<bool> {
    use diesel::migration::Migration as _;

    diesel::table! { __diesel_schema_migrations (version) { version -> Text, } }
    use diesel::QueryDsl as _;

    let migrated = sql::<Bool>("to_regclass('__diesel_schema_migrations') IS NOT NULL");
    if !diesel::select(migrated).get_result::<bool>(conn).await? {
        return Ok(false);
    }
    let ran: Vec<String> =
        __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load(conn).await?;
    let known = diesel::migration::MigrationSource::<Pg>::migrations(&MIGRATIONS)
        .map_err(|error| Error::Internal(anyhow::anyhow!(error)))?;
    Ok(known.iter().all(|migration| {
        let version = migration.name().version().to_string();
        ran.contains(&version)
    }))
}
