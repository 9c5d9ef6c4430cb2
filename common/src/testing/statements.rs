//! What each request asks of the database, for tests that count it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, Once, PoisonError},
};

use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};

use crate::telemetry::Origin;

/// What request ids begin with whose statements are kept.
pub const WATCHED: &str = "watched-";

static SENT: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
static WATCHING: Once = Once::new();

/// Keeps the statements of requests whose `X-Request-Id` begins with [`WATCHED`], on connections that are opened from now
/// on.
pub fn watch() {
    WATCHING.call_once(|| {
        let instrumentation = || Some(Box::new(keep) as Box<dyn Instrumentation>);
        set_default_instrumentation(instrumentation).expect("nobody panics with it");
    });
}

/// Called where the statement is sent: in the task of the request.
fn keep(event: InstrumentationEvent<'_>) {
    let InstrumentationEvent::StartQuery { query, .. } = event else { return };
    let Some(id) = Origin::current().request_id.filter(|id| id.starts_with(WATCHED)) else { return };
    SENT.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().push(query.to_string());
}

/// The statements of a request, in their order, `BEGIN` and `COMMIT` among them.
pub fn of(request_id: &str) -> Vec<String> {
    SENT.lock().unwrap_or_else(PoisonError::into_inner).remove(request_id).unwrap_or_default()
}
