//! What is asked while more wait than can be answered soon is refused at once, with 503 and `Retry-After`: a queue that only
//! grows makes everybody wait in vain, and costs memory. What people wait for is mostly a connection of the database, so that is
//! where they are counted (`Db::conn`); it is asked here as well, because a request that is refused before anything was done for it
//! costs least. Only what is mostly answered from a copy goes on: a refusal would cost as much. Where the processor is what is
//! missing, they wait before that: so all that are under way are bounded, too. Probes have a port of their own.

use axum::{
    extract::{MatchedPath, Request},
    response::{IntoResponse as _, Response},
};
use common::{error::Error, metrics};

use crate::{auth::scopes::BASE, error::ApiError, state::AppState};

/// What a request is refused for the lack of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: pages, and `/health`, which tells whether the API works, also when it has much to do.
    Nothing,
    /// A place among those that are under way.
    Place,
    /// That, and soon a connection of the database.
    Database,
}

impl Needs {
    pub(crate) fn of(request: &Request) -> Self {
        let Some(resource) = request.uri().path().strip_prefix(BASE) else { return Self::Nothing };
        let template = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        match template.strip_prefix(BASE) {
            _ if resource == "/health" => Self::Nothing,
            Some("/tasks/{id}") if request.method().is_safe() => Self::Place,
            _ => Self::Database,
        }
    }
}

/// Refuses a request that would have to wait behind too many.
pub(crate) async fn shed(app: &AppState, needs: Needs, work: impl Future<Output = Response>) -> Response {
    if needs == Needs::Nothing {
        return work.await;
    }
    let Ok(_place) = app.under_way.try_acquire() else {
        metrics::request_shed("answer");
        return ApiError::from(Error::Overloaded).into_response();
    };
    if needs == Needs::Database
        && let Err(error) = app.db.admit()
    {
        return ApiError::from(error).into_response();
    }
    work.await
}
