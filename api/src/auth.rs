//! Who calls. Handlers take an [`Auth`] or an [`Admin`], and those without are public; what was found out about the caller
//! is put there by [`admit`](crate::admission::admit) before. Nothing here is about a resource.

mod address;
mod password;
pub(crate) mod scopes;

pub(crate) use address::Address;
use axum::{extract::FromRequestParts, http::request::Parts};
use common::{
    access::Viewer,
    error::{Code, Error},
    ids::{SessionId, UserId},
    users::User,
};
pub(crate) use password::{Hashing, fits, hashed};

use crate::{
    error::{ApiError, Result},
    state::AppState,
};

/// Who calls, by good credentials that may do what the route does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Auth {
    /// On whose behalf.
    pub(crate) viewer: Viewer,
    /// By what.
    pub(crate) by: Credential,
}

/// What a caller has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential {
    /// The access token of a session.
    Session(SessionId),
    /// An API token.
    ApiToken,
}

impl Auth {
    /// The session that calls.
    ///
    /// # Errors
    /// [`Code::SessionRequired`] if it is an API token.
    pub(crate) fn session(&self) -> Result<SessionId, Error> {
        match self.by {
            Credential::Session(session) => Ok(session),
            Credential::ApiToken => Err(Error::Forbidden(Code::SessionRequired)),
        }
    }
}

/// What is known of a caller, as an extension of the request.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Who it is.
    Known(Auth),
    /// They said who they are, and that is not good, or not good for this route. Public routes do not care.
    Refused {
        /// Why.
        code: Code,
        /// What to do about it.
        detail: String,
    },
}

impl FromRequestParts<AppState> for Auth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self> {
        match parts.extensions.get::<Caller>() {
            Some(Caller::Known(auth)) => Ok(*auth),
            Some(Caller::Refused { code, detail }) => Err(Error::conflict(*code, detail).into()),
            None => Err(Error::Unauthenticated(Code::Unauthenticated).into()),
        }
    }
}

/// An administrator calls, from where they may. Their role and whether the account is still active are read from the
/// database at every request: a token says who somebody was up to 15 minutes ago.
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
        let Ok(Address(from)) = Address::from_request_parts(parts, app).await;
        let allowed = &app.settings.http.admin_allow_cidrs;
        if !allowed.is_empty() && !allowed.iter().any(|network| network.contains(&from)) {
            return Err(Error::Forbidden(Code::AddressNotAllowed).into());
        }
        let auth = Auth::from_request_parts(parts, app).await?;
        auth.session()?;
        let address = User::admin_address(&mut *app.db.conn().await?, auth.viewer).await?;
        let address = address.ok_or(Error::Forbidden(Code::Forbidden))?;
        Ok(Self { user_id: auth.viewer.user_id, address })
    }
}
