//! The connections to Redis. Commands live with what they are for: the job queue in [`crate::queue`], rate
//! limits, cache and live events in their own files. Every key in Redis may vanish at any time, so nothing
//! may be written here that is not derived from PostgreSQL.

use std::{
    fmt,
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, RedisResult,
    TlsCertificates, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use crate::health::Health;

/// Declares a script of a file beside the module that runs it; Redis is given its text once.
macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: std::sync::LazyLock<::redis::Script> =
            std::sync::LazyLock::new(|| ::redis::Script::new(include_str!($file)));
    };
}
pub(crate) use script;

/// How long the queue waits for an answer. A script takes microseconds; more than this is a stall.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// What Redis may add to a request before the request goes on without it (goals R13).
const REQUEST_BUDGET: Duration = Duration::from_millis(15);
/// How often a process looks once more for what came after that.
const LOOKS: usize = 3;
/// How long requests leave Redis alone after it failed one of them.
const BREAKER: Duration = Duration::from_secs(1);
/// How often a process looks whether Redis can be used.
const WATCH: Duration = Duration::from_secs(2);
/// A peer that acknowledges nothing for so long is gone, and the connection is opened anew.
const DEAD_PEER: Duration = Duration::from_secs(5);

/// The Redis of a process: one connection for the queue, one for the request path. Both connect lazily and
/// reconnect by themselves; while Redis is down every command fails quickly. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    prefix: Arc<str>,
    queue: Connection,
    request: Connection,
    breaker: Arc<Breaker>,
}

impl Redis {
    /// Prepares the connections to `url` (`redis://`, `rediss://` or `redis+unix://`); all keys will begin
    /// with `prefix`. Must be called in a Tokio runtime. Does not wait for Redis.
    ///
    /// # Errors
    /// If `url` cannot be understood; never because Redis is down.
    pub fn new(url: &str, prefix: &str) -> RedisResult<Self> {
        Self::trusting(url, prefix, None)
    }

    /// The same for a server (`rediss://`) whose certificate is of an authority of its own, and not of Mozilla's.
    ///
    /// # Errors
    /// Also if `authority` is not PEM.
    pub fn trusting(url: &str, prefix: &str, authority: Option<Vec<u8>>) -> RedisResult<Self> {
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(DEAD_PEER);
        let info = url.into_connection_info()?.set_tcp_settings(tcp);
        let client = match authority {
            Some(pem) => {
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem) })?
            }
            None => Client::open(info)?,
        };
        let redis = Self {
            queue: Connection::new(&client, QUEUE_TIMEOUT)?,
            request: Connection::new(&client, Duration::from_secs(1))?,
            breaker: Arc::default(),
            prefix: prefix.into(),
            client,
        };
        tokio::spawn(probe(redis.request.clone()));
        Ok(redis)
    }

    /// Whether this is a URL of a Redis.
    pub fn can_read(url: &str) -> bool {
        url.into_connection_info().is_ok()
    }

    /// `{prefix}:{rest}`, the form of every key.
    #[must_use]
    pub fn key(&self, rest: impl fmt::Display) -> String {
        format!("{}:{rest}", self.prefix)
    }

    /// The connection for work that waits for Redis: an answer may take 5 s.
    #[must_use]
    pub fn queue(&self) -> Connection {
        self.queue.clone()
    }

    /// The connection for the request path: a command that takes longer than 15 ms fails, and for the next
    /// second all fail at once. The caller then goes on without Redis.
    #[must_use]
    pub fn request(&self) -> RequestConnection {
        RequestConnection { inner: self.request.clone(), breaker: self.breaker.clone() }
    }

    /// A new connection that receives published messages. It ends when Redis goes away.
    ///
    /// # Errors
    /// If Redis cannot be reached within a second.
    pub async fn pubsub(&self) -> RedisResult<redis::aio::PubSub> {
        within(Duration::from_secs(1), self.client.get_async_pubsub()).await
    }

    /// Why Redis cannot be used, where it should be and what to do about it; `None` if it answers within a second.
    pub async fn problem(&self) -> Option<String> {
        if self.is_up().await {
            return None;
        }
        // A connection that comes back by itself says no more than that it is away. A new one says why.
        let asked = async {
            let mut fresh = self.client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async::<()>(&mut fresh).await
        };
        within(Duration::from_secs(1), asked).await.err().map(|error| trouble(&self.client, &error))
    }

    /// Says as long as the process lives when Redis cannot be used, and why: in the log and on the readiness page. It is no reason
    /// not to be ready, for requests go on and jobs wait in PostgreSQL.
    pub async fn watch(self, health: Health) {
        let mut every = tokio::time::interval(WATCH);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            health.remark("redis", self.problem().await);
        }
    }

    /// Whether Redis answers within a second: the gauge `redis_up`.
    pub async fn is_up(&self) -> bool {
        let mut queue = self.queue.clone();
        let ping = redis::cmd("PING");
        within(Duration::from_secs(1), ping.query_async::<()>(&mut queue)).await.is_ok()
    }
}

