//! `/auth` and `/me`: accounts, sessions, and who calls.

use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::phc::PasswordHash,
};
use axum::{
    extract::{ConnectInfo, FromRequestParts, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use common::{
    access::Viewer,
    credentials::{ACCESS_TOKEN_LIFE, Client, Login, Refresh, Session},
    error::{Code, Error},
    ids::{SessionId, UserId},
    jobs::Letter,
    metrics,
    one_time::TokenPurpose,
    users::{NewUser, User, UserPatch},
};
use garde::Validate;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    account::mail_link,
    config::Registration,
    error::{ApiError, Problem, Result},
    extract::{IfMatch, IfNoneMatch, Json, Query},
    limits::Bucket,
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(me, update_me))
}

/// Who calls: the access token of `Authorization: Bearer` is good. A handler without one is public.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Auth {
    /// On whose behalf.
    pub(crate) viewer: Viewer,
    /// In which session.
    pub(crate) session: SessionId,
}

impl FromRequestParts<AppState> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let value =
            parts.headers.get(header::AUTHORIZATION).ok_or(Error::Unauthenticated(Code::Unauthenticated))?;
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(Error::Unauthenticated(Code::InvalidToken))?;
        let caller = app.tokens.read(token, app.db.clock().instant())?;
        Ok(Self { viewer: caller.viewer, session: caller.session })
    }
}

/// An administrator calls. Their role and whether the account is still active are read from the database at every
/// request: a token says who somebody was up to 15 minutes ago.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    /// Who.
    pub(crate) user_id: UserId,
    /// Their address: what the ledger and the log call who does something.
    pub(crate) address: String,
}

impl FromRequestParts<AppState> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let auth = Auth::from_request_parts(parts, app).await?;
        let address = User::admin_address(&mut *app.db.conn().await?, auth.viewer).await?;
        let address = address.ok_or(Error::Forbidden(Code::Forbidden))?;
        Ok(Self { user_id: auth.viewer.user_id, address })
    }
}

/// Where a request came from. Behind proxies that are trusted it is the last address that none of them has, as far as
/// what they wrote can be read: what stands before a hop that cannot be read may be the client's own invention. Only
/// `X-Forwarded-For` is read, as a proxy that writes one header passes the client's `Forwarded` (RFC 7239) on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(pub(crate) IpAddr);

impl FromRequestParts<AppState> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip());
        let headers = parts.headers.get_all("x-forwarded-for").iter();
        let hops: Vec<&str> =
            headers.flat_map(|value| value.to_str().unwrap_or_default().split(',')).collect();
        Ok(Self::behind(&app.settings.http.trusted_proxies, peer, &hops))
    }
}

impl Address {
    fn behind(trusted: &[IpNet], peer: IpAddr, hops: &[&str]) -> Self {
        // A socket for both families gives IPv4 as ::ffff:….
        let mut address = peer.to_canonical();
        let mut hops = hops.iter().rev();
        while trusted.iter().any(|network| network.contains(&address)) {
            let Some(hop) = hops.next().and_then(|hop| hop_address(hop.trim())) else { break };
            address = hop.to_canonical();
        }
        Self(address)
    }

    /// What is kept of the client with a session.
    fn client(self, app: &AppState, headers: &HeaderMap) -> Client {
        let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Client {
            user_agent: user_agent.map(|text| text.chars().take(200).collect()),
            ip_hash: app.ip_keys.first().map(|key| key.sign(self.0.to_string().as_bytes()).to_vec()),
        }
    }
}

/// The address of a hop, which some proxies write with a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Argon2id with 19 MiB, two passes and one lane: the first choice of OWASP's password storage cheat sheet.
static ARGON2: LazyLock<Argon2<'static>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the parameters are constants, within argon2's limits")]
    let params = Params::new(19 * 1024, 2, 1, None).expect("constant parameters");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
});

