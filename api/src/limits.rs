//! Who may call how often: a sliding-window log, so that no window, mostly a minute, ever holds more than the limit. It is
//! kept in Redis, where all processes share it. Each process keeps its own as well, and both have to agree: so a
//! limit is never simply gone while Redis is away, nor begun anew each time Redis misses its budget.
//!
//! | Key | Holds | Lives |
//! |---|---|---|
//! | `tt:limit:{bucket}:{hash}` zset | the calls of the last window, by Redis time (µs) | a window |

mod local;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use common::{
    error::{Error, Result},
    ids::UserId,
    metrics,
    redis::Redis,
    secrets::Key,
};
use redis::Script;

use crate::error::seconds;
use local::Local;

const WINDOW: Duration = Duration::from_secs(60);
/// An address may stand for several people, so it has more than one of them (design §5).
const PEOPLE_PER_ADDRESS: usize = 6;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bucket {
    /// Every request from one address.
    Address,
    /// Every request of one person, by whichever of their tokens.
    User,
    /// Attempts to log in to one account.
    LoginAccount,
    /// Attempts to log in from one address.
    LoginAddress,
    /// Attempts to name one's present password.
    Password,
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
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::User => "default",
            Self::LoginAccount => "login_account",
            Self::LoginAddress => "login_address",
            Self::Password => "password",
            Self::Register => "register",
            Self::Refresh => "refresh",
            Self::Link => "link",
            Self::Digest => "digest",
        }
    }
}

/// How many calls a window may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    limit: usize,
    window: Duration,
}

/// How somebody stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    /// After how long the next call is let through, if this one was not.
    wait: Option<Duration>,
    /// How many more there may be now.
    remaining: usize,
    /// After how long there may be one more than that.
    reset: Duration,
}

/// How a caller stands, for the headers of an answer (draft-ietf-httpapi-ratelimit-headers, and the older `X-RateLimit-…`,
/// which most clients still read).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    bucket: Bucket,
    quota: Quota,
    standing: Standing,
}

/// The limiters of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Limits {
    redis: Redis,
    key: Key,
    per_minute: usize,
    local: Arc<Mutex<Local>>,
}

/// A bucket, and a hash of who calls.
type Caller = (Bucket, [u8; 16]);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits/take.lua")));

impl Limits {
    /// Who calls is kept as a hash under `key`. A person may call `per_minute` times in a minute; with 0, requests as
    /// such are not limited, and the buckets of what can be guessed or flooded still are.
    pub(crate) fn new(redis: Redis, key: Key, per_minute: u32) -> Self {
        Self { redis, key, per_minute: per_minute as usize, local: Arc::default() }
    }

    fn quota(&self, bucket: Bucket) -> Quota {
        let per_minute = |limit| Quota { limit, window: WINDOW };
        match bucket {
            Bucket::Address => per_minute(self.per_minute * PEOPLE_PER_ADDRESS),
            Bucket::User => per_minute(self.per_minute),
            Bucket::LoginAccount | Bucket::Password => per_minute(5),
            Bucket::LoginAddress | Bucket::Register => per_minute(20),
            Bucket::Refresh => per_minute(60),
            Bucket::Link => per_minute(10),
            Bucket::Digest => Quota { limit: 5, window: Duration::from_secs(3600) },
        }
    }

    /// Counts a request from an address; `None` if requests are not limited.
    pub(crate) async fn count_address(&self, address: IpAddr) -> Option<Counted> {
        if self.per_minute == 0 {
            return None;
        }
        Some(self.count(Bucket::Address, &network(address)).await)
    }

    /// Counts a request of a person; `None` if requests are not limited.
    pub(crate) async fn count_user(&self, user: UserId) -> Option<Counted> {
        if self.per_minute == 0 {
            return None;
        }
        Some(self.count(Bucket::User, &user.to_string()).await)
    }

    /// Counts a call from an address.
    pub(crate) async fn take_address(&self, bucket: Bucket, address: IpAddr) -> Result<()> {
        self.take(bucket, &network(address)).await
    }

    /// Counts a call by `who`, or refuses it.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] with the time after which the next call is allowed.
    pub(crate) async fn take(&self, bucket: Bucket, who: &str) -> Result<()> {
        self.count(bucket, who).await.allowed()
    }

    async fn count(&self, bucket: Bucket, who: &str) -> Counted {
        let quota = self.quota(bucket);
        let standing = self.decide(bucket, quota, who).await;
        if standing.wait.is_some() {
            metrics::rate_limited(bucket.name());
        }
        Counted { bucket, quota, standing }
    }

    async fn decide(&self, bucket: Bucket, quota: Quota, who: &str) -> Standing {
        let mut hash = [0; 16];
        hash.copy_from_slice(&self.key.sign(who.as_bytes())[..16]);
        let (caller, now) = ((bucket, hash), Instant::now());
        let here = self.local().take(caller, quota, now);
        if here.wait.is_some() {
            return here;
        }
        match self.take_shared(bucket, quota, &hash).await {
            Ok(shared) => {
                if shared.wait.is_some() {
                    self.local().give_back(caller, now);
                }
                shared
            }
            Err(error) => {
                tracing::debug!(%error, "the limiter decides without Redis");
                metrics::rate_limiter_fell_back();
                here
            }
        }
    }

    async fn take_shared(
        &self,
        bucket: Bucket,
        quota: Quota,
        who: &[u8; 16],
    ) -> redis::RedisResult<Standing> {
        let mut connection = self.redis.request();
        let key = self.redis.key(format_args!("limit:{}:{:032x}", bucket.name(), u128::from_be_bytes(*who)));
        let window = u64::try_from(quota.window.as_micros()).unwrap_or(u64::MAX);
        let (wait, remaining, reset): (u64, usize, u64) =
            TAKE.key(key).arg(quota.limit).arg(window).invoke_async(&mut connection).await?;
        Ok(Standing {
            wait: (wait > 0).then(|| Duration::from_micros(wait)),
            remaining,
            reset: Duration::from_micros(reset),
        })
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: one customer of a provider has a whole /64 of IPv6 (RFC 6177).
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).to_string(),
    }
}

impl Counted {
    /// Whether the call may go on.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] with the time after which the next call is allowed.
    pub(crate) fn allowed(&self) -> Result<()> {
        match self.standing.wait {
            None => Ok(()),
            Some(retry_after) => Err(Error::TooManyRequests { retry_after }),
        }
    }

    /// Says in an answer how the caller stands.
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        let Self { bucket, quota: Quota { limit, window }, standing: Standing { remaining, reset, .. } } =
            self;
        let (name, window, reset) = (bucket.name(), window.as_secs(), seconds(*reset));
        let texts = [
            ("ratelimit-policy", format!("\"{name}\";q={limit};w={window}")),
            ("ratelimit", format!("\"{name}\";r={remaining};t={reset}")),
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", remaining.to_string()),
            ("x-ratelimit-reset", reset.to_string()),
        ];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
