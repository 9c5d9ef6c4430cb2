//! Pages for people, without scripts: the shell around them, and what escapes what goes into it. What a page says is
//! written where its resource is.

use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse as _, Response},
};

use crate::error::ApiError;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;\
    color-scheme:light dark}code{font-family:ui-monospace,monospace}dt{margin-top:1rem;font-weight:600}\
    input,button{font:inherit;padding:.5rem .8rem;margin:.3rem 0}input{display:block;width:100%;max-width:24rem}";

/// A page. `body` is HTML: what a person typed has gone through [`escaped`]. Nobody keeps it, for its address may carry
/// a token.
pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let title = escaped(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} · TaskTracker</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; \
                  frame-ancestors 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Html(html)).into_response()
}

/// The page of a refusal.
pub(crate) fn refused(error: &ApiError) -> Response {
    let code = error.code();
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page(status, code.title(), &format!("<p>{}</p>", escaped(code.help())))
}

/// Text as it may stand in HTML, also in an attribute.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
