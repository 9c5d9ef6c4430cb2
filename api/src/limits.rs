//! Who may call how often: a sliding-window log, so that no window, mostly a minute, ever holds more than the limit. It is
//! kept in Redis, where all processes share it. Each process keeps its own as well, and both have to agree: so a
//! limit is never simply gone while Redis is away, nor begun anew each time Redis misses its budget.
//!
//! | Key | Holds | Lives |
//! |---|---|---|
//! | `tt:limit:{bucket}:{hash}` zset | the calls of the last window, by Redis time (µs) | a window |

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
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
    /// Links of account mails, asked for or followed from one address.
    Link,
    /// Daily summaries that one person asks for.
    Digest,
}

impl Bucket {
    /// Calls in any window at most.
    fn limit(self) -> usize {
        match self {
            Self::LoginAccount => 5,
            Self::LoginAddress => 20,
            Self::Register => 20,
            Self::Refresh => 60,
            Self::Link => 10,
            Self::Digest => 5,
        }
    }

    /// How long a call counts.
    fn window(self) -> Duration {
        match self {
            Self::Digest => Duration::from_secs(3600),
            _ => WINDOW,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::LoginAccount => "login_account",
            Self::LoginAddress => "login_address",
            Self::Register => "register",
            Self::Refresh => "refresh",
            Self::Link => "link",
            Self::Digest => "digest",
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

/// A bucket, and a hash of who calls.
type Caller = (Bucket, [u8; 16]);

/// The calls that this process let through in the last window, by Redis's leave or without it.
#[derive(Default)]
struct Local(HashMap<Caller, VecDeque<Instant>>);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits/take.lua")));

impl Limits {
    /// Who calls is kept as a hash under `key`.
    pub(crate) fn new(redis: Redis, key: Key) -> Self {
        Self { redis, key, local: Arc::default() }
    }

    /// Counts a call from an address. One customer of a provider has a whole /64 of IPv6 (RFC 6177), so that counts
    /// as one.
    pub(crate) async fn take_address(&self, bucket: Bucket, address: IpAddr) -> Result<()> {
        let who = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).to_string(),
        };
        self.take(bucket, &who).await
    }

    /// Counts a call by `who`, or refuses it.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] with the time after which the next call is allowed.
    pub(crate) async fn take(&self, bucket: Bucket, who: &str) -> Result<()> {
        let mut hash = [0; 16];
        hash.copy_from_slice(&self.key.sign(who.as_bytes())[..16]);
        let (caller, now) = ((bucket, hash), Instant::now());
        let taken = self.local().take(caller, now);
        let wait = match taken {
            Some(wait) => Some(wait),
            None => match self.take_shared(bucket, &hash).await {
                Ok(None) => None,
                Ok(Some(wait)) => {
                    self.local().give_back(caller, now);
                    Some(wait)
                }
                Err(error) => {
                    tracing::debug!(%error, "the limiter decides without Redis");
                    metrics::rate_limiter_fell_back();
                    None
                }
            },
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
            .arg(bucket.window().as_secs() * 1_000_000)
            .invoke_async(&mut connection)
            .await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    /// Counts a call, or answers after how long one will be.
    fn take(&mut self, caller: Caller, now: Instant) -> Option<Duration> {
        if self.0.len() > REMEMBERED {
            self.0.retain(|caller, calls| {
                calls.back().is_some_and(|last| now.duration_since(*last) < caller.0.window())
            });
        }
        let window = caller.0.window();
        let calls = self.0.entry(caller).or_default();
        while calls.front().is_some_and(|first| now.duration_since(*first) >= window) {
            calls.pop_front();
        }
        if calls.len() < caller.0.limit() {
            calls.push_back(now);
            return None;
        }
        calls.front().map(|first| window.saturating_sub(now.duration_since(*first)))
    }

    /// The call that was counted at `now` did not happen: Redis refused it.
    fn give_back(&mut self, caller: Caller, now: Instant) {
        let Some(calls) = self.0.get_mut(&caller) else { return };
        if let Some(position) = calls.iter().rposition(|call| *call == now) {
            calls.remove(position);
        }
        if calls.is_empty() {
            self.0.remove(&caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{
        secrets::{Purpose, SecretKeys},
        testing::setting,
    };

    use super::*;

    #[tokio::test]
    async fn a_limit_holds_when_redis_goes_away_and_comes_back() {
        let keys: SecretKeys = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
        let key = keys.derive(Purpose::IpHash).remove(0);
        let prefix = format!("test:{}", uuid::Uuid::now_v7());
        let redis = Redis::new(&setting("TEST_REDIS_URL"), &prefix).unwrap();
        let up = Limits::new(redis, key);
        let down = Limits { redis: Redis::new("redis://127.0.0.1:1", &prefix).unwrap(), ..up.clone() };
        for limits in [&up, &up, &down, &down, &up] {
            limits.take(Bucket::LoginAccount, "ann").await.unwrap();
        }
        for limits in [&down, &up] {
            assert!(matches!(
                limits.take(Bucket::LoginAccount, "ann").await,
                Err(Error::TooManyRequests { retry_after }) if retry_after <= WINDOW && !retry_after.is_zero()
            ));
            limits.take(Bucket::LoginAccount, "bob").await.unwrap();
        }
    }

    #[test]
    fn a_call_that_was_given_back_is_not_counted() {
        let (mut local, caller, now) = (Local::default(), (Bucket::LoginAccount, [0; 16]), Instant::now());
        let limit = Bucket::LoginAccount.limit();
        for _ in 0..=limit {
            assert_eq!(local.take(caller, now), None);
            local.give_back(caller, now);
        }
        assert!(local.0.is_empty(), "nobody is remembered for what was refused");
        for _ in 0..limit {
            assert_eq!(local.take(caller, now), None);
        }
        assert_eq!(local.take(caller, now), Some(WINDOW));
        assert_eq!(local.take(caller, now + WINDOW), None, "the window has moved on");
    }
}
