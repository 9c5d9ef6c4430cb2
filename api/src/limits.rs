//! Who may call how often: a sliding-window log, so that no window of a minute ever holds more than the limit. It is
//! kept in Redis, where all processes share it; while Redis is away each process keeps its own, so that a limit is
//! never simply gone.
//!
//! | Key | Holds | Lives |
//! |---|---|---|
//! | `tt:limit:{bucket}:{hash}` zset | the calls of the last minute, by Redis time (µs) | a minute |

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    error::{Error, Result},
    metrics,
    redis::Redis,
    secrets::Key,
};
use redis::Script;

const WINDOW: Duration = Duration::from_secs(60);
/// Callers that the local limiter remembers at most; then it forgets those whose window is over.
const REMEMBERED: usize = 10_000;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bucket {
    /// Attempts to log in to one account.
    LoginAccount,
    /// Attempts to log in from one address.
    LoginAddress,
    /// Registrations from one address.
    Register,
    /// Refreshes from one address.
    Refresh,
}

impl Bucket {
    /// Calls in any minute at most.
    fn limit(self) -> usize {
        match self {
            Self::LoginAccount => 5,
            Self::LoginAddress => 20,
            Self::Register => 20,
            Self::Refresh => 60,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::LoginAccount => "login_account",
            Self::LoginAddress => "login_address",
            Self::Register => "register",
            Self::Refresh => "refresh",
        }
    }
}

/// The limiters of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Limits {
    redis: Redis,
    key: Key,
    local: Arc<Mutex<Local>>,
}

type Local = HashMap<(Bucket, [u8; 16]), VecDeque<Instant>>;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits/take.lua")));

impl Limits {
    /// Who calls is kept as a hash under `key`.
    pub(crate) fn new(redis: Redis, key: Key) -> Self {
        Self { redis, key, local: Arc::default() }
    }

    /// Counts a call from an address.
    pub(crate) async fn take_address(&self, bucket: Bucket, address: IpAddr) -> Result<()> {
        self.take(bucket, &address.to_string()).await
    }

    /// Counts a call by `who`, or refuses it.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] with the time after which the next call is allowed.
    pub(crate) async fn take(&self, bucket: Bucket, who: &str) -> Result<()> {
        let mut hash = [0; 16];
        hash.copy_from_slice(&self.key.sign(who.as_bytes())[..16]);
        let wait = match self.take_shared(bucket, &hash).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::debug!(%error, "the limiter decides without Redis");
                metrics::rate_limiter_fell_back();
                self.take_local(bucket, hash, Instant::now())
            }
        };
        match wait {
            None => Ok(()),
            Some(retry_after) => {
                metrics::rate_limited(bucket.name());
                Err(Error::TooManyRequests { retry_after })
            }
        }
    }

    async fn take_shared(&self, bucket: Bucket, who: &[u8; 16]) -> redis::RedisResult<Option<Duration>> {
        let mut connection = self.redis.request();
        let key = self.redis.key(format_args!("limit:{}:{:032x}", bucket.name(), u128::from_be_bytes(*who)));
        let wait: u64 = TAKE
            .key(key)
            .arg(bucket.limit())
            .arg(WINDOW.as_secs() * 1_000_000)
            .invoke_async(&mut connection)
            .await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }

    fn take_local(&self, bucket: Bucket, who: [u8; 16], now: Instant) -> Option<Duration> {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.len() > REMEMBERED {
            local.retain(|_, calls| calls.back().is_some_and(|last| now.duration_since(*last) < WINDOW));
        }
        let calls = local.entry((bucket, who)).or_default();
        while calls.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            calls.pop_front();
        }
        if calls.len() < bucket.limit() {
            calls.push_back(now);
            return None;
        }
        calls.front().map(|first| WINDOW.saturating_sub(now.duration_since(*first)))
    }
}
