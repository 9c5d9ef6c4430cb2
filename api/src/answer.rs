//! Forms of answers that several resources have. What only one resource answers stands there.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::extract::IfNoneMatch;

/// A list that is short enough to need no pages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct All<T> {
    /// The rows.
    pub(crate) data: Vec<T>,
}

/// A resource with its entity tag.
pub(crate) fn tagged(etag: String, resource: impl Serialize) -> Response {
    ([(header::ETAG, etag)], axum::Json(resource)).into_response()
}

/// A resource that was made, with its place below `/api/v1` and its entity tag.
pub(crate) fn created(place: &str, etag: String, resource: impl Serialize) -> Response {
    let location = [(header::LOCATION, format!("/api/v1/{place}"))];
    (StatusCode::CREATED, location, tagged(etag, resource)).into_response()
}

/// A resource, or 304 if the client has this version.
pub(crate) fn unless_known(known: &IfNoneMatch, etag: String, resource: impl Serialize) -> Response {
    if known.matches(&etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    tagged(etag, resource)
}
