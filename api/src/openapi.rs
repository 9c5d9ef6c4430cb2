//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them. `openapi.json` beside
//! this crate is its committed copy, which CI compares.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::error::Problem;

/// What holds for all operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "TaskTracker",
        description = "Tasks with reminders that arrive. Errors are problems (RFC 9457) with a stable `code`; a retry \
                       with the same `Idempotency-Key` has its effect once; every resource has a strong `ETag`.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "accounts", description = "Registering, logging in, and oneself"),
        (name = "tasks", description = "What a person has to do"),
        (name = "projects", description = "Tasks that belong together, and who works on them"),
        (name = "teams", description = "People who work together"),
        (name = "comments", description = "What people say about a task"),
        (name = "tags", description = "Words on tasks"),
        (name = "notifications", description = "What a person wants to be told by mail, and their daily summary"),
        (name = "reminders", description = "What reminds them, and what came of it"),
        (name = "reports", description = "Figures about one's own tasks"),
        (name = "webhooks", description = "Telling other programs what happened, and what came of that"),
        (name = "operations", description = "Queues, jobs and accounts, for administrators"),
    ),
    components(schemas(Problem)),
    security(("bearer" = [])),
    modifiers(&Bearer),
)]
pub(crate) struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("The access token of `POST /api/v1/auth/login`."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The document, as it is committed.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn json() -> anyhow::Result<String> {
    Ok(crate::router::documented().1.to_pretty_json()? + "\n")
}
