//! `/admin/audit`: the audit trail.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use common::{
    audit::{AuditEvent, AuditFilter},
    db::Db,
    page::Page,
};
use futures::stream;

use crate::{
    answer::Paged,
    auth::Admin,
    error::{Problem, Result},
    extract::Query,
    routes::{Routes, routes},
    state::AppState,
};

/// Rows that are read at once for a CSV.
const BATCH: i64 = 1_000;
/// The columns of a CSV.
const COLUMNS: [&str; 10] = [
    "seq",
    "at",
    "actor_id",
    "actor_label",
    "event_type",
    "entity_type",
    "entity_id",
    "task_id",
    "request_id",
    "details",
];

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list))
}

/// List the audit trail
///
/// Who did what, and when, the newest first. Of tasks, projects and comments it says which fields changed and whose they
/// became, and nothing that people wrote: `GET /tasks/{id}/activity` tells that to those who see the task. With
/// `Accept: text/csv` all rows that the filters leave, as they are read and without pages. `tasktracker-api audit verify`
/// says whether all of it is as it was written.
#[utoipa::path(
    get, path = "/admin/audit", tag = "operations", operation_id = "list_audit", params(AuditFilter),
    responses(
        (status = 200, description = "A page, or all rows", content((Page<AuditEvent> = "application/json"), (String = "text/csv"))),
        Problem,
    ),
)]
async fn list(
    State(app): State<AppState>,
    _: Admin,
    Query(filter): Query<AuditFilter>,
    headers: HeaderMap,
) -> Result<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim().starts_with("text/csv")) {
        // What has begun is not broken off.
        return Ok(csv_of(app.db.patient(), filter));
    }
    let mut conn = app.db.conn().await?;
    Ok(Paged(AuditEvent::list(&mut conn, &filter, &app.cursor_keys).await?).into_response())
}

/// All rows, read a batch at a time while they are sent.
fn csv_of(db: Db, filter: AuditFilter) -> Response {
    let lines = stream::try_unfold(Some(None), move |next: Option<Option<i64>>| {
        let (db, filter) = (db.clone(), filter.clone());
        async move {
            let Some(before) = next else { return anyhow::Ok(None) };
            let rows = AuditEvent::before(&mut *db.conn().await?, &filter, before, BATCH).await?;
            let last = rows.as_slice().last().map(|row| row.seq);
            let more = (rows.len() >= usize::try_from(BATCH)?).then_some(last);
            Ok(Some((Bytes::from(lines(&rows, before.is_none())?), more)))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"audit.csv\""),
    ];
    (headers, Body::from_stream(lines)).into_response()
}

/// Rows as CSV (RFC 4180), with the names of the columns before the first.
fn lines(rows: &[AuditEvent], with_names: bool) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    if with_names {
        csv.write_record(COLUMNS)?;
    }
    for row in rows {
        let id = |id: Option<String>| id.unwrap_or_default();
        csv.write_record([
            row.seq.to_string(),
            row.at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            id(row.actor_id.map(|id| id.to_string())),
            harmless(&row.actor_label),
            row.event_type.clone(),
            row.entity_type.clone(),
            id(row.entity_id.map(|id| id.to_string())),
            id(row.task_id.map(|id| id.to_string())),
            harmless(row.request_id.as_deref().unwrap_or_default()),
            row.details.as_ref().map(ToString::to_string).unwrap_or_default(),
        ])?;
    }
    Ok(csv.into_inner()?)
}

/// Text that a spreadsheet does not take for a formula (OWASP, CSV injection).
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn no_text_is_a_formula() {
        for (text, cell) in
            [("=1+1@example.com", "'=1+1@example.com"), ("ann@example.com", "ann@example.com")]
        {
            assert_eq!(harmless(text), cell);
        }
    }
}