impl fmt::Debug for Redis {
    /// The address holds a password, so it is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A connection that comes back by itself, whatever was the matter. A [`ConnectionManager`] does so after an I/O error alone: one that
/// was refused once, for its password or because the server was loading its data, would stay refused for as long as the process lives.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    timeout: Duration,
    manager: Arc<RwLock<ConnectionManager>>,
}

impl Connection {
    fn new(client: &Client, timeout: Duration) -> RedisResult<Self> {
        let manager = Arc::new(RwLock::new(lazy(client, timeout)?));
        Ok(Self { client: client.clone(), timeout, manager })
    }

    /// A poisoned lock still holds a manager.
    fn manager(&self) -> ConnectionManager {
        self.manager.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a command brought; if that was a refusal, the next one begins anew.
    fn renewed<T>(&self, result: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &result
            && is_refusal(error)
            && let Ok(fresh) = lazy(&self.client, self.timeout)
        {
            *self.manager.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        result
    }

    async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let result = self.manager().send_packed_command(cmd).await;
        self.renewed(result)
    }

    async fn send_all(&self, pipeline: &Pipeline, offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        let result = self.manager().send_packed_commands(pipeline, offset, count).await;
        self.renewed(result)
    }
}

fn lazy(client: &Client, timeout: Duration) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(timeout))
        // The caller decides when to try again: waiting here would hide that Redis is down.
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.send_all(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The connection of [`Redis::request`]; commands, pipelines and scripts run on it as on any other.
#[derive(Clone)]
pub struct RequestConnection {
    inner: Connection,
    breaker: Arc<Breaker>,
}

impl RequestConnection {
    async fn guard<T>(
        breaker: &Breaker,
        probe_with: Connection,
        command: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        if breaker.is_open() {
            return Err((ErrorKind::Io, "Redis failed within the last second").into());
        }
        let result = in_budget(command).await;
        if result.as_ref().is_err_and(is_no_connection) && breaker.open() {
            // A request gives up before the connection manager can see that its connection is dead (or, at
            // the first use, before a TLS handshake is over). This one waits long enough.
            tokio::spawn(probe(probe_with));
        }
        result
    }
}

impl ConnectionLike for RequestConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let probe_with = self.inner.clone();
        Box::pin(Self::guard(&self.breaker, probe_with, self.inner.send(cmd)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let probe_with = self.inner.clone();
        let commands = self.inner.send_all(pipeline, offset, count);
        Box::pin(Self::guard(&self.breaker, probe_with, commands))
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

impl fmt::Debug for RequestConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestConnection").finish_non_exhaustive()
    }
}

/// Open (failing fast) until a moment, in milliseconds since the breaker was made.
struct Breaker {
    made: Instant,
    open_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { made: Instant::now(), open_until: AtomicU64::new(0) }
    }
}

impl Breaker {
    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_open(&self) -> bool {
        self.now() < self.open_until.load(Ordering::Relaxed)
    }

    /// Opens it; true for the one caller that did.
    fn open(&self) -> bool {
        let (now, until) = (self.now(), self.open_until.load(Ordering::Relaxed));
        let later = now.saturating_add(u64::try_from(BREAKER.as_millis()).unwrap_or(u64::MAX));
        now >= until
            && self.open_until.compare_exchange(until, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Whether an error says that there is no connection, and not what became of a command.
fn is_no_connection(error: &RedisError) -> bool {
    error.is_io_error() || is_refusal(error)
}

/// Whether a server answered that it does not take the connection, now or at all.
fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "LOADING"))
}

/// Why a Redis cannot be used, where it should be, and what to do about it. The address holds no password.
fn trouble(client: &Client, error: &RedisError) -> String {
    let to_do = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "correct user and password in REDIS_URL"
        }
        (_, Some("NOPERM")) => {
            "the user that REDIS_URL names has to be allowed all commands on our keys and channels"
        }
        (ErrorKind::Io, _) if error.to_string().contains("certificate") => {
            "its certificate has to be good for the host that REDIS_URL names, and vouched for by a public authority or one of \
             REDIS_CA_FILE"
        }
        (ErrorKind::Io, _) => "see that it runs there, and that host and port in REDIS_URL are right",
        _ => "look at its log",
    };
    format!("no use of Redis at {}: {error}; {to_do}", client.get_connection_info().addr())
}

/// Drives a connection until it answers or has failed for good, so that the manager replaces it.
async fn probe(mut connection: Connection) {
    if let Err(error) = redis::cmd("PING").query_async::<()>(&mut connection).await {
        tracing::warn!(%error, "Redis does not answer: requests go on without it");
    }
}

/// What came of a command within [`REQUEST_BUDGET`]. A process that was too busy to look at what came does so before it takes that for
/// silence.
async fn in_budget<T>(command: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let mut command = pin!(command);
    if let Ok(result) = tokio::time::timeout(REQUEST_BUDGET, &mut command).await {
        return result;
    }
    for _ in 0..LOOKS {
        // Everybody else's turn comes first: among them who reads the connection, and who hands on what was read.
        tokio::task::yield_now().await;
        if let Some(result) = (&mut command).now_or_never() {
            return result;
        }
    }
    Err(silence())
}

async fn within<T>(limit: Duration, command: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(limit, command).await.unwrap_or_else(|_| Err(silence()))
}

fn silence() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests;
