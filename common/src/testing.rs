//! What tests of every crate share: a database of their own and a clock that stands still. The servers are real and
//! given by `TEST_DATABASE_URL` and `TEST_REDIS_URL`; `cargo dev test` starts them.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up has failed")]

pub mod statements;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use tokio::sync::{OnceCell, mpsc};

use crate::{
    cache::Cache,
    clock::Clock,
    db::{self, Db, PoolOptions},
    dispatcher::{DueJob, Outbox},
};

/// The variable's value; a test without it says how to get it.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `cargo dev test`"))
}

/// A database of this test's own, empty and migrated.
pub struct TestDatabase {
    /// For role tasktracker_app.
    pub app_url: String,
    /// For role tasktracker_owner.
    pub owner_url: String,
}

/// `url` with another role and another database.
fn with(url: &str, role: &str, database: &str) -> String {
    let mut url: url::Url = url.parse().expect("TEST_DATABASE_URL is a URL");
    url.set_username(role).expect("a PostgreSQL URL has a user");
    url.set_path(database);
    url.to_string()
}

/// The name of the template, made once for all tests that share these migrations.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

async fn template(server: &str) -> String {
    let mut conn = AsyncPgConnection::establish(server).await.expect("TEST_DATABASE_URL can be reached");
    let name = format!("tt_template_{}", env!("TASKTRACKER_MIGRATIONS"));
    // Test binaries may run at the same time: one makes it, the others wait.
    diesel::sql_query("SELECT pg_advisory_lock($1)")
        .bind::<BigInt, _>(7001)
        .execute(&mut conn)
        .await
        .expect("lock");
    let exists: bool = diesel::select(
        diesel::dsl::sql::<Bool>("EXISTS (SELECT FROM pg_database WHERE datistemplate AND datname = ")
            .bind::<Text, _>(&name)
            .sql(")"),
    )
    .get_result(&mut conn)
    .await
    .expect("pg_database can be read");
    if !exists {
        for statement in [
            format!("DROP DATABASE IF EXISTS {name}"),
            format!("CREATE DATABASE {name} OWNER tasktracker_owner"),
        ] {
            diesel::sql_query(statement).execute(&mut conn).await.expect("the template can be made");
        }
        let owner_url = with(server, "tasktracker_owner", &name);
        // They need several threads, and the test that happens to be the first may have one.
        let migrate = move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(db::run_migrations(&owner_url)).expect("the migrations run");
        };
        tokio::task::spawn_blocking(migrate).await.expect("the migrations ran");
        diesel::sql_query(format!("ALTER DATABASE {name} IS_TEMPLATE true"))
            .execute(&mut conn)
            .await
            .expect("mark");
    }
    name
}

impl TestDatabase {
    /// Makes one.
    pub async fn create() -> Self {
        let server = setting("TEST_DATABASE_URL");
        let template = TEMPLATE.get_or_init(|| template(&server)).await;
        Self::copy(&server, template).await
    }

    /// Makes one on another server than the shared one, given as a superuser's URL; it has our roles.
    pub async fn create_on(server: &str) -> Self {
        Self::copy(server, &template(server).await).await
    }

    async fn copy(server: &str, template: &str) -> Self {
        let name = format!("tt_{}", uuid::Uuid::now_v7().simple());
        let mut conn = AsyncPgConnection::establish(server).await.expect("the server can be reached");
        diesel::sql_query(format!("CREATE DATABASE {name} TEMPLATE {template} OWNER tasktracker_owner"))
            .execute(&mut conn)
            .await
            .expect("a database for the test");
        Self {
            app_url: with(server, "tasktracker_app", &name),
            owner_url: with(server, "tasktracker_owner", &name),
        }
    }

    /// A pool as the application has it, by `clock`; what is committed and due can be read from the receiver.
    pub fn open(&self, clock: Clock) -> (Db, mpsc::Receiver<DueJob>) {
        self.open_with(clock, None)
    }

    /// The same, with copies in Redis.
    pub fn open_with(&self, clock: Clock, cache: Option<Cache>) -> (Db, mpsc::Receiver<DueJob>) {
        let (outbox, due) = Outbox::new();
        let options = PoolOptions { size: 8, ..PoolOptions::default() };
        let db = Db::new(&self.app_url, options, clock, outbox.with_cache(cache));
        (db.expect("the URL is good"), due)
    }
}

/// An instant, for tests that read better with it: `at("2030-01-02T08:00:00Z")`.
pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A database and a pool with the clock standing at `instant`.
pub async fn database_at(instant: &str) -> (TestDatabase, Db, mpsc::Receiver<DueJob>) {
    let database = TestDatabase::create().await;
    let (db, due) = database.open(Clock::fixed(at(instant)));
    (database, db, due)
}

/// Keys that guard nothing.
pub fn secret_keys() -> crate::secrets::SecretKeys {
    "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().expect("a constant that is well formed")
}
