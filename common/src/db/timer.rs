use std::time::Instant;

use ::metrics::Histogram;
use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};

use crate::metrics;

/// Measures the statements of a connection. PostgreSQL runs those that are sent together one after the other, so each counts from
/// when it was sent, or from the answer to the one before.
pub(super) struct Timer {
    since: Instant,
    took: Histogram,
    /// Of a test that counts statements.
    watcher: Option<Box<dyn Instrumentation>>,
}

impl Timer {
    pub(super) fn new() -> Self {
        let watcher = get_default_instrumentation();
        Self { since: Instant::now(), took: metrics::db_query_duration(), watcher }
    }
}

impl Instrumentation for Timer {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.since = Instant::now(),
            InstrumentationEvent::FinishQuery { .. } => {
                let now = Instant::now();
                self.took.record(now.duration_since(self.since));
                self.since = now;
            }
            _ => {}
        }
        if let Some(watcher) = &mut self.watcher {
            watcher.on_connection_event(event);
        }
    }
}