/// What is verified for an address without an account, so that it takes as long as for one with: the same parameters,
/// and no password that fits.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dGFza3RyYWNrZXItZHVtbXk$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn hash(password: &str) -> Result<String, Error> {
    let hash = ARGON2
        .hash_password(password.as_bytes())
        .map_err(|error| Error::Internal(anyhow::anyhow!("{error}")))?;
    Ok(hash.to_string())
}

fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| ARGON2.verify_password(password.as_bytes(), &hash).is_ok())
}

/// Runs a password's hash on a thread of its own, at most two at once: each takes 19 MiB and tens of milliseconds.
async fn hashing<T: Send + 'static>(app: &AppState, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let internal = |error: anyhow::Error| Error::Internal(error);
    let permit = app.hashing.clone().acquire_owned().await.map_err(|error| internal(error.into()))?;
    let result = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    Ok(result.await.map_err(|error| internal(error.into()))?)
}

/// The hash of a password, as it is stored.
pub(crate) async fn hashed(app: &AppState, password: String) -> Result<String> {
    Ok(hashing(app, move || hash(&password)).await??)
}

/// What is answered where an address has to be confirmed first.
#[derive(Debug, Serialize, ToSchema)]
struct ConfirmationSent {
    /// What happens next.
    #[schema(example = "We have sent a mail to this address: follow the link in it.")]
    detail: &'static str,
}

/// Register
///
/// 201 with the account, and 409 for a known address. Where addresses have to be confirmed it is 202 for known and
/// unknown ones alike, and everything else is in the mail that goes there.
#[utoipa::path(
    post, path = "/auth/register", tag = "accounts", operation_id = "register", request_body = NewUser, security(()),
    responses(
        (status = 201, description = "The account", body = User),
        (status = 202, description = "A mail is on its way to the address", body = ConfirmationSent),
        Problem,
    ),
)]
async fn register(
    State(app): State<AppState>,
    address: Address,
    Json(new): Json<NewUser>,
) -> Result<Response> {
    app.limits.take_address(Bucket::Register, address.0).await?;
    if app.settings.http.registration == Registration::Closed {
        return Err(Error::Forbidden(Code::RegistrationClosed).into());
    }
    let hash = hashed(&app, new.password.clone()).await?;
    if app.settings.accounts.require_email_verification {
        return register_by_mail(&app, &new, &hash).await;
    }
    let mut tx = app.db.begin().await?;
    let registered = User::register(&mut tx, &new, &hash).await;
    let user = tx.finish(registered).await?;
    metrics::auth_event("register", "ok");
    Ok((StatusCode::CREATED, [(header::ETAG, user.etag())], axum::Json(user)).into_response())
}

