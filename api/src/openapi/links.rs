//! What can be done next with what an answer holds: the links of the document (OpenAPI 3.1 §4.8.20). One table says where
//! the id of a thing is found, and each answer gets a link to every operation on that thing.

use std::collections::BTreeMap;

use utoipa::openapi::{
    OpenApi, RefOr,
    link::Link,
    path::{Operation, PathItem},
};

use crate::auth::scopes::BASE;

/// An answer that holds ids: the operation, its status, the path that they fill, and where each of them stands (RFC 6901).
/// Links lead to the operations on that path and below, as far as the ids fill their paths. A list stands here only where
/// nobody makes what it lists: then its first row is taken.
const SOURCES: &[(&str, &str, &str, Ids)] = &[
    ("create_task", "201", "/tasks/{id}", ID),
    ("create_comment", "201", "/comments/{id}", ID),
    ("create_reminder", "201", "/tasks/{id}/reminders/{rid}", &[("id", REQUESTED), ("rid", "#/id")]),
    ("create_project", "201", "/projects/{id}", ID),
    (
        "create_project",
        "201",
        "/projects/{id}/members/{user_id}",
        &[("id", "#/id"), ("user_id", "#/owner_id")],
    ),
    ("list_project_members", "200", "/projects/{id}/members/{user_id}", MEMBER),
    ("create_team", "201", "/teams/{id}", ID),
    ("list_team_members", "200", "/teams/{id}/members/{user_id}", MEMBER),
    ("create_tag", "201", "/tags/{id}", ID),
    ("create_webhook", "201", "/webhooks/{id}", ID),
    ("test_webhook", "202", "/webhooks/{id}/deliveries/{did}", &[("id", "#/endpoint_id"), ("did", "#/id")]),
    (
        "test_webhook",
        "200",
        "/webhooks/{id}/deliveries/{did}",
        &[("id", REQUESTED), ("did", "#/delivery/id")],
    ),
    (
        "list_deliveries",
        "200",
        "/webhooks/{id}/deliveries/{did}",
        &[("id", REQUESTED), ("did", "#/data/0/id")],
    ),
    ("report_productivity", "202", "/reports/{id}", ID),
    ("create_api_token", "201", "/me/tokens/{id}", ID),
    ("delete_me", "202", "/me/restore", &[]),
    ("list_sessions", "200", "/me/sessions/{id}", FIRST),
    ("list_users", "200", "/admin/users/{id}", FIRST),
    ("list_jobs", "200", "/admin/jobs/{id}", FIRST),
    ("list_suppressions", "200", "/admin/suppressions/{id}", FIRST),
    ("list_queues", "200", "/admin/queues/{queue}", &[("queue", "#/data/0/name")]),
];

/// A parameter of a path, and where its value is.
type Ids = &'static [(&'static str, &'static str)];

const ID: Ids = &[("id", "#/id")];
const FIRST: Ids = &[("id", "#/data/0/id")];
const MEMBER: Ids = &[("id", REQUESTED), ("user_id", "#/data/0/user_id")];
/// It is that of the request.
const REQUESTED: &str = "";

/// Adds the links.
pub(crate) fn document(document: &mut OpenApi) {
    let targets: Vec<(String, String)> = operations(document)
        .filter_map(|(path, operation)| Some((path.to_owned(), operation.operation_id.clone()?)))
        .collect();
    for (source, status, below, ids) in SOURCES {
        let links = targets.iter().filter(|(path, id)| leads_to(path, below, ids) && id != source);
        let links: Vec<(String, RefOr<Link>)> =
            links.map(|(_, id)| (id.clone(), RefOr::T(link(id, ids)))).collect();
        let found =
            operations(document).find(|(_, operation)| operation.operation_id.as_deref() == Some(source));
        let response = found.and_then(|(_, operation)| operation.responses.responses.get_mut(*status));
        if let Some(RefOr::T(response)) = response {
            response.links.extend(links);
        }
    }
}

/// Whether the operation at `path` acts on the thing at `below`, and needs no other ids than these.
fn leads_to(path: &str, below: &str, ids: Ids) -> bool {
    let rest = path.strip_prefix(BASE).and_then(|path| path.strip_prefix(below));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && path.split('/').filter(|part| part.starts_with('{')).count() == ids.len()
}

fn link(operation: &str, ids: Ids) -> Link {
    let parameters: BTreeMap<String, serde_json::Value> = ids
        .iter()
        .map(|(name, at)| {
            let value = match *at {
                REQUESTED => format!("$request.path.{name}"),
                at => format!("$response.body{at}"),
            };
            ((*name).to_owned(), value.into())
        })
        .collect();
    let mut link = Link::default();
    link.operation_id = operation.to_owned();
    link.parameters = parameters;
    link
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = (&str, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let PathItem { get, post, put, patch, delete, .. } = item;
        [get, post, put, patch, delete].into_iter().flatten().map(|operation| (path.as_str(), operation))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A renamed operation takes its links with it.
    #[test]
    fn every_source_is_there_and_leads_somewhere() {
        let mut document = crate::router::document();
        for (source, status, below, ids) in SOURCES {
            let (_, operation) = operations(&mut document)
                .find(|(_, operation)| operation.operation_id.as_deref() == Some(source))
                .unwrap_or_else(|| panic!("there is no {source}"));
            let RefOr::T(response) = &operation.responses.responses[*status] else { panic!("{source}") };
            let led: Vec<String> = response.links.keys().cloned().collect();
            let target = operations(&mut document)
                .find(|(path, _)| leads_to(path, below, ids))
                .and_then(|(_, operation)| operation.operation_id.clone())
                .unwrap_or_else(|| panic!("{source}: nothing is at {below}"));
            assert!(led.contains(&target), "{source} {status}: {led:?} lacks {target}");
        }
    }

    /// Whoever makes a thing learns from the answer what to do with it.
    #[test]
    fn every_operation_on_one_thing_is_led_to() {
        let mut document = crate::router::document();
        let mut led = std::collections::BTreeSet::new();
        for (_, operation) in operations(&mut document) {
            for response in operation.responses.responses.values() {
                if let RefOr::T(response) = response {
                    led.extend(response.links.keys().cloned());
                }
            }
        }
        for (path, operation) in operations(&mut document).filter(|(path, _)| path.contains('{')) {
            let id = operation.operation_id.clone().unwrap_or_default();
            assert!(
                led.contains(&id),
                "{path}: say in api/src/openapi/links.rs where the id of {id} is found"
            );
        }
    }
}
