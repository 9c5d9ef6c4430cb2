//! Who gets in, before a handler sees the request: a limit by address, what the caller says they are, a limit by person
//! (design §3). Each is decided here once; handlers say by their extractors whom they want. What they write into the audit
//! trail says from where, too.

use axum::{
    extract::{FromRequestParts as _, MatchedPath, Request},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use common::{
    api_tokens::{Bearer, PREFIX},
    audit,
    error::{Code, Error},
};

use crate::{
    auth::{
        Address, Auth, Caller, Credential,
        scopes::{Needs, needed},
    },
    error::{ApiError, Result},
    idempotency,
    limits::Counted,
    state::AppState,
};

/// Lets a request in, or answers why not. What is known of the caller becomes an extension of the request, and how they
/// stand with their limit is said in the answer.
pub(crate) async fn admit(app: &AppState, request: Request, next: Next) -> Response {
    let mut counted = None;
    // What is safe writes nothing (RFC 9110 §9.2.1), so nothing of it says where it came from.
    let is_safe = request.method().is_safe();
    let mut response = match enter(app, request, &mut counted).await {
        Ok((_, request)) if is_safe => next.run(request).await,
        Ok((address, request)) => {
            audit::from_client(address.hash(app), idempotency::hash_body(request, next)).await
        }
        Err(error) => error.into_response(),
    };
    if let Some(counted) = counted {
        counted.say(response.headers_mut());
    }
    response
}

async fn enter(
    app: &AppState,
    request: Request,
    counted: &mut Option<Counted>,
) -> Result<(Address, Request)> {
    let (mut parts, body) = request.into_parts();
    let Ok(address) = Address::from_request_parts(&mut parts, app).await;
    *counted = app.limits.count_address(address.0).await;
    counted.as_ref().map_or(Ok(()), Counted::allowed)?;

    let template = parts.extensions.get::<MatchedPath>().cloned();
    let Some(token) = credentials(&parts.headers) else {
        return Ok((address, Request::from_parts(parts, body)));
    };
    let caller = match token {
        Some(token) => {
            identify(app, token, &parts.method, template.as_ref().map_or("", MatchedPath::as_str)).await?
        }
        None => refused(Code::InvalidToken),
    };
    if let Caller::Known(auth) = &caller
        && let Some(by_user) = app.limits.count_user(auth.viewer.user_id).await
    {
        *counted = Some(by_user);
        by_user.allowed()?;
    }
    parts.extensions.insert(caller);
    Ok((address, Request::from_parts(parts, body)))
}

/// The token of `Authorization: Bearer …`: `None` without the header, `Some(None)` if it holds something else.
fn credentials(headers: &HeaderMap) -> Option<Option<&str>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    Some(token)
}

/// Who brings this token, if it is good for the route.
async fn identify(app: &AppState, token: &str, method: &Method, template: &str) -> Result<Caller, ApiError> {
    if !token.starts_with(PREFIX) {
        return match app.tokens.read(token, app.db.clock().instant()) {
            Ok(caller) => {
                Ok(Caller::Known(Auth { viewer: caller.viewer, by: Credential::Session(caller.session) }))
            }
            Err(Error::Unauthenticated(code)) => Ok(refused(code)),
            Err(error) => Err(error.into()),
        };
    }
    let bearer = Bearer::read(&mut *app.db.conn().await?, app.db.clock(), token).await?;
    let Some(bearer) = bearer else { return Ok(refused(Code::InvalidToken)) };
    match needed(method, template) {
        Some(Needs::Scope(scope)) if !bearer.scopes.contains(&scope) => {
            let detail = format!("This needs an API token with the scope `{scope}`.");
            return Ok(Caller::Refused { code: Code::InsufficientScope, detail });
        }
        Some(Needs::Scope(_)) => {}
        Some(Needs::Session) | None => return Ok(refused(Code::SessionRequired)),
    }
    Ok(Caller::Known(Auth { viewer: bearer.viewer, by: Credential::ApiToken }))
}

fn refused(code: Code) -> Caller {
    Caller::Refused { code, detail: code.help().to_owned() }
}
