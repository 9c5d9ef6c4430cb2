//! `/admin/mail`: whether mails leave.

use std::time::Duration;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use common::{
    error::{Code, Error},
    jobs::{Job as _, Letter, MAIL, SendMail},
    ledger,
    users::is_address,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::Admin,
    error::{Problem, Result},
    extract::Json,
    routes::{Routes, routes},
    state::AppState,
};

/// How long the answer waits for the mail: a little less than clients and proxies do.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(test))
}

/// Where the mail goes.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
struct MailTest {
    /// Another address than one's own.
    #[serde(default)]
    #[garde(inner(custom(is_address)))]
    #[schema(example = "ann@example.com")]
    to: Option<String>,
}

/// What the mail server said.
#[derive(Debug, Serialize, ToSchema)]
struct MailTested {
    /// Whether it took the mail.
    accepted: bool,
    /// Where the mail went.
    #[schema(example = "ann@example.com")]
    to: String,
    /// Its last word.
    #[schema(example = "250 2.0.0 OK")]
    reply: String,
    /// The whole dialogue, without login and text: `C:` is us, `S:` the server.
    transcript: Vec<String>,
}

/// Send a test mail
///
/// A worker sends it before all other mails; the answer waits for 20 seconds and shows the whole dialogue with the mail
/// server. 502: the server did not take it. 202: no worker has answered yet; `Location` is the job, whose `result` will
/// be this answer.
#[utoipa::path(
    post, path = "/admin/mail/test", tag = "operations", operation_id = "test_mail", request_body = MailTest,
    responses(
        (status = 200, description = "The server took it", body = MailTested),
        (status = 202, description = "No worker has answered yet"),
        (status = 502, description = "The server did not take it", body = MailTested),
        Problem,
    ),
)]
async fn test(State(app): State<AppState>, admin: Admin, Json(test): Json<MailTest>) -> Result<Response> {
    let mut tx = app.db.begin().await?;
    let enqueued = async {
        if let Some(pause) = ledger::pause_of(tx.conn(), MAIL).await? {
            return Err(Error::conflict(Code::QueuePaused, pause.to_string()));
        }
        SendMail { user_id: admin.user_id, letter: Letter::Test { to: test.to } }.enqueue(&mut tx).await
    };
    let enqueued = enqueued.await;
    let job = tx.finish(enqueued).await?;
    let ended = ledger::wait_for(&app.db, job, PATIENCE).await?;
    let Some(result) = ended.and_then(|ended| ended.result) else {
        return Ok(
            (StatusCode::ACCEPTED, [(header::LOCATION, format!("/api/v1/admin/jobs/{job}"))]).into_response()
        );
    };
    let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let lines = result["transcript"].as_array().into_iter().flatten();
    let tested = MailTested {
        accepted: result["accepted"] == Value::Bool(true),
        to: text("to"),
        reply: text("reply"),
        transcript: lines.filter_map(|line| line.as_str().map(str::to_owned)).collect(),
    };
    let status = if tested.accepted { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    Ok((status, axum::Json(tested)).into_response())
}
