//! Forms of answers that several resources have. What only one resource answers stands there.

use axum::{
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use common::{
    access::Versioned,
    page::Page,
    tasks::{TaskPage, TaskPageInfo},
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

/// A page of a list. The head of the answer says where the next one is, too.
#[derive(Debug)]
pub(crate) struct Paged<T>(pub(crate) T);

/// The parameter that leads to the next page, as an extension of an answer.
#[derive(Debug, Clone)]
struct NextPage {
    name: &'static str,
    value: String,
}

impl<T: Serialize> IntoResponse for Paged<Page<T>> {
    fn into_response(self) -> Response {
        let next = self.0.page.next_cursor.clone().map(|value| NextPage { name: "cursor", value });
        (next.map(axum::Extension), axum::Json(self.0)).into_response()
    }
}

impl IntoResponse for Paged<TaskPage> {
    fn into_response(self) -> Response {
        let next = match &self.0.page {
            TaskPageInfo::Cursor(page) => {
                page.next_cursor.clone().map(|value| NextPage { name: "cursor", value })
            }
            TaskPageInfo::Number(page) => {
                let next = i64::from(page.number) + 1;
                (next <= page.total_pages).then(|| NextPage { name: "page", value: next.to_string() })
            }
        };
        (next.map(axum::Extension), axum::Json(self.0)).into_response()
    }
}

/// Says where the next page is: `Link: <…>; rel="next"` (RFC 8288 §3).
pub(crate) fn link_next(mut response: Response, uri: &Uri) -> Response {
    if let Some(NextPage { name, value }) = response.extensions_mut().remove() {
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query.filter(|(other, _)| other != name))
            .append_pair(name, &value)
            .finish();
        let link = format!("<{}?{query}>; rel=\"next\"", uri.path());
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

/// A resource with its entity tag.
pub(crate) fn tagged(resource: impl Versioned + Serialize) -> Response {
    ([(header::ETAG, resource.etag())], axum::Json(resource)).into_response()
}

/// A resource that was made, with its entity tag and its place below `/api/v1`.
pub(crate) fn created(place: String, resource: impl Versioned + Serialize) -> Response {
    let location = [(header::LOCATION, format!("/api/v1/{place}"))];
    (StatusCode::CREATED, location, tagged(resource)).into_response()
}

/// A resource, or 304 if the client has this version.
pub(crate) fn unless_known(known: &IfNoneMatch, resource: impl Versioned + Serialize) -> Response {
    let etag = resource.etag();
    unless_tagged(known, etag, axum::Json(resource))
}

/// A body with its entity tag, or 304 if the client has this one.
pub(crate) fn unless_tagged(known: &IfNoneMatch, etag: String, body: impl IntoResponse) -> Response {
    if known.matches(&etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag)], body).into_response()
}
