//! What an API token needs for a route: one table, which the OpenAPI document repeats for each operation. A route that
//! is not in it opens to no API token, and fails a test.

use axum::http::Method;
use common::api_tokens::{Access, Area, Scope};
use utoipa::openapi::{OpenApi, path::Operation, security::SecurityRequirement};

/// Where all operations are.
pub(crate) const BASE: &str = "/api/v1";

/// Routes and what is below them, by the template below [`BASE`], for one method if it says so; of several that fit, the
/// first counts. `None` is for sessions only: no API token may change what guards the account, or act as an administrator.
const AREAS: &[(&str, Option<Area>)] = &[
    ("/auth", None),
    ("/admin", None),
    ("DELETE /me", None),
    ("/me/restore", None),
    ("/me/password", None),
    ("/me/email", None),
    ("/me/tokens", None),
    ("/me/sessions", None),
    ("/me", Some(Area::Profile)),
    ("/tasks/{id}/reminders", Some(Area::Reminders)),
    ("/tasks/{id}/comments", Some(Area::Comments)),
    ("/tasks/{id}/attachments", Some(Area::Attachments)),
    ("/tasks", Some(Area::Tasks)),
    ("/tags", Some(Area::Tasks)),
    ("/filters", Some(Area::Tasks)),
    ("/projects/{id}/tasks", Some(Area::Tasks)),
    ("/projects", Some(Area::Projects)),
    ("/teams", Some(Area::Projects)),
    ("/reminders", Some(Area::Reminders)),
    ("/inbox", Some(Area::Reminders)),
    ("/comments", Some(Area::Comments)),
    ("/attachments", Some(Area::Attachments)),
    ("/webhooks", Some(Area::Webhooks)),
    ("/stats", Some(Area::Reports)),
    ("/reports", Some(Area::Reports)),
];

/// What a route asks of an API token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// This scope.
    Scope(Scope),
    /// It is for sessions only.
    Session,
}

/// What the operation `method` of the route with this template needs; `None` if the table does not know it.
pub(crate) fn needed(method: &Method, template: &str) -> Option<Needs> {
    let path = template.strip_prefix(BASE)?;
    let fits = |entry: &str| match entry.split_once(' ') {
        Some((only, route)) => method.as_str() == only && path == route,
        None => path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    let (_, area) = AREAS.iter().find(|(entry, _)| fits(entry))?;
    let access = if *method == Method::GET || *method == Method::HEAD { Access::Read } else { Access::Write };
    Some(area.map_or(Needs::Session, |area| Needs::Scope(Scope { area, access })))
}

/// Says of each operation by which credentials it can be called. Those that say themselves that they are public stay so.
pub(crate) fn document(document: &mut OpenApi) {
    for (method, path, operation) in operations(document) {
        if operation.security.is_some() {
            continue;
        }
        let mut by = vec![SecurityRequirement::new("session", [""; 0])];
        if let Some(Needs::Scope(scope)) = needed(&method, &path) {
            by.push(SecurityRequirement::new("api_token", [scope.to_string()]));
        }
        operation.security = Some(by);
    }
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = (Method, String, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let all = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        all.into_iter().filter_map(|(method, operation)| Some((method, path.clone(), operation.as_mut()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operation is public if it says so itself: `security(())`.
    fn is_public(operation: &Operation) -> bool {
        let written = serde_json::to_value(&operation.security).unwrap();
        written == serde_json::json!([{}])
    }

    #[test]
    fn every_operation_is_public_or_in_the_table() {
        let mut document = crate::router::document();
        let mut count = 0;
        for (method, path, operation) in operations(&mut document) {
            count += 1;
            let known = needed(&method, &path);
            assert!(
                is_public(operation) || known.is_some(),
                "{method} {path}: say in api/src/auth/scopes.rs what an API token needs for it"
            );
            if let Some(Needs::Scope(scope)) = known {
                assert!(
                    Scope::all().any(|known| known == scope) || is_public(operation),
                    "{method} {path}: there is no scope {scope}"
                );
            }
        }
        assert!(count > 40, "the walk finds operations");
    }

    #[test]
    fn what_guards_the_account_is_for_sessions_only() {
        for path in
            ["/auth/logout", "/me/password", "/me/email", "/me/tokens/{id}", "/me/sessions", "/admin/users"]
        {
            assert_eq!(needed(&Method::GET, &format!("{BASE}{path}")), Some(Needs::Session), "{path}");
        }
        let scope = |method, path: &str| match needed(&method, &format!("{BASE}{path}")) {
            Some(Needs::Scope(scope)) => scope.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(scope(Method::GET, "/tasks/{id}"), "tasks:read");
        assert_eq!(scope(Method::HEAD, "/tasks"), "tasks:read");
        assert_eq!(scope(Method::DELETE, "/tasks/{id}/reminders/{rid}"), "reminders:write");
        assert_eq!(scope(Method::PATCH, "/me"), "profile:write");
        assert_eq!(needed(&Method::DELETE, &format!("{BASE}/me")), Some(Needs::Session));
        assert_eq!(scope(Method::DELETE, "/me/vacations/{id}"), "profile:write");
        assert_eq!(scope(Method::GET, "/stats"), "reports:read");
        for unknown in ["/meta", "/mean", "/taskss", ""] {
            assert_eq!(needed(&Method::GET, &format!("{BASE}{unknown}")), None, "{unknown}");
        }
    }
}
