//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them. `openapi.json` beside
//! this crate is its committed copy, which CI compares.

pub(crate) mod links;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Ref, RefOr,
        schema::{ArrayItems, Schema},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
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
        (name = "meta", description = "What this installation is"),
    ),
    components(schemas(Problem)),
    modifiers(&Credentials),
)]
pub(crate) struct Document;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = || HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let session =
            bearer().bearer_format("JWT").description(Some("The access token of `POST /api/v1/auth/login`."));
        let api_token = bearer().bearer_format("ttp_…").description(Some(
            "An API token of `POST /api/v1/me/tokens`, with the scope that the operation names. Operations that do \
             not name one refuse it.",
        ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("session", SecurityScheme::Http(session.build()));
        components.add_security_scheme("api_token", SecurityScheme::Http(api_token.build()));
    }
}

/// Lets lists refer to what their rows are, which the derive writes out in each of them.
pub(crate) fn refer_to_rows(document: &mut utoipa::openapi::OpenApi) {
    let Some(components) = &mut document.components else { return };
    let names: Vec<String> = components.schemas.keys().cloned().collect();
    for (name, schema) in &mut components.schemas {
        let row = ["Page_", "All_"].iter().find_map(|list| name.strip_prefix(list));
        if let Some(row) = row.filter(|row| names.iter().any(|name| name == row))
            && let RefOr::T(Schema::Object(list)) = schema
            && let Some(RefOr::T(Schema::Array(rows))) = list.properties.get_mut("data")
        {
            rows.items = ArrayItems::RefOrSchema(Box::new(RefOr::Ref(Ref::from_schema_name(row))));
        }
    }
}

/// The committed copy, a part of the program. The document itself takes megabytes, and nobody needs it while requests are served.
const COMMITTED: &str = include_str!("../openapi.json");

/// `GET /openapi.json`
pub(crate) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], COMMITTED)
}

/// The document as the code says it; of an optimised program, which does not know, the committed copy.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn json() -> anyhow::Result<String> {
    if cfg!(debug_assertions) {
        Ok(crate::router::document().to_pretty_json()? + "\n")
    } else {
        Ok(COMMITTED.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn a_list_says_what_its_rows_are() {
        let document: Value = serde_json::from_str(&super::json().unwrap()).unwrap();
        let schemas = &document["components"]["schemas"];
        for (list, row) in [("Page_Tag", "Tag"), ("All_Reminder", "Reminder")] {
            let rows = &schemas[list]["properties"]["data"]["items"];
            assert_eq!(rows["$ref"], format!("#/components/schemas/{row}"), "{rows}");
        }
    }
}
