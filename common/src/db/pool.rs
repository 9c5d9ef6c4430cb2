use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{
    AsyncPgConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
};
use futures::FutureExt as _;
use tokio_postgres::config::SslMode;

use super::Tx;
use crate::{clock::Clock, dispatcher::Outbox, error::Result, metrics};

/// A connection from the pool, for statements that need no transaction.
pub type Conn = Object<AsyncPgConnection>;

/// Limits of the pool. More connections than cores rarely help: 4 to 16 beat 64.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// Connections at most.
    pub size: usize,
    /// How long a caller waits for a free one before it is told that the database is unavailable.
    pub wait: Duration,
    /// `statement_timeout` of each connection.
    pub statement_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { size: 10, wait: Duration::from_secs(2), statement_timeout: Duration::from_secs(10) }
    }
}

/// The database, as one of its two roles sees it. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    clock: Clock,
    outbox: Outbox,
}

impl Db {
    /// A pool that connects when it is first used, so that a process starts although the database is away.
    ///
    /// # Errors
    /// If `url` cannot be read.
    pub fn new(url: &str, options: PoolOptions, clock: Clock, outbox: Outbox) -> anyhow::Result<Self> {
        url.parse::<tokio_postgres::Config>().context("DATABASE_URL is not a PostgreSQL URL")?;
        let session = Session::Application { statement_timeout: options.statement_timeout };
        let mut config = ManagerConfig::default();
        // A query per checkout would cost as much as many of ours; a broken connection shows at its first use.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(move |url| {
            let session = session.clone();
            async move { connect(url, &session).await }.boxed()
        });
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(url, config);
        let pool = Pool::builder(manager)
            .max_size(options.size)
            .wait_timeout(Some(options.wait))
            .create_timeout(Some(options.wait))
            .recycle_timeout(Some(options.wait))
            .runtime(deadpool::Runtime::Tokio1)
            .build()?;
        Ok(Self { pool, clock, outbox })
    }

    /// A connection for single statements.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) if none becomes free in time.
    pub async fn conn(&self) -> Result<Conn> {
        Ok(self.pool.get().await?)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As [`Db::conn`].
    pub async fn begin(&self) -> Result<Tx> {
        Tx::begin(self.conn().await?, self.clock.clone(), self.outbox.clone()).await
    }

    /// The clock by which everything through this pool decides.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Connections in use and idle.
    pub fn status(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.available)
    }

    /// Sets the gauges of the pool.
    pub fn observe(&self) {
        let (in_use, idle) = self.status();
        metrics::db_pool(in_use, idle, self.pool.status().waiting);
    }
}

/// After so long without a sign of the peer a connection is given up.
const DEAD_PEER: Duration = Duration::from_secs(10);

/// How a connection is set up.
#[derive(Debug, Clone)]
pub(super) enum Session {
    /// Limits on every statement: nobody waits for ever, and no lock outlives its owner.
    Application { statement_timeout: Duration },
    /// Migrations may take their time, but wait for a lock only briefly: a queue behind them would stop everybody.
    Owner,
}

/// Connects, with TLS as `sslmode` in the URL says (`disable`, `prefer`, `require`; the latter checks the
/// certificate against the usual authorities).
pub(super) async fn connect(url: &str, session: &Session) -> ConnectionResult<AsyncPgConnection> {
    let bad = |error: &dyn std::fmt::Display| ConnectionError::BadConnection(error.to_string());
    let mut config: tokio_postgres::Config = url.parse().map_err(|e: tokio_postgres::Error| bad(&e))?;
    let limits = match session {
        Session::Application { statement_timeout } => format!(
            "-c statement_timeout={} -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000",
            statement_timeout.as_millis()
        ),
        Session::Owner => "-c lock_timeout=10000".to_owned(),
    };
    let options = [config.get_options().unwrap_or_default(), &limits, "-c TimeZone=UTC"].join(" ");
    config.options(options);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(3));
    }
    // A peer that acknowledges nothing is gone: its connections must not come back from the pool.
    config.tcp_user_timeout(DEAD_PEER).keepalives_idle(DEAD_PEER);
    if config.get_application_name().is_none() {
        config.application_name("tasktracker");
    }
    if config.get_ssl_mode() == SslMode::Disable || is_local(&config) {
        let (client, connection) =
            config.connect(tokio_postgres::NoTls).await.map_err(|e| bad(&report(&e)))?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    } else {
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls_config());
        let (client, connection) = config.connect(tls).await.map_err(|e| bad(&report(&e)))?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    }
}

/// Whether every host is a unix socket, where TLS makes no sense.
fn is_local(config: &tokio_postgres::Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, tokio_postgres::config::Host::Unix(_)))
}

fn tls_config() -> rustls::ClientConfig {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring supports the default protocol versions")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// An error with its causes: tokio-postgres keeps what matters in the source.
fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
