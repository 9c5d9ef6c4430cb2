//! Whether the database is there and has the schema of this build. Asked every second, said on the readiness page; the
//! other loops begin when it was so for the first time. Redis is no condition: what is due becomes a job without it.

use std::time::Duration;

use common::{
    db::{self, Db},
    health::Health,
};
use tokio::sync::watch;

use crate::rounds::Round;

const EVERY: Duration = Duration::from_secs(1);

/// The loop that asks.
pub struct Readiness {
    db: Db,
    health: Health,
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// The loop, and what becomes true when the database is ready for the first time.
    pub fn new(db: Db, health: Health) -> (Self, watch::Receiver<bool>) {
        let (ready, seen) = watch::channel(false);
        (Self { db, health, ready }, seen)
    }
}

impl Round for Readiness {
    const NAME: &'static str = "readiness";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        let problem = db::problem(&self.db).await;
        if problem.is_none() {
            self.ready.send_replace(true);
        }
        self.health.dependency("postgres", problem);
        Ok(EVERY)
    }
}
