//! What handlers take: bodies, parameters and headers, already read and checked. Each refusal names the place and
//! how to mend it.

use axum::body::Bytes;
use axum::{
    RequestPartsExt as _,
    extract::{FromRequest, FromRequestParts, Path as AxumPath, Request, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, Method, StatusCode, header, request::Parts},
};
use common::{
    access::Expected,
    error::{Code, Coded, Error, FieldError},
};
use garde::Validate;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use crate::{
    error::{ApiError, Problem},
    state::AppState,
};

/// A JSON body that follows the rules of its type.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned + Validate<Context: Default>,
    S: Send + Sync,
{
    type Rejection = axum::response::Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        use axum::response::IntoResponse as _;

        let problem = |code: Code| Problem::new(code, code.help(), Vec::new()).into_response();
        if !is_json(request.headers()) {
            return Err(problem(Code::UnsupportedMediaType));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(cause) if cause.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                problem(Code::BodyTooLarge)
            }
            _ => problem(Code::MalformedBody),
        })?;
        read(&body).map(Json).map_err(|error| ApiError::from(error).into_response())
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/json" | "application/merge-patch+json")
}

fn read<T: DeserializeOwned + Validate<Context: Default>>(body: &[u8]) -> Result<T, Error> {
    // Syntax first, then meaning: then the messages of the second step speak of fields and not of columns.
    let json: serde_json::Value = serde_json::from_slice(body).map_err(|error| {
        Error::Malformed(FieldError::at(
            "",
            Code::MalformedBody,
            format!("The body is not valid JSON: {error}."),
        ))
    })?;
    if !json.is_object() {
        let detail = "The body has to be a JSON object.";
        return Err(Error::Malformed(FieldError::at("", Code::MalformedBody, detail)));
    }
    // JSON has no other way to write one.
    if body.windows(6).any(|bytes| bytes == b"\\u0000") {
        let mut nul = Vec::new();
        places_of_nul(&json, "", &mut nul);
        if !nul.is_empty() {
            return Err(Error::Invalid(nul));
        }
    }
    let value: T = serde_path_to_error::deserialize(json).map_err(|error| {
        let pointer = pointer(error.path());
        Error::Invalid(vec![field_error(pointer, &error.inner().to_string())])
    })?;
    validate(&value)?;
    Ok(value)
}

/// No text of ours has a NUL: PostgreSQL cannot store it, so it is refused once, here. The parser has limited the depth.
fn places_of_nul(json: &serde_json::Value, pointer: &str, places: &mut Vec<FieldError>) {
    match json {
        serde_json::Value::String(text) if text.contains('\0') => {
            places.push(FieldError::at(pointer, Code::ControlCharacter, NO_NUL));
        }
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places_of_nul(item, &format!("{pointer}/{index}"), places);
            }
        }
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                places_of_nul(value, &format!("{pointer}/{}", escaped(name)), places);
            }
        }
        _ => {}
    }
}

const NO_NUL: &str = "The character NUL (U+0000) is not allowed.";

fn validate<T: Validate<Context: Default>>(value: &T) -> Result<(), Error> {
    let Err(report) = value.validate() else { return Ok(()) };
    let errors = report.iter().map(|(path, error)| {
        let path = path.to_string();
        let pointer: String = path
            .split(['.', '[', ']'])
            .filter(|part| !part.is_empty())
            .map(|part| format!("/{}", escaped(part)))
            .collect();
        match Coded::read(error.message()) {
            Some(Coded(code, detail)) => FieldError::at(pointer, code, detail),
            // What garde's own rules say; those in use are about lengths.
            None => FieldError::at(pointer, Code::InvalidLength, sentence(error.message())),
        }
    });
    Err(Error::Invalid(errors.collect()))
}

/// A path of serde as a JSON Pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;

    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", escaped(key))),
            Segment::Enum { variant } => Some(format!("/{}", escaped(variant))),
            Segment::Unknown => None,
        })
        .collect()
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What serde says, as an error that names the field.
fn field_error(mut pointer: String, message: &str) -> FieldError {
    if let Some(Coded(code, detail)) = Coded::read(message) {
        return FieldError::at(pointer, code, detail);
    }
    let quoted = || message.split('`').nth(1).unwrap_or_default();
    let mut into = |field: &str| {
        let last = format!("/{}", escaped(field));
        if !pointer.ends_with(&last) {
            pointer.push_str(&last);
        }
    };
    let code = if message.starts_with("unknown field") {
        into(quoted());
        Code::UnknownField
    } else if message.starts_with("missing field") {
        into(quoted());
        Code::Required
    } else if message.starts_with("invalid type") {
        Code::InvalidType
    } else {
        Code::InvalidValue
    };
    FieldError::at(pointer, code, sentence(message))
}

