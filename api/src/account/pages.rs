//! `/account/…`: where the links of account mails lead. Opening one changes nothing, for programs open links as well;
//! only its button does. There is no CSRF token because there is nothing to forge with: the service sets no cookies and
//! knows no other credentials that a browser would add by itself, and the authority is the token of the link, in the
//! form's own body, which no other site knows.

use axum::{
    Form, Router,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use garde::Validate as _;
use serde::Deserialize;

use super::NewPassword;
use crate::{
    auth::Address,
    html::{escaped, page, refused},
    limits::Bucket,
    state::AppState,
};

/// The pages.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/account/verify", get(ask_to_verify).post(verify))
        .route("/account/reset", get(ask_for_password).post(reset))
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
}

async fn ask_to_verify(Query(Token { token }): Query<Token>) -> Response {
    form("Confirm your address", "/account/verify", &token, "", "Confirm")
}

async fn verify(
    State(app): State<AppState>,
    address: Address,
    Form(Token { token }): Form<Token>,
) -> Response {
    let confirmed = async {
        app.limits.take_address(Bucket::Link, address.0).await?;
        super::confirm(&app, &token).await
    };
    match confirmed.await {
        Ok(()) => page(StatusCode::OK, "Your address is confirmed", "<p>You can close this page.</p>"),
        Err(error) => refused(&error),
    }
}

async fn ask_for_password(Query(Token { token }): Query<Token>) -> Response {
    form("Set a password", "/account/reset", &token, PASSWORD, "Set it")
}

const PASSWORD: &str = "<label>Your new password, 12 characters or more<input type=\"password\" name=\"password\" \
    minlength=\"12\" maxlength=\"1024\" required autocomplete=\"new-password\"></label>";

async fn reset(State(app): State<AppState>, address: Address, Form(new): Form<NewPassword>) -> Response {
    if new.validate().is_err() {
        let body = "<p>A password has 12 characters or more, at most 1,024 bytes, and is not one of those that are easy \
                    to guess. Go back and choose another.</p>";
        return page(StatusCode::UNPROCESSABLE_ENTITY, "This password will not do", body);
    }
    let set = async {
        app.limits.take_address(Bucket::Link, address.0).await?;
        super::set_password(&app, &new.token, new.password).await
    };
    match set.await {
        Ok(()) => {
            page(StatusCode::OK, "Your password is set", "<p>All sessions were ended. Log in with it.</p>")
        }
        Err(error) => refused(&error),
    }
}

fn form(title: &str, action: &str, token: &str, fields: &str, button: &str) -> Response {
    let token = escaped(token);
    let body = format!(
        "<form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"token\" value=\"{token}\">{fields}\
         <button>{button}</button></form>"
    );
    page(StatusCode::OK, title, &body)
}
