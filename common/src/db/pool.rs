use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
};
use futures::FutureExt as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio_postgres::config::{Host, SslMode};
use url::form_urlencoded;

use super::{Tx, advice, timer::Timer};
use crate::{
    cache::Cache,
    clock::Clock,
    dispatcher::Outbox,
    error::{Error, Result},
    metrics,
};

/// A connection from the pool, for statements that need no transaction.
pub type Conn = Object<AsyncPgConnection>;

/// Limits of the pool. More connections than cores rarely help: 4 to 16 beat 64.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// Connections at most.
    pub size: usize,
    /// How long a caller waits for a free one, or for a new one, before it is told that the database is unavailable.
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
    /// How many may wait for a connection when another one comes; without it, any number.
    queue: Option<usize>,
    clock: Clock,
    outbox: Outbox,
}

impl Db {
    /// A pool that connects when it is first used, so that a process starts although the database is away.
    ///
    /// # Errors
    /// If `url` cannot be read.
    pub fn new(url: &str, options: PoolOptions, clock: Clock, outbox: Outbox) -> anyhow::Result<Self> {
        let (_, authority) = read_url(url).context("DATABASE_URL is not a PostgreSQL URL")?;
        tls_config(authority.as_deref())?;
        let session = Session::Application { statement_timeout: options.statement_timeout };
        let mut config = ManagerConfig::default();
        // A query per checkout would cost as much as many of ours; a broken connection shows at its first use.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(move |url| {
            let session = session.clone();
            async move { connect(url, &session, options.wait).await }.boxed()
        });
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(url, config);
        let pool = Pool::builder(manager)
            .max_size(options.size)
            .wait_timeout(Some(options.wait))
            .recycle_timeout(Some(options.wait))
            .runtime(deadpool::Runtime::Tokio1)
            .build()?;
        Ok(Self { pool, queue: None, clock, outbox })
    }

    /// The same pool for those who are refused at once while `most` are waiting, whoever they are.
    pub fn with_queue(&self, most: usize) -> Self {
        Self { queue: Some(most), ..self.clone() }
    }

    /// The same pool for those who may always wait: few, whose work others depend on.
    pub fn patient(&self) -> Self {
        Self { queue: None, ..self.clone() }
    }

    /// Whether one more may wait.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if as many are waiting as may.
    pub fn admit(&self) -> Result<()> {
        if self.queue.is_some_and(|most| self.waiting() >= most) {
            metrics::request_shed("database");
            return Err(Error::Overloaded);
        }
        Ok(())
    }

    /// Whether this is a URL of a database.
    pub fn can_read(url: &str) -> bool {
        read_url(url).is_ok()
    }

    /// A connection for single statements.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if as many are waiting as may, [`Error::Unavailable`] if none becomes free in time.
    pub async fn conn(&self) -> Result<Conn> {
        self.admit()?;
        Ok(self.pool.get().await?)
    }

    /// Copies of what is in it.
    pub fn cache(&self) -> Option<&Cache> {
        self.outbox.cache()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As [`Db::conn`].
    pub async fn begin(&self) -> Result<Tx> {
        Tx::begin(self.conn().await?, self.clock.clone(), self.outbox.clone())
    }

    /// The clock by which everything through this pool decides.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Closes the connections that nobody uses: what they were opened to is not what it was.
    pub(super) fn close_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Connections in use and idle.
    pub fn status(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.available)
    }

    /// How many wait for a connection.
    pub fn waiting(&self) -> usize {
        self.pool.status().waiting
    }

    /// Sets the gauges of the pool.
    pub fn observe(&self) {
        let (in_use, idle) = self.status();
        metrics::db_pool(in_use, idle, self.waiting());
    }
}

/// After so long without a sign of the peer a connection is given up.
const DEAD_PEER: Duration = Duration::from_secs(10);

/// How a connection is set up.
#[derive(Debug, Clone)]
pub(super) enum Session {
    /// Limits on every statement: nobody waits for ever, and no lock outlives its owner. A statement is planned once, and not for
    /// each of its arguments: of ours, planning costs several times what running does (`docs/performance.md`).
    Application { statement_timeout: Duration },
    /// Migrations may take their time, but wait for a lock only briefly: a queue behind them would stop everybody.
    Owner,
}

impl Session {
    /// The setting that its URL comes from.
    fn setting(&self) -> &'static str {
        match self {
            Self::Application { .. } => "DATABASE_URL",
            Self::Owner => "MIGRATE_DATABASE_URL",
        }
    }
}

/// A URL as libpq has it, of which tokio-postgres knows a part: the authority of `sslrootcert` is taken out, and whoever wants
/// the certificate checked (`verify-ca`, `verify-full`) gets `require`, which checks it here, name included.
fn read_url(url: &str) -> anyhow::Result<(tokio_postgres::Config, Option<PathBuf>)> {
    let (config, authority) = parse_url(url)?;
    // A password with an @ in it ends there for the parser, and its rest would be shown as the host.
    let names_password = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    anyhow::ensure!(
        !config.get_hosts().iter().any(names_password),
        "what is special in user and password has to be percent-encoded: @ is %40"
    );
    Ok((config, authority))
}