/// A library's message as a sentence.
fn sentence(message: &str) -> String {
    let mut characters = message.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

/// Query parameters. Unknown ones are refused: a mistyped filter would silently show everything.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned + Validate<Context: Default>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let malformed = |pointer: &str, code, detail: String| {
            let name = pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
            let code = if code == Code::InvalidCursor { code } else { Code::MalformedParameter };
            ApiError::from(Error::Malformed(FieldError::parameter(name, code, detail)))
        };
        if let Some((name, _)) = form_urlencoded(query).find(|(_, value)| value.contains('\0')) {
            return Err(malformed(&name, Code::MalformedParameter, NO_NUL.to_owned()));
        }
        // An empty value would be taken for none, and a filter that is not filled in would show everything.
        if let Some((name, _)) = form_urlencoded(query).find(|(_, value)| value.is_empty()) {
            let detail = "It has no value. Give it one, or leave the parameter out.".to_owned();
            return Err(malformed(&name, Code::MalformedParameter, detail));
        }
        let pairs = serde_html_form::Deserializer::new(form_urlencoded(query));
        let value: T = serde_path_to_error::deserialize(pairs).map_err(|error| {
            let FieldError { pointer, code, detail, .. } =
                field_error(pointer(error.path()), &error.inner().to_string());
            malformed(&pointer.unwrap_or_default(), code, detail)
        })?;
        match validate(&value) {
            Err(Error::Invalid(errors)) => match errors.into_iter().next() {
                Some(error) => Err(malformed(&error.pointer.unwrap_or_default(), error.code, error.detail)),
                None => Ok(Self(value)),
            },
            _ => Ok(Self(value)),
        }
    }
}

fn form_urlencoded(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

/// A parameter of the path. What cannot be an id names nothing, so it is not found.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extract::<AxumPath<T>>().await {
            Ok(AxumPath(value)) => Ok(Self(value)),
            Err(_) => Err(Error::NotFound("resource").into()),
        }
    }
}

/// `If-Match`: change only the version that I have seen (RFC 9110 §13.1.1).
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatch {
    /// The `ETag` of the version that the change is meant for, such as `"t-1"`; another one is refused with 412. `*` is
    /// any. Where the operator wants it, PATCH, PUT and DELETE are refused with 428 without it.
    #[param(rename = "If-Match", required = false, value_type = Option<String>, example = "*")]
    tags: Option<String>,
}

/// `If-None-Match`: answer only if it is another version than those I have (RFC 9110 §13.1.2).
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfNoneMatch {
    /// The `ETag` of a version that the client has; if it is current, the answer is 304.
    #[param(rename = "If-None-Match", required = false, value_type = Option<String>, example = "\"t-0\"")]
    tags: Option<String>,
}

impl IfMatch {
    /// The versions meant, of a resource whose tags begin with `prefix`.
    pub(crate) fn expected(&self, prefix: &str) -> Expected {
        match self.tags.as_deref() {
            None => Expected::Any,
            Some(tags) if tags.trim() == "*" => Expected::Any,
            // A weak tag never matches here, and neither does one of another resource.
            Some(tags) => Expected::OneOf(
                opaque(tags)
                    .filter_map(|tag| tag.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok())
                    .collect(),
            ),
        }
    }
}

impl IfNoneMatch {
    /// Whether the client has the version with this tag.
    pub(crate) fn matches(&self, etag: &str) -> bool {
        self.tags.as_deref().is_some_and(|tags| {
            tags.trim() == "*" || opaque(&tags.replace("W/", "")).any(|tag| tag == etag.trim_matches('"'))
        })
    }
}

/// The strong tags of a list, without their quotes and without what the compression layer appends.
fn opaque(tags: &str) -> impl Iterator<Item = &str> {
    tags.split(',').filter_map(|tag| {
        let tag = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
        Some(tag.strip_suffix("-gz").or(tag.strip_suffix("-br")).unwrap_or(tag))
    })
}

fn text(parts: &Parts, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let Some(value) = parts.headers.get(name) else { return Ok(None) };
    let value = value.to_str().map_err(|_| {
        let detail = format!("The header {name} has characters that are not ASCII.");
        Error::Malformed(FieldError::parameter(name.as_str(), Code::InvalidHeader, detail))
    })?;
    Ok(Some(value.to_owned()))
}

impl FromRequestParts<AppState> for IfMatch {
    type Rejection = ApiError;

    /// Without the header, a change is refused where the operator wants it (RFC 6585 §3). An action is none: done twice, it
    /// overwrites nothing.
    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let tags = text(parts, &header::IF_MATCH)?;
        let is_change = parts.method != Method::POST;
        if tags.is_none() && is_change && app.settings.http.require_if_match {
            let code = Code::PreconditionRequired;
            return Err(Error::conflict(code, code.help()).into());
        }
        Ok(Self { tags })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self { tags: text(parts, &header::IF_NONE_MATCH)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_compared_without_the_suffix_of_compression() {
        let matches = |tags: &str| IfNoneMatch { tags: Some(tags.into()) }.matches("\"t-3\"");
        assert!(matches("\"t-3\"") && matches("\"t-1\", W/\"t-3-gz\"") && matches("*"));
        assert!(!matches("\"t-30\"") && !matches("t-3"));
        let expected = |tags: &str| IfMatch { tags: Some(tags.into()) }.expected("t");
        assert_eq!(expected("\"t-3-br\", \"t-4\""), Expected::OneOf(vec![3, 4]));
        assert_eq!(expected("W/\"t-3\""), Expected::OneOf(vec![]), "a weak tag never matches");
        assert_eq!(expected("\"u-3\""), Expected::OneOf(vec![]), "of another resource");
        assert_eq!(expected("*"), Expected::Any);
    }
}
