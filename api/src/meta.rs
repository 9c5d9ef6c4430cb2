//! `/meta` and `/health`: what this installation is, and whether it works, for whoever asks. Nothing here may say who
//! uses it, or how it is built inside; probes of operators are on the internal port.

use axum::extract::State;
use common::{
    api_tokens::{self, Scope},
    db,
    error::Error,
    events::EventType,
    jobs, ledger, webhooks,
    zone::{self, Zone},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    config::Registration,
    error::{Problem, Result},
    idempotency::MAX_BODY,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(meta)).routes(routes!(health))
}

/// What this installation is.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    /// The version of the API program.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// What is switched on.
    features: Features,
    /// What is refused beyond.
    limits: LimitsOfInstallation,
    /// The time zone of who names none.
    default_time_zone: Zone,
    /// What webhooks can be told of; `GET /webhooks/event-types` explains each.
    event_types: Vec<EventType>,
    /// What API tokens can be let into.
    scopes: Vec<Scope>,
}

/// What is switched on.
#[derive(Debug, Serialize, ToSchema)]
struct Features {
    /// Whether everybody may make an account.
    registration: bool,
    /// Whether an address has to be confirmed before anything but account mail goes there.
    email_verification: bool,
    /// Whether mail leaves at present.
    mail: bool,
}

/// What is refused beyond.
#[derive(Debug, Serialize, ToSchema)]
struct LimitsOfInstallation {
    /// Bytes of a request's body.
    body_bytes: usize,
    /// Requests of one person in any minute; null if they are not limited.
    requests_per_minute: Option<u32>,
    /// Rows of a page.
    page_rows: u16,
    /// Characters that a password has at least.
    password_min_length: u16,
    /// API tokens of one person.
    api_tokens: i64,
    /// Webhooks of one person.
    webhooks: i64,
}

/// Read about this installation
#[utoipa::path(
    get, path = "/meta", tag = "meta", operation_id = "get_meta", security(()),
    responses((status = 200, description = "What it is", body = Meta), Problem),
)]
async fn meta(State(app): State<AppState>) -> Result<axum::Json<Meta>> {
    let paused = ledger::pause_of(&mut *app.db.conn().await?, jobs::MAIL).await?;
    let http = &app.settings.http;
    Ok(axum::Json(Meta {
        version: env!("CARGO_PKG_VERSION"),
        features: Features {
            registration: http.registration == Registration::Open,
            email_verification: app.settings.accounts.require_email_verification,
            mail: paused.is_none(),
        },
        limits: LimitsOfInstallation {
            body_bytes: MAX_BODY,
            requests_per_minute: Some(http.rate_limit_per_minute).filter(|limit| *limit > 0),
            page_rows: 200,
            password_min_length: 12,
            api_tokens: api_tokens::MAX_PER_USER,
            webhooks: webhooks::MAX_PER_OWNER,
        },
        default_time_zone: zone::instance().into(),
        event_types: EventType::ALL.to_vec(),
        scopes: Scope::all().collect(),
    }))
}

/// Whether it works.
#[derive(Debug, Serialize, ToSchema)]
struct Alive {
    /// Always `ok`; otherwise the answer is a problem.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Ask whether it works
///
/// 200 if requests can be handled, 503 if what they need is away.
#[utoipa::path(
    get, path = "/health", tag = "meta", operation_id = "get_health", security(()),
    responses((status = 200, description = "It works", body = Alive), Problem),
)]
async fn health(State(app): State<AppState>) -> Result<axum::Json<Alive>> {
    match db::problem(&app.db.patient()).await {
        None => Ok(axum::Json(Alive { status: "ok" })),
        Some(problem) => Err(Error::Unavailable(anyhow::anyhow!(problem)).into()),
    }
}
