//! What surrounds every request: its id and trace, its span and its metrics, its end although the client has left, its
//! panics. Nothing that only one resource needs.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use common::{
    error::{Code, Error},
    metrics,
    telemetry::Origin,
};
use futures::FutureExt as _;
use tower_http::cors::CorsLayer;
use tracing::Instrument as _;

use crate::error::{ApiError, Problem, Shed};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// No request takes longer: what it changed is rolled back. Statements are stopped by the database long before.
const TIME_LIMIT: Duration = Duration::from_secs(30);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What was done with tasks, as an extension of the answer to it. It is counted when that is on its way: what was refused or
/// undone has none, and neither has the answer to an earlier request.
#[derive(Debug, Clone)]
pub(crate) struct TaskOperations(pub(crate) Vec<&'static str>);

/// One [`TaskOperations`], as a part of an answer.
pub(crate) fn did(operation: &'static str) -> Extension<TaskOperations> {
    Extension(TaskOperations(vec![operation]))
}

/// Gives the request its [`Origin`], its span and its metrics, and the answer its common headers. A change runs in a task of its
/// own, which ends although the client has left: what was begun is finished or refused as a whole.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let uri = request.uri().clone();
    // The template, never the path: that may carry a token.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let origin =
        Origin::of_headers(text(request.headers(), &REQUEST_ID), text(request.headers(), &TRACEPARENT));
    let request_id = origin.request_id.clone().unwrap_or_default();
    let span = tracing::info_span!("request", request_id, http.method = %method, http.route = route,
        traceparent = origin.traceparent);

    let work = origin.scope(next.run(request)).instrument(span.clone());
    let mut response = if method.is_safe() {
        work.await
    } else {
        match tokio::spawn(work).await {
            Ok(response) => response,
            Err(error) => ApiError::from(Error::Internal(anyhow::Error::new(error))).into_response(),
        }
    };

    let status = response.status();
    metrics::http_request(method_label(&method), route, status.as_u16(), started.elapsed());
    if let Some(TaskOperations(operations)) = response.extensions_mut().remove() {
        operations.into_iter().for_each(metrics::task_operation);
    }
    let took_ms = started.elapsed().as_secs_f64() * 1000.0;
    if response.extensions_mut().remove::<Shed>().is_some() {
        tracing::debug!(parent: &span, http.status = status.as_u16(), took_ms, "refused");
    } else {
        tracing::info!(parent: &span, http.status = status.as_u16(), took_ms, "answered");
    }
    secure(response.headers_mut(), &uri);
    if let Ok(value) = HeaderValue::try_from(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Anybody may send any word as a method; a label takes only those that mean something.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// Answers 503 for work that does not come to an end.
pub(crate) async fn time_limit(work: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(TIME_LIMIT, work).await.unwrap_or_else(|_| {
        let error = anyhow::anyhow!("no answer within {} s", TIME_LIMIT.as_secs());
        ApiError::from(Error::Unavailable(error)).into_response()
    })
}

/// Answers 500 for work that panics: a defect of ours.
pub(crate) async fn catch_panic(work: impl Future<Output = Response>) -> Response {
    // What a panic leaves half done is not used again: a transaction is rolled back, a lock that was poisoned holds whole values.
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
    Problem::new(Code::Internal, Code::Internal.help(), Vec::new()).into_response()
}

/// The page at `/docs` is Swagger UI, which runs its own scripts and styles itself as it goes.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; \
                           frame-ancestors 'none'";

/// Headers for every answer: nothing is sniffed, framed or run that was not meant to be, no path leaks to other sites, and
/// what is not said to be otherwise is asked for again. `Strict-Transport-Security` is up to what terminates TLS.
fn secure(headers: &mut HeaderMap, uri: &Uri) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let is_docs = uri.path().starts_with("/docs");
        let policy = if is_docs { DOCS_POLICY } else { "default-src 'none'; frame-ancestors 'none'" };
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
}

/// Lets the scripts of these pages use the API (Fetch §3.2). Credentials are never a browser's own here, so none are
/// allowed.
pub(crate) fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let named = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(named(&[
            "authorization",
            "content-type",
            "idempotency-key",
            "if-match",
            "if-none-match",
            "traceparent",
            "x-request-id",
        ]))
        .expose_headers(named(&[
            "etag",
            "idempotency-replayed",
            "link",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "x-request-id",
        ]))
        .max_age(Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::to_bytes, http::StatusCode, middleware::from_fn, routing::get};
    use tower::{ServiceBuilder, ServiceExt as _};

    use super::*;

    async fn answer(path: &str) -> (StatusCode, HeaderMap, serde_json::Value) {
        let routes = Router::new()
            .route(
                "/panics",
                get(async || -> &'static str { panic!("a defect") })
                    .post(async || -> &'static str { panic!() }),
            )
            .route("/hangs", get(std::future::pending::<&'static str>))
            .layer(ServiceBuilder::new().layer(from_fn(observe)).layer(from_fn(
                async |request, next: Next| catch_panic(time_limit(next.run(request))).await,
            )));
        let (method, path) = path.split_once(' ').unwrap();
        let request = axum::http::Request::builder().method(method).uri(path).header("x-request-id", "abc-1");
        let response = routes.oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = serde_json::from_slice(&to_bytes(body, usize::MAX).await.unwrap()).unwrap();
        (parts.status, parts.headers, body)
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_a_problem_of_this_request() {
        for request in ["GET /panics", "POST /panics"] {
            let (status, headers, problem) = answer(request).await;
            assert_eq!((status.as_u16(), problem["code"].as_str()), (500, Some("internal")), "{request}");
            assert_eq!(
                (&headers[&REQUEST_ID], problem["request_id"].as_str()),
                (&"abc-1".parse().unwrap(), Some("abc-1"))
            );
            assert!(!problem.to_string().contains("a defect"), "what a panic says stays inside");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_does_not_end_is_answered_as_unavailable() {
        let (status, headers, problem) = answer("GET /hangs").await;
        assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("unavailable")));
        assert_eq!(headers[header::RETRY_AFTER], "1");
    }
}