/// The same answer for an address that has an account and for one that has none: a mail tells them apart.
async fn register_by_mail(app: &AppState, new: &NewUser, hash: &str) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let registered = async {
        let id = User::register(&mut tx, new, hash).await?.id;
        mail_link(&mut tx, id, TokenPurpose::VerifyEmail, |token_id| Letter::VerifyEmail { token_id }).await
    };
    let registered = registered.await;
    match tx.finish(registered).await {
        Ok(()) => metrics::auth_event("register", "ok"),
        Err(Error::Conflict { code: Code::EmailTaken, .. }) => {
            metrics::auth_event("register", "known");
            let known = Login::find(&mut *app.db.conn().await?, &new.email).await?;
            if let Some(known) = known.filter(|known| known.is_active) {
                let mut tx = app.db.begin().await?;
                let letter = |token_id| Letter::AlreadyRegistered { token_id };
                let told = mail_link(&mut tx, known.user_id, TokenPurpose::ResetPassword, letter).await;
                tx.finish(told).await?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    let detail = "We have sent a mail to this address: follow the link in it.";
    Ok((StatusCode::ACCEPTED, axum::Json(ConfirmationSent { detail })).into_response())
}

/// An address and its password.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
struct Credentials {
    /// The address of the account.
    #[schema(example = "ann@example.com")]
    email: String,
    /// Its password.
    #[garde(length(bytes, max = 1024))]
    #[schema(example = "correct horse battery", format = Password)]
    password: String,
}

/// A session, as a client keeps it.
#[derive(Debug, Serialize, ToSchema)]
struct SessionAnswer {
    /// Send it as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// For how many seconds the access token is good.
    #[schema(example = 900)]
    expires_in: i64,
    /// Good for seven days and for one refresh.
    refresh_token: String,
    /// Whose session it is.
    user: User,
}

/// The answer that carries a session; nobody may keep it on the way.
async fn session_answer(app: &AppState, session: Session) -> Result<Response> {
    let access_token = app.tokens.issue(&session, app.db.clock().instant())?;
    let user =
        User::find(&mut *app.db.conn().await?, Viewer { user_id: session.user_id, project: None }).await?;
    let answer = SessionAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: ACCESS_TOKEN_LIFE.num_seconds(),
        refresh_token: session.refresh_token,
        user,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response())
}

/// Log in
///
/// The answer is the same, and takes as long, for an unknown address and for a wrong password.
#[utoipa::path(
    post, path = "/auth/login", tag = "accounts", operation_id = "login", request_body = Credentials, security(()),
    responses((status = 200, description = "A session", body = SessionAnswer), Problem),
)]
async fn login(
    State(app): State<AppState>,
    address: Address,
    headers: HeaderMap,
    Json(credentials): Json<Credentials>,
) -> Result<Response> {
    app.limits.take_address(Bucket::LoginAddress, address.0).await?;
    app.limits.take(Bucket::LoginAccount, &credentials.email.to_lowercase()).await?;
    let login = Login::find(&mut *app.db.conn().await?, &credentials.email).await?;
    let stored = login.as_ref().and_then(|login| login.password_hash.clone());
    let known = stored.is_some();
    let password = credentials.password;
    let good = hashing(&app, move || verify(&password, stored.as_deref().unwrap_or(DUMMY)) && known).await?;
    let Some(login) = login.filter(|login| good && login.is_active) else {
        metrics::auth_event("login", "refused");
        return Err(Error::Unauthenticated(Code::InvalidCredentials).into());
    };
    let mut tx = app.db.begin().await?;
    let session = Session::begin(&mut tx, login.user_id, &address.client(&app, &headers)).await?;
    tx.commit().await?;
    metrics::auth_event("login", "ok");
    session_answer(&app, session).await
}

/// A refresh token.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
struct RefreshToken {
    /// The newest refresh token of the session.
    #[garde(length(bytes, max = 200))]
    #[schema(example = "ttr_…")]
    refresh_token: String,
}

/// Renew a session
///
/// The token is exchanged for another. If it comes again, somebody has a copy, and the whole session is ended; only
/// within ten seconds of the exchange it is accepted once more, for two tabs or an answer that was lost.
#[utoipa::path(
    post, path = "/auth/refresh", tag = "accounts", operation_id = "refresh", request_body = RefreshToken, security(()),
    responses((status = 200, description = "The session with new tokens", body = SessionAnswer), Problem),
)]
async fn refresh(
    State(app): State<AppState>,
    address: Address,
    headers: HeaderMap,
    Json(token): Json<RefreshToken>,
) -> Result<Response> {
    app.limits.take_address(Bucket::Refresh, address.0).await?;
    let mut tx = app.db.begin().await?;
    let outcome = Session::refresh(&mut tx, &token.refresh_token, &address.client(&app, &headers)).await?;
    tx.commit().await?;
    match outcome {
        Refresh::Rotated(session) => {
            metrics::auth_event("refresh", "ok");
            session_answer(&app, session).await
        }
        Refresh::Refused { code, ended } => {
            app.tokens.end(ended.as_slice());
            metrics::auth_event("refresh", code.name());
            Err(Error::Unauthenticated(code).into())
        }
    }
}

/// How much to log out of.
#[derive(Debug, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
struct LogoutParameters {
    /// `true`: end all sessions of the account, not only this one.
    #[serde(default)]
    all: bool,
}