fn parse_url(url: &str) -> anyhow::Result<(tokio_postgres::Config, Option<PathBuf>)> {
    let Some((base, query)) = url.split_once('?') else { return Ok((url.parse()?, None)) };
    let mut authority = None;
    let mut kept = form_urlencoded::Serializer::new(String::new());
    // In such a URL a + is itself, and a space is %20.
    for (name, value) in form_urlencoded::parse(query.replace('+', "%2B").as_bytes()) {
        match (&*name, &*value) {
            ("sslrootcert", "system") => {}
            ("sslrootcert", path) => authority = Some(PathBuf::from(path)),
            ("sslmode", "verify-ca" | "verify-full") => {
                kept.append_pair("sslmode", "require");
            }
            _ => {
                kept.append_pair(&name, &value);
            }
        }
    }
    let query = kept.finish().replace('+', "%20");
    Ok((format!("{base}?{query}").parse()?, authority))
}

/// Connects within `patience`, with TLS as `sslmode` in the URL says (`disable`, `prefer`, `require`; the latter checks the
/// certificate against the usual authorities and that of `sslrootcert`). An error says where to, and what to do about it.
pub(super) async fn connect(
    url: &str,
    session: &Session,
    patience: Duration,
) -> ConnectionResult<AsyncPgConnection> {
    let bad = |error: &dyn std::fmt::Display| ConnectionError::BadConnection(error.to_string());
    let (config, authority) = read_url(url).map_err(|e| bad(&e))?;
    let opened = tokio::time::timeout(patience, open(config.clone(), authority.as_deref(), session)).await;
    let mut conn = opened.unwrap_or_else(|_| {
        Err(bad(&advice::of_silence(&config, session.setting(), patience.as_secs_f32())))
    })?;
    conn.set_instrumentation(Timer::new());
    Ok(conn)
}

async fn open(
    mut config: tokio_postgres::Config,
    authority: Option<&Path>,
    session: &Session,
) -> ConnectionResult<AsyncPgConnection> {
    let bad = |error: &dyn std::fmt::Display| ConnectionError::BadConnection(error.to_string());
    let limits = match session {
        Session::Application { statement_timeout } => format!(
            "-c statement_timeout={} -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000 -c plan_cache_mode=force_generic_plan",
            statement_timeout.as_millis()
        ),
        Session::Owner => "-c lock_timeout=10000".to_owned(),
    };
    let options = [config.get_options().unwrap_or_default(), &limits, "-c TimeZone=UTC"].join(" ");
    config.options(options);
    // A peer that acknowledges nothing is gone: its connections must not come back from the pool.
    config.tcp_user_timeout(DEAD_PEER).keepalives_idle(DEAD_PEER);
    if config.get_application_name().is_none() {
        config.application_name("tasktracker");
    }
    let failed = |error| bad(&advice::of_connection(&config, session.setting(), &error));
    if config.get_ssl_mode() == SslMode::Disable || is_local(&config) {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    } else {
        let tls = tls_config(authority).map_err(|e| bad(&format!("{e:#}")))?;
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
        let (client, connection) = config.connect(tls).await.map_err(failed)?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    }
}

/// Whether every host is a unix socket, where TLS makes no sense.
fn is_local(config: &tokio_postgres::Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

/// Trusts Mozilla's authorities, and those of a PEM file.
fn tls_config(authority: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = authority {
        let known = roots.len();
        let certificates = CertificateDer::pem_file_iter(file)
            .with_context(|| format!("sslrootcert: cannot read {}", file.display()))?;
        for certificate in certificates {
            let certificate =
                certificate.with_context(|| format!("sslrootcert: {} is not PEM", file.display()))?;
            roots.add(certificate).with_context(|| {
                format!("sslrootcert: a certificate of {} cannot be used", file.display())
            })?;
        }
        anyhow::ensure!(roots.len() > known, "sslrootcert: {} holds no certificate", file.display());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring supports the default protocol versions")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions");
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libpq_knows_of_tls_is_understood() {
        for (url, mode, authority) in [
            ("postgres://ann@db/tasks", SslMode::Prefer, None),
            ("postgres://ann@db/tasks?sslmode=disable", SslMode::Disable, None),
            ("postgres://ann@db/tasks?sslmode=verify-full", SslMode::Require, None),
            (
                "postgres://ann@db/tasks?sslmode=verify-ca&sslrootcert=/a%20b.pem",
                SslMode::Require,
                Some("/a b.pem"),
            ),
            (
                "postgres://ann@db/tasks?sslrootcert=/a+b.pem&sslmode=require",
                SslMode::Require,
                Some("/a+b.pem"),
            ),
            ("postgres://ann@db/tasks?sslmode=require&sslrootcert=system", SslMode::Require, None),
        ] {
            let (config, found) = read_url(url).unwrap();
            assert_eq!((config.get_ssl_mode(), found.as_deref()), (mode, authority.map(Path::new)), "{url}");
            assert_eq!((config.get_user(), config.get_dbname()), (Some("ann"), Some("tasks")));
        }
        let (config, _) =
            read_url("postgres://ann@%2Ftmp%2Fa/tasks?options=-c%20a%3D1%20-c%20b%3D+&sslmode=disable")
                .unwrap();
        assert_eq!(config.get_options(), Some("-c a=1 -c b=+"));
        assert!(read_url("postgres://ann@db/tasks?sslmode=perhaps").is_err());
        let error = read_url("postgres://ann:p@ss@db/tasks").unwrap_err().to_string();
        assert!(error.contains("percent-encoded") && !error.contains("ss@db"), "{error}");
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_named() {
        let error = |file: &str| format!("{:#}", tls_config(Some(Path::new(file))).unwrap_err());
        assert!(error("/nowhere/ca.pem").contains("sslrootcert: cannot read /nowhere/ca.pem"));
        assert!(error(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).contains("holds no certificate"));
    }
}
