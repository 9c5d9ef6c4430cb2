//! `Idempotency-Key`: a request that is sent again, because its answer was lost, has its effect once and gets the same
//! answer. The answer is stored in the transaction of the effect, so there is never one without the other. A refusal has
//! no effect, and is stored after it was undone; what is our fault (5xx) or only too early (429) is not, and can be tried
//! again. Every POST of an authenticated person takes an [`Idempotency`]; without the header it costs nothing.

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Request},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use common::{
    db::{Db, RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError},
    ids::UserId,
    schema::idempotency_keys as keys,
};
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{BigInt, Binary, Bool, Jsonb, SmallInt, Text, Uuid},
};
use sha2::{Digest as _, Sha256};
use utoipa::{
    IntoParams,
    openapi::{HeaderBuilder, Object, OpenApi, RefOr, Type, path::Operation},
};

use crate::{
    auth::Auth,
    error::{ApiError, Problem, Result},
    state::AppState,
};

/// What of an answer's head is kept.
const HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// A body may have so many bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// The key of a request, if it has one, and what it is a key for.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Idempotency {
    /// A value of the client's choice, new for each new request: a retry with the same value gets the same answer.
    #[param(
        rename = "Idempotency-Key", required = false, value_type = Option<String>,
        min_length = 1, max_length = 255, pattern = "^[!-~]+$",
    )]
    key: Option<Scoped>,
}

/// A key, within which it is unique, and the hash of the body it came with.
struct Scoped {
    db: Db,
    principal: UserId,
    method: String,
    path: String,
    key: String,
    body: Vec<u8>,
}

/// What to do with a request.
enum Begin {
    /// It is new: do it in this transaction.
    Fresh(Box<Tx>),
    /// It was done: this was the answer.
    Replay(Response),
}

/// The hash of a body, for the extractor that comes after the body is read.
#[derive(Debug, Clone)]
struct BodyHash(Vec<u8>);

/// Runs a request, of which the body is hashed if it has a key.
pub(crate) async fn hash_body(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return Problem::new(Code::BodyTooLarge, Code::BodyTooLarge.help(), Vec::new()).into_response();
    };
    parts.extensions.insert(BodyHash(Sha256::digest(&body).to_vec()));
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// Says of each operation that takes a key that its answer may be one that was given before.
pub(crate) fn document(document: &mut OpenApi) {
    let takes_key = |post: &Operation| {
        let mut parameters = post.parameters.iter().flatten();
        parameters.any(|parameter| matches!(parameter, RefOr::T(it) if it.name == "Idempotency-Key"))
    };
    let posts = document.paths.paths.values_mut().filter_map(|item| item.post.as_mut());
    for post in posts.filter(|post| takes_key(post)) {
        for (status, response) in &mut post.responses.responses {
            if let (true, RefOr::T(response)) = (status.starts_with('2'), response) {
                let about = "Present if this is the answer to an earlier request";
                let header = HeaderBuilder::new()
                    .schema(Some(Object::with_type(Type::Boolean)))
                    .description(Some(about))
                    .build();
                response.headers.insert("Idempotency-Replayed".to_owned(), RefOr::T(header));
            }
        }
    }
}

impl FromRequestParts<AppState> for Idempotency {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let Some(value) = parts.headers.get(KEY) else { return Ok(Self { key: None }) };
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
        let key = key.map(str::to_owned);
        let Some(key) = key else {
            let detail = "An Idempotency-Key has 1 to 255 visible ASCII characters.";
            return Err(Error::Malformed(FieldError::parameter(
                "Idempotency-Key",
                Code::InvalidHeader,
                detail,
            ))
            .into());
        };
        let auth = Auth::from_request_parts(parts, state).await?;
        let body = parts.extensions.get::<BodyHash>().map(|BodyHash(hash)| hash.clone()).unwrap_or_default();
        let path =
            parts.extensions.get::<axum::extract::OriginalUri>().map_or(parts.uri.path(), |uri| uri.path());
        let (method, path) = (parts.method.to_string(), path.to_owned());
        let (db, principal) = (state.db.clone(), auth.viewer.user_id);
        Ok(Self { key: Some(Scoped { db, principal, method, path, key, body }) })
    }
}

impl Idempotency {
    /// Does `effect` in a transaction, and stores its answer there; unless the same request was answered before, whose answer
    /// comes again. A refusal undoes the effect, and is stored after that.
    ///
    /// # Errors
    /// Those of `effect`; 422 if the key came with another body, 409 if the first request is still being handled.
    pub(crate) async fn once(
        &self,
        db: &Db,
        effect: impl AsyncFnOnce(&mut Tx) -> Result<Response, Error>,
    ) -> Result<Response> {
        let mut tx = match self.begin(db).await? {
            Begin::Fresh(tx) => tx,
            Begin::Replay(answer) => return Ok(answer),
        };
        let answer = match (effect(&mut tx).await, &self.key) {
            (Ok(answer), Some(scoped)) => scoped.store(&mut tx, answer).await,
            (answer, _) => answer,
        };
        self.finish(*tx, answer).await
    }

    /// As [`Idempotency::once`], for an answer that shows a secret: of the two it sends the first, and stores the second,
    /// which is without it.
    ///
    /// # Errors
    /// As [`Idempotency::once`].
    pub(crate) async fn once_secret(
        &self,
        db: &Db,
        effect: impl AsyncFnOnce(&mut Tx) -> Result<(Response, Response), Error>,
    ) -> Result<Response> {
        let mut tx = match self.begin(db).await? {
            Begin::Fresh(tx) => tx,
            Begin::Replay(answer) => return Ok(answer),
        };
        let answer = match (effect(&mut tx).await, &self.key) {
            (Ok((shown, kept)), Some(scoped)) => scoped.store(&mut tx, kept).await.map(|_| shown),
            (answer, _) => answer.map(|(shown, _)| shown),
        };
        self.finish(*tx, answer).await
    }

