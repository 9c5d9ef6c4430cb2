use std::time::Duration;

use diesel::{
    dsl::sql,
    pg::Pg,
    sql_types::{BigInt, Bool},
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{
    Db, advice,
    pool::{Session, connect},
};
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
    let mut conn = connect(owner_url, &Session::Owner, PATIENCE).await?;
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

/// Why a process cannot work with this database, and what to do about it: it is away, it takes no writes, or its schema is
/// older than this build. `None` if it can.
pub async fn problem(db: &Db) -> Option<String> {
    let found = async { look(&mut *db.conn().await?).await };
    let found = match tokio::time::timeout(PATIENCE, found).await {
        Ok(Ok(found)) => found?,
        Ok(Err(error)) => return Some(error.to_string()),
        Err(_) => return Some(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    if found == advice::READ_ONLY {
        // A connection that was opened to a standby, or under that setting, stays as it is, whatever becomes of the server.
        db.close_idle();
    }
    Some(found.to_owned())
}

/// What is wrong with a database that answers.
async fn look(conn: &mut AsyncPgConnection) -> Result<Option<&'static str>> {
    let migrated = sql::<Bool>("to_regclass('__diesel_schema_migrations') IS NOT NULL");
    let read_only = sql::<Bool>("current_setting('transaction_read_only')::bool");
    let (migrated, read_only): (bool, bool) = diesel::select((migrated, read_only)).get_result(conn).await?;
    Ok(if read_only {
        Some(advice::READ_ONLY)
    } else if !migrated || !schema_is_current(conn).await? {
        Some("the schema is older than this program: run `tasktracker-api migrate` with MIGRATE_DATABASE_URL")
    } else {
        None
    })
}

/// Whether every migration that this build knows has run.
async fn schema_is_current(conn: &mut AsyncPgConnection) -> Result<bool> {
    use diesel::migration::Migration as _;

    diesel::table! { __diesel_schema_migrations (version) { version -> Text, } }
    use diesel::QueryDsl as _;

    let ran: Vec<String> =
        __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load(conn).await?;
    let known = diesel::migration::MigrationSource::<Pg>::migrations(&MIGRATIONS)
        .map_err(|error| Error::Internal(anyhow::anyhow!(error)))?;
    Ok(known.iter().all(|migration| {
        let version = migration.name().version().to_string();
        ran.contains(&version)
    }))
}
