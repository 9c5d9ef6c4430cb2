//! What every handler of this process shares.

use std::{ops::Deref, sync::Arc};

use common::{
    db::Db,
    redis::Redis,
    secrets::{Key, Purpose, SecretKeys},
};
use tokio::sync::Semaphore;

use crate::{availability::Availability, config::Settings, limits::Limits, tokens::Tokens};

/// Passwords that are hashed at the same time.
const HASHES_AT_ONCE: usize = 2;

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
    pub(crate) hashing: Arc<Semaphore>,
}

impl AppState {
    /// The state of a process with these settings.
    ///
    /// # Errors
    /// If there is no key.
    pub fn new(db: Db, redis: Redis, secrets: &SecretKeys, settings: Settings) -> anyhow::Result<Self> {
        let ip_keys = secrets.derive(Purpose::IpHash);
        let first = ip_keys.first().cloned().ok_or_else(|| anyhow::anyhow!("SECRET_KEYS holds no key"))?;
        Ok(Self(Arc::new(Inner {
            db,
            secrets: secrets.clone(),
            tokens: Tokens::new(secrets.derive(Purpose::Jwt)),
            limits: Limits::new(redis, first, settings.http.rate_limit_per_minute),
            availability: Availability::default(),
            settings,
            cursor_keys: secrets.derive(Purpose::Cursor),
            ip_keys,
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
        })))
    }
}

impl Deref for AppState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
