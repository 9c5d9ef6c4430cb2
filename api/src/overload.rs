//! What is asked while more wait than can be answered soon is refused at once, with 503 and `Retry-After`: a queue that only
//! grows makes everybody wait in vain, and costs memory. What people wait for is mostly a connection of the database, so that is
//! where they are counted (`Db::conn`); it is asked here as well, because a request that is refused before anything was done for it
//! costs least. Where the processor is what is missing, they wait before that: so all that are under way are bounded, too. Probes
//! have a port of their own.

use axum::{
    http::Uri,
    response::{IntoResponse as _, Response},
};
use common::{error::Error, metrics};

use crate::{auth::scopes::BASE, error::ApiError, state::AppState};

/// Refuses a request of the API that would have to wait behind too many. `/health` tells whether the API works, also when it has
/// much to do.
pub(crate) async fn shed(app: &AppState, uri: &Uri, work: impl Future<Output = Response>) -> Response {
    let resource = uri.path().strip_prefix(BASE);
    if resource.is_none_or(|resource| resource == "/health") {
        return work.await;
    }
    let Ok(_place) = app.under_way.try_acquire() else {
        metrics::request_shed("answer");
        return ApiError::from(Error::Overloaded).into_response();
    };
    match app.db.admit() {
        Ok(()) => work.await,
        Err(error) => ApiError::from(error).into_response(),
    }
}
