//! `/problems/{code}`: what an error means and what to do, for people. The `type` of every problem points here.

use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse as _, Response},
};
use common::error::Code;

use crate::{
    error::{Result, problem_path},
    extract::Path,
};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;\
    color-scheme:light dark}code{font-family:ui-monospace,monospace}dt{margin-top:1rem;font-weight:600}";

/// All codes.
pub(crate) async fn index() -> Response {
    let entries: String = Code::ALL
        .iter()
        .map(|code| {
            format!(
                "<dt><a href=\"{}\"><code>{code}</code></a> · {}</dt><dd>{}</dd>",
                problem_path(*code),
                code.status(),
                code.title()
            )
        })
        .collect();
    page("Problems", &format!("<dl>{entries}</dl>"))
}

/// One code.
pub(crate) async fn show(Path(name): Path<String>) -> Result<Response> {
    let code = Code::ALL.iter().find(|code| code.name().replace('_', "-") == name);
    let code = code.ok_or(common::error::Error::NotFound("problem"))?;
    let help = escaped(code.help());
    let body = format!(
        "<p><code>{code}</code> · status {}</p><p>{help}</p><p><a href=\"/problems\">All problems</a></p>",
        code.status()
    );
    Ok(page(code.title(), &body))
}

fn page(title: &str, body: &str) -> Response {
    let title = escaped(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} · TaskTracker</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    (StatusCode::OK, [(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