    /// Begins the transaction of the effect, unless the same request was answered before.
    async fn begin(&self, db: &Db) -> Result<Begin> {
        let mut tx = db.begin().await?;
        let Some(scoped) = &self.key else { return Ok(Begin::Fresh(Box::new(tx))) };
        if !scoped.lock(&mut tx).await? {
            tx.commit().await?;
            return Err(Error::conflict(
                Code::IdempotencyInProgress,
                "The first request with this Idempotency-Key is still being handled. Repeat it in a second.",
            )
            .into());
        }
        let now = tx.clock().now();
        let stored: Option<(Vec<u8>, i16, serde_json::Value, Vec<u8>)> = keys::table
            .find((scoped.principal.uuid(), &scoped.method, &scoped.path, &scoped.key))
            .filter(keys::expires_at.gt(now))
            .select((keys::body_sha256, keys::status, keys::response_headers, keys::response_body))
            .first(tx.conn())
            .await
            .optional()?;
        let Some((body, status, headers, answer)) = stored else { return Ok(Begin::Fresh(Box::new(tx))) };
        tx.commit().await?;
        if body == scoped.body {
            Ok(Begin::Replay(replay(status, &headers, answer)))
        } else {
            let detail =
                "This Idempotency-Key came with another body before. Use a new key for a new request.";
            Ok(Begin::Replay(Problem::new(Code::IdempotencyKeyReused, detail, Vec::new()).into_response()))
        }
    }

    /// Keeps the effect with its answer, or undoes it and stores why.
    async fn finish(&self, tx: Tx, answer: Result<Response, Error>) -> Result<Response> {
        match (tx.finish(answer).await, &self.key) {
            (Err(error), Some(scoped)) => {
                let refusal = ApiError::from(error).into_response();
                let is_final =
                    refusal.status().is_client_error() && refusal.status() != StatusCode::TOO_MANY_REQUESTS;
                if is_final { Ok(scoped.store_refusal(refusal).await?) } else { Ok(refusal) }
            }
            (answer, _) => Ok(answer?),
        }
    }
}

impl Scoped {
    /// Writes the answer down, and answers it.
    async fn store(&self, tx: &mut Tx, answer: Response) -> Result<Response, Error> {
        let (parts, body) = answer.into_parts();
        let body: Bytes = to_bytes(body, usize::MAX).await.map_err(|error| Error::Internal(error.into()))?;
        let headers: serde_json::Map<String, serde_json::Value> = HEADERS
            .iter()
            .filter_map(|name| Some((name.to_string(), parts.headers.get(name)?.to_str().ok()?.into())))
            .collect();
        // A row that has expired makes room.
        sql!(
            "INSERT INTO idempotency_keys
                 (principal, method, path, key, body_sha256, status, response_headers, response_body, created_at, expires_at)
             SELECT {principal}, {method}, {path}, {key}, {hash}, {status}, {headers}, {body}, t.now, t.now + interval '24 hours'
             FROM (SELECT {now} AS now) t
             ON CONFLICT (principal, method, path, key) DO UPDATE SET
                 body_sha256 = excluded.body_sha256, status = excluded.status,
                 response_headers = excluded.response_headers, response_body = excluded.response_body,
                 created_at = excluded.created_at, expires_at = excluded.expires_at
             WHERE idempotency_keys.expires_at <= excluded.created_at",
            principal: Uuid = self.principal,
            method: Text = &self.method,
            path: Text = &self.path,
            key: Text = &self.key,
            hash: Binary = &self.body,
            status: SmallInt = i16::try_from(parts.status.as_u16()).unwrap_or(200),
            headers: Jsonb = serde_json::Value::Object(headers),
            body: Binary = &body[..],
            now = tx.clock().now(),
        )
        .execute(tx.conn())
        .await?;
        Ok(Response::from_parts(parts, Body::from(body)))
    }

    /// Stores a refusal, in a transaction of its own, and answers it. If the same request came again meanwhile, its answer
    /// stands.
    async fn store_refusal(&self, refusal: Response) -> Result<Response, Error> {
        let mut tx = self.db.begin().await?;
        let stored = async {
            if self.lock(&mut tx).await? { self.store(&mut tx, refusal).await } else { Ok(refusal) }
        };
        let stored = stored.await;
        tx.finish(stored).await
    }

    /// Takes the advisory lock of this key until the end of the transaction, unless another has it: 64 bits of a hash, so
    /// that two keys share one only by a chance of 1 in 10^19, and then one of them waits.
    async fn lock(&self, tx: &mut Tx) -> Result<bool, Error> {
        #[derive(QueryableByName)]
        struct Locked {
            #[diesel(sql_type = Bool)]
            locked: bool,
        }

        let mut hash = Sha256::new();
        for part in [self.principal.to_string().as_str(), &self.method, &self.path, &self.key] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        let lock = i64::from_be_bytes(first);
        let row: Locked = sql!("SELECT pg_try_advisory_xact_lock({lock}) AS locked", lock: BigInt = lock)
            .get_result(tx.conn())
            .await?;
        Ok(row.locked)
    }
}

fn replay(status: i16, headers: &serde_json::Value, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or_default();
    for name in HEADERS {
        let value = headers.get(name.as_str()).and_then(|value| HeaderValue::from_str(value.as_str()?).ok());
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
