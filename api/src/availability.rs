//! Whether PostgreSQL answers at all: found out beside the requests, on a connection of its own, so that a busy pool is not
//! taken for a database that is away. Without it a request that waits for an answer which never comes would wait for the time
//! limit of all requests, and hold its connection as long.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse as _, Response};
use common::{
    db::{Db, RunQueryDsl as _, sql},
    error::{Error, Result},
};
use tokio::sync::watch;

use crate::{error::ApiError, state::AppState};

/// How often it is asked.
const EVERY: Duration = Duration::from_millis(500);
/// A database that has not answered so small a question for so long is away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Availability(Arc<watch::Sender<bool>>);

impl Default for Availability {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }
}

impl Availability {
    /// Asks through `db`, which nobody else uses, as long as the process lives.
    pub(crate) async fn watch(self, db: Db) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let answers = matches!(tokio::time::timeout(PATIENCE, ask(&db)).await, Ok(Ok(())));
            self.0.send_if_modified(|before| std::mem::replace(before, answers) != answers);
        }
    }

    /// Ends when the database is away, or at once if it is.
    async fn lost(&self) {
        let mut known = self.0.subscribe();
        // The sender lives as long as this.
        let _ = known.wait_for(|answers| !answers).await;
    }
}

async fn ask(db: &Db) -> Result<()> {
    sql!("SELECT").execute(&mut db.conn().await?).await?;
    Ok(())
}

/// Answers 503 for what waits for a database that is away. What needs none is answered all the same; what was being changed is
/// rolled back.
pub(crate) async fn guard(app: &AppState, work: impl Future<Output = Response>) -> Response {
    tokio::select! {
        biased;
        response = work => response,
        () = app.availability.lost() => {
            ApiError::from(Error::Unavailable(anyhow::anyhow!("PostgreSQL does not answer"))).into_response()
        }
    }
}