/// Log out
///
/// The session's tokens, this access token among them, are refused from now on.
#[utoipa::path(
    post, path = "/auth/logout", tag = "accounts", operation_id = "logout", params(LogoutParameters),
    responses((status = 204, description = "Logged out"), Problem),
)]
async fn logout(
    State(app): State<AppState>,
    auth: Auth,
    Query(parameters): Query<LogoutParameters>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let which = (!parameters.all).then_some(auth.session);
    let ended = Session::end(&mut tx, auth.viewer.user_id, which).await?;
    tx.commit().await?;
    app.tokens.end(&ended);
    metrics::auth_event("logout", "ok");
    Ok(StatusCode::NO_CONTENT)
}

/// Read my account
#[utoipa::path(
    get, path = "/me", tag = "accounts", operation_id = "get_me", params(IfNoneMatch),
    responses(
        (status = 200, description = "The account", body = User, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
        Problem,
    ),
)]
async fn me(State(app): State<AppState>, auth: Auth, if_none_match: IfNoneMatch) -> Result<Response> {
    let user = User::find(&mut *app.db.conn().await?, auth.viewer).await?;
    let etag = [(header::ETAG, user.etag())];
    if if_none_match.matches(&user.etag()) {
        return Ok((StatusCode::NOT_MODIFIED, etag).into_response());
    }
    Ok((etag, axum::Json(user)).into_response())
}

/// The account after a change.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedUser {
    #[serde(flatten)]
    user: User,
    /// How many planned reminders moved with the person's clock.
    moved_reminders: usize,
}

/// Change my account
///
/// A JSON merge patch (RFC 7396). Reminders that hang on my clock move with my time zone and the start of my day;
/// nothing that was sent is sent again.
#[utoipa::path(
    patch, path = "/me", tag = "accounts", operation_id = "update_me", params(IfMatch),
    request_body(content((UserPatch = "application/json"), (UserPatch = "application/merge-patch+json"))),
    responses(
        (status = 200, description = "The account as it is now", body = ChangedUser, headers(("ETag" = String, description = "Its version"))),
        Problem,
    ),
)]
async fn update_me(
    State(app): State<AppState>,
    auth: Auth,
    if_match: IfMatch,
    Json(patch): Json<UserPatch>,
) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let patched = User::patch(&mut tx, auth.viewer, &if_match.expected("u"), &patch).await;
    let (user, moved_reminders) = tx.finish(patched).await?;
    Ok(([(header::ETAG, user.etag())], axum::Json(ChangedUser { user, moved_reminders })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_last_that_no_trusted_proxy_has() {
        let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let behind =
            |peer: &str, hops: &[&str]| Address::behind(&trusted, peer.parse().unwrap(), hops).0.to_string();
        assert_eq!(
            behind("192.0.2.1", &["198.51.100.1"]),
            "192.0.2.1",
            "a peer that is not trusted is the client"
        );
        assert_eq!(behind("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.1", " 192.0.2.1"]), "192.0.2.1");
        assert_eq!(behind("::ffff:10.0.0.1", &["192.0.2.1", "fd00::1"]), "192.0.2.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.1", "192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(behind("10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        for unreadable in ["unknown", "", "_hidden", "192.0.2.1:port"] {
            assert_eq!(behind("10.0.0.1", &["198.51.100.1", unreadable]), "10.0.0.1", "{unreadable}");
        }
        assert_eq!(behind("10.0.0.1", &["10.0.0.3", "10.0.0.2"]), "10.0.0.3", "a client inside");
    }

    #[test]
    fn the_dummy_is_a_hash_of_ours_that_no_password_fits() {
        let (dummy, ours) = (PasswordHash::new(DUMMY).unwrap(), hash("correct horse battery").unwrap());
        let ours = PasswordHash::new(&ours).unwrap();
        assert_eq!(
            (dummy.algorithm, dummy.version, &dummy.params),
            (ours.algorithm, ours.version, &ours.params)
        );
        assert_eq!(dummy.hash.unwrap().len(), ours.hash.unwrap().len());
        assert!(!verify("correct horse battery", DUMMY));
    }
}
