//! `/auth/login` and what follows it, and `/me/sessions`: where a person is logged in.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    access::Viewer,
    audit::{self, Act},
    credentials::{ACCESS_TOKEN_LIFE, Client, Login, OpenSession, Refresh, Session, Sessions},
    db::Tx,
    error::{Code, Error},
    ids::SessionId,
    metrics,
    users::User,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::{Address, Auth, fits},
    error::{Problem, Result},
    extract::{Json, Path, Query},
    limits::Bucket,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(list))
        .routes(routes!(revoke))
}

/// An address and its password.
#[derive(Deserialize, Validate, ToSchema)]
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
#[derive(Serialize, ToSchema)]
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
    let good = fits(&app, login.as_ref(), credentials.password).await?;
    let mut tx = app.db.begin().await?;
    let begun = begin(&mut tx, login.as_ref(), good, &address.client(&app, &headers)).await;
    let Some(session) = tx.finish(begun).await? else {
        metrics::auth_event("login", "refused");
        return Err(Error::Unauthenticated(Code::InvalidCredentials).into());
    };
    metrics::auth_event("login", "ok");
    session_answer(&app, session).await
}

/// A session, if the password was good. Both ends are written down, and they take as long for an unknown address.
async fn begin(
    tx: &mut Tx,
    login: Option<&Login>,
    good: bool,
    client: &Client,
) -> Result<Option<Session>, Error> {
    let session = match login.filter(|_| good) {
        Some(login) => Session::begin(tx, login, client).await?,
        None => None,
    };
    let act = match (&session, login) {
        (Some(session), _) => Act::own(session.user_id, "session.begun"),
        (None, known) => Act {
            entity_id: known.map(|login| login.user_id.uuid()),
            ..Act::unknown("session.refused", "user")
        },
    };
    audit::record(tx, act).await?;
    Ok(session)
}

/// A refresh token.
#[derive(Deserialize, Validate, ToSchema)]
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
    let session = auth.session()?;
    let which = if parameters.all { Sessions::All } else { Sessions::One(session) };
    let mut tx = app.db.begin().await?;
    let ended = Session::end(&mut tx, auth.viewer.user_id, which).await;
    let act = Act::own(auth.viewer.user_id, "session.ended");
    let ended = audit::after(&mut tx, ended, |_| act).await;
    let ended = tx.finish(ended).await?;
    app.tokens.end(&ended);
    metrics::auth_event("logout", "ok");
    Ok(StatusCode::NO_CONTENT)
}

/// All of them, few as they are.
#[derive(Debug, Serialize, ToSchema)]
struct AllSessions {
    /// The one that was used last first.
    data: Vec<OpenSession>,
}

/// List my sessions
///
/// Where I am logged in. Which session asks is marked `current`.
#[utoipa::path(
    get, path = "/me/sessions", tag = "accounts", operation_id = "list_sessions",
    responses((status = 200, description = "The sessions that can go on", body = AllSessions), Problem),
)]
async fn list(State(app): State<AppState>, auth: Auth) -> Result<axum::Json<AllSessions>> {
    let (session, now) = (auth.session()?, app.db.clock().now());
    let data = OpenSession::list(&mut *app.db.conn().await?, now, auth.viewer, session).await?;
    Ok(axum::Json(AllSessions { data }))
}

/// End a session of mine
///
/// Its tokens are refused from now on. The one that asks can be ended as well.
#[utoipa::path(
    delete, path = "/me/sessions/{id}", tag = "accounts", operation_id = "end_session", params(("id" = SessionId, Path)),
    responses((status = 204, description = "Ended"), Problem),
)]
async fn revoke(State(app): State<AppState>, auth: Auth, Path(id): Path<SessionId>) -> Result<StatusCode> {
    auth.session()?;
    let mut tx = app.db.begin().await?;
    let ended = Session::end(&mut tx, auth.viewer.user_id, Sessions::One(id)).await;
    let act = Act::new(auth.viewer.user_id, "session.ended", "session", id.uuid());
    let ended = audit::after(&mut tx, ended, |_| act).await;
    let ended = tx.finish(ended).await?;
    if ended.is_empty() {
        return Err(Error::NotFound("session").into());
    }
    app.tokens.end(&ended);
    metrics::auth_event("session_ended", "ok");
    Ok(StatusCode::NO_CONTENT)
}
