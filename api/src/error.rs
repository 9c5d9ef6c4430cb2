//! Errors over HTTP: RFC 9457 problems. One `match` from [`common::error::Error`] to status and code; only 5xx are
//! logged, once, here. Nothing internal reaches the client.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    error::{Code, Error, FieldError},
    telemetry::Origin,
};
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{ContentBuilder, Ref, RefOr, Response as ResponseDoc, ResponseBuilder},
};

/// What a handler answers.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// An answer was refused because there was too much to do. There are many of them, and a metric counts them, so they are not
/// logged one by one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shed;

/// An error on its way out.
#[derive(Debug)]
pub(crate) struct ApiError(Error);

impl<E: Into<Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// What went wrong, as a problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Names the kind of problem; a page at this path explains it.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation-failed")]
    kind: String,
    /// The kind in words; the same at every occurrence.
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is wrong this time, and how to mend it.
    detail: String,
    /// This occurrence.
    #[schema(example = "urn:request:0197c1f2a7c07b1f9b1e2d3c4b5a6978")]
    instance: String,
    /// The kind, for programs.
    code: Code,
    /// What to tell the operator.
    request_id: String,
    /// The places that break a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// The path of the page that explains a code.
pub(crate) fn problem_path(code: Code) -> String {
    format!("/problems/{}", code.name().replace('_', "-"))
}

impl Problem {
    /// A problem of this kind in the request that is being handled.
    pub(crate) fn new(code: Code, detail: impl Into<String>, errors: Vec<FieldError>) -> Self {
        let request_id = Origin::current().request_id.unwrap_or_default();
        Self {
            kind: problem_path(code),
            title: code.title(),
            status: code.status(),
            detail: detail.into(),
            instance: format!("urn:request:{request_id}"),
            code,
            request_id,
            errors,
        }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Adds `Retry-After`.
fn retry_after(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Whole seconds, at least one, after which the pause is certainly over.
pub(crate) fn seconds(pause: Duration) -> u64 {
    (pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).max(1)
}

impl ApiError {
    /// What kind of problem it is, for a page; defects and what is away are logged here, as they are not answered otherwise.
    pub(crate) fn code(&self) -> Code {
        match &self.0 {
            Error::Unavailable(error) => {
                tracing::warn!(error = format!("{error:#}"), "a page says 503: something is away");
            }
            Error::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "a page says 500");
            }
            _ => {}
        }
        Problem::from(&self.0).code
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let plain = |code: Code| Self::new(code, code.help(), Vec::new());
        match error {
            Error::NotFound(what) => {
                Self::new(Code::NotFound, format!("There is no such {what}, or it is not yours."), Vec::new())
            }
            Error::Invalid(errors) => {
                let detail = match &**errors {
                    [one] => one.detail.clone(),
                    many => format!("{} places break a rule; `errors` lists them.", many.len()),
                };
                Self::new(Code::ValidationFailed, detail, errors.clone())
            }
            Error::Malformed(error) => {
                // The code of the place decides what the whole is called: a cursor, a header, a body.
                let code = if error.code.status() == 422 { Code::MalformedBody } else { error.code };
                Self::new(code, error.detail.clone(), vec![error.clone()])
            }
            Error::Conflict { code, detail } => Self::new(*code, detail, Vec::new()),
            Error::Undone { pointer, cause } => {
                let Self { code, detail, mut errors, .. } = Self::from(&**cause);
                if errors.is_empty() {
                    errors.push(FieldError::at(pointer, code, &detail));
                }
                Self::new(
                    Code::BatchUndone,
                    format!("Nothing was done, because of {pointer}: {detail}"),
                    errors,
                )
            }
            Error::Stale { etag } => {
                let detail = format!("It has changed meanwhile: {etag} is current.");
                Self::new(Code::StaleVersion, detail, Vec::new())
            }
            Error::Unauthenticated(code) | Error::Forbidden(code) => plain(*code),
            Error::TooManyRequests { retry_after } => {
                let detail = format!("Too many requests. Try again in {} s.", seconds(*retry_after));
                Self::new(Code::RateLimited, detail, Vec::new())
            }
            Error::Overloaded => plain(Code::Overloaded),
            Error::Unavailable(_) => plain(Code::Unavailable),
            Error::Internal(_) => plain(Code::Internal),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Problem::from(&self.0).into_response();
        match self.0 {
            Error::Conflict { code: Code::IdempotencyInProgress, .. } => retry_after(response, 1),
            Error::Overloaded => {
                response.extensions_mut().insert(Shed);
                retry_after(response, 1)
            }
            Error::TooManyRequests { retry_after: pause } => retry_after(response, seconds(pause)),
            Error::Stale { etag } => {
                if let Ok(etag) = HeaderValue::try_from(etag) {
                    response.headers_mut().insert(header::ETAG, etag);
                }
                response
            }
            Error::Unavailable(error) => {
                tracing::warn!(error = format!("{error:#}"), "answered 503: something is away");
                retry_after(response, 1)
            }
            Error::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "answered 500: a defect");
                response
            }
            _ => response,
        }
    }
}

/// The problems that any operation may answer with, for the documentation.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        let statuses = Code::ALL.iter().map(|code| code.status()).collect::<std::collections::BTreeSet<_>>();
        let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
        statuses
            .into_iter()
            .map(|status| {
                let codes: Vec<String> = Code::ALL
                    .iter()
                    .filter(|code| code.status() == status && !code.is_of_a_field())
                    .map(|code| format!("`{code}`"))
                    .collect();
                let response = ResponseBuilder::new()
                    .description(codes.join(", "))
                    .content(
                        "application/problem+json",
                        ContentBuilder::new().schema(Some(schema.clone())).build(),
                    )
                    .build();
                (status.to_string(), RefOr::T(response))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_as_long_as_told_has_waited_long_enough() {
        for (millis, told) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            let error = Error::TooManyRequests { retry_after: Duration::from_millis(millis) };
            let response = ApiError::from(error).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], told.to_string(), "{millis}");
        }
    }
}
