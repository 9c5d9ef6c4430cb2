//! What every job is given. Only what several kinds need belongs here; what one of them needs, it makes.

use common::{db::Db, redis::Redis};

/// What a job works with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// PostgreSQL. Do not hold a connection while waiting for somebody else.
    pub db: Db,
    /// Redis, for the queue.
    pub redis: Redis,
}
