//! What every handler of this process shares.

use std::{ops::Deref, sync::Arc};

use common::{
    db::Db,
    redis::Redis,
    secrets::{Key, Purpose, SecretKeys},
    shutdown::CancellationToken,
};
use tokio::sync::Semaphore;

use crate::{auth::Hashing, availability::Availability, config::Settings, limits::Limits, tokens::Tokens};

/// Requests that may be under way beside those that wait for the database.
const BESIDE_WAITING: usize = 64;

/// Cheap to clone: each request gets one.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// See [`AppState`].
pub struct Inner {
    pub(crate) db: Db,
    pub(crate) secrets: SecretKeys,
    pub(crate) settings: Settings,
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) availability: Availability,
    pub(crate) cursor_keys: Vec<Key>,
    pub(crate) ip_keys: Vec<Key>,
    /// Requests that may be under way.
    pub(crate) under_way: Semaphore,
    pub(crate) hashing: Hashing,
    /// Cancelled when the process is told to stop.
    pub(crate) stop: CancellationToken,
}

impl AppState {
    /// The state of a process with these settings, which is told to stop by `stop`.
    ///
    /// # Errors
    /// If there is no key.
    pub fn new(
        db: Db,
        redis: Redis,
        secrets: &SecretKeys,
        settings: Settings,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let ip_keys = secrets.derive(Purpose::IpHash);
        let first = ip_keys.first().cloned().ok_or_else(|| anyhow::anyhow!("SECRET_KEYS holds no key"))?;
        Ok(Self(Arc::new(Inner {
            db: db.with_queue(settings.http.max_waiting_requests.into()),
            secrets: secrets.clone(),
            tokens: Tokens::new(secrets.derive(Purpose::Jwt)),
            limits: Limits::new(redis, first, settings.http.rate_limit_per_minute),
            availability: Availability::default(),
            under_way: Semaphore::new(usize::from(settings.http.max_waiting_requests) + BESIDE_WAITING),
            settings,
            cursor_keys: secrets.derive(Purpose::Cursor),
            ip_keys,
            hashing: Hashing::start()?,
            stop,
        })))
    }
}

impl Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
