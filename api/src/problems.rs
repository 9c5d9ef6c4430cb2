//! `/problems/{code}`: what an error means and what to do, for people. The `type` of every problem points here.

use axum::{http::StatusCode, response::Response};
use common::error::Code;

use crate::{
    error::{Result, problem_path},
    extract::Path,
    html::{escaped, page},
};

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
    page(StatusCode::OK, "Problems", &format!("<dl>{entries}</dl>"))
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
    Ok(page(StatusCode::OK, code.title(), &body))
}
