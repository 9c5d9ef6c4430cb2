//! `/stats` and `/reports`: figures about the caller's tasks.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::NaiveDate;
use common::{
    error::{Code, Error},
    ids::ReportId,
    reports::{self, Line, Range, Report, ReportGroup, ReportState, Stats},
    users::Person,
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::Auth,
    error::{Problem, Result},
    extract::{Path, Query},
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new().routes(routes!(stats)).routes(routes!(productivity)).routes(routes!(get))
}

/// Count my tasks
///
/// By status, what is overdue, and for each of the last 30 days what was made and finished. What is archived is left out
/// of the counts by status.
#[utoipa::path(
    get, path = "/stats", tag = "reports", operation_id = "get_stats",
    responses((status = 200, description = "The figures", body = Stats), Problem),
)]
async fn stats(State(app): State<AppState>, auth: Auth) -> Result<axum::Json<Stats>> {
    let now = app.db.clock().now();
    Ok(axum::Json(Stats::read(&mut *app.db.conn().await?, auth.viewer, now).await?))
}

/// Which report.
#[derive(Debug, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
struct Wanted {
    /// The first day.
    #[param(example = "2026-11-01")]
    from: NaiveDate,
    /// The last day.
    #[param(example = "2026-11-30")]
    to: NaiveDate,
    /// What a line sums up; a day, unless said.
    group: Option<ReportGroup>,
    /// `csv` does the same as `Accept: text/csv`.
    #[param(inline)]
    format: Option<Format>,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Csv,
}

/// A report.
#[derive(Debug, Serialize, ToSchema)]
struct Productivity {
    /// By which it is found later; null for one that was computed at once.
    id: Option<ReportId>,
    /// How far it is.
    state: ReportState,
    /// From 0 to 1.
    #[schema(example = 1.0)]
    progress: f64,
    /// The first day.
    from: NaiveDate,
    /// The last day.
    to: NaiveDate,
    /// What a line sums up.
    group: ReportGroup,
    /// The lines, once it is done.
    lines: Vec<Line>,
}

/// Report what I made and finished
///
/// For each day or week on the caller's clock. What takes longer than an answer may, more than 400 lines, is computed by
/// a job: 202, and `Location` says where it can be watched and taken.
#[utoipa::path(
    get, path = "/reports/productivity", tag = "reports", operation_id = "report_productivity", params(Wanted),
    responses(
        (status = 200, description = "The report", content((Productivity = "application/json"), (String = "text/csv"))),
        (status = 202, description = "A job computes it", body = Productivity,
         headers(("Location" = String, description = "Where it will be"))),
        Problem,
    ),
)]
async fn productivity(
    State(app): State<AppState>,
    auth: Auth,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response> {
    let group = wanted.group.unwrap_or(ReportGroup::Day);
    let range = Range::new(wanted.from, wanted.to, group)?;
    let periods = range.periods();
    if periods.len() > reports::AT_ONCE {
        let mut tx = app.db.begin().await?;
        let requested = Report::request(&mut tx, auth.viewer, range).await;
        let report = tx.finish(requested).await?;
        let location = format!("/api/v1/reports/{}", report.id);
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], axum::Json(shown(&report)?))
            .into_response());
    }
    let (mut conn, now) = (app.db.conn().await?, app.db.clock().now());
    let zone = Person::load(&mut conn, auth.viewer.user_id, now).await?.zone;
    let lines = reports::lines(&mut conn, auth.viewer, &periods, zone).await?;
    if wanted.format == Some(Format::Csv) || wants_csv(&headers) {
        return csv_of(&lines);
    }
    let (from, to) = (wanted.from, wanted.to);
    let report = Productivity { id: None, state: ReportState::Done, progress: 1.0, from, to, group, lines };
    Ok(axum::Json(report).into_response())
}

/// Read a report
///
/// How far it is, and its lines once it is done. With `Accept: text/csv` the lines alone: 409 until then. Reports are kept
/// for a week.
#[utoipa::path(
    get, path = "/reports/{id}", tag = "reports", operation_id = "get_report", params(("id" = ReportId, Path)),
    responses(
        (status = 200, description = "The report", content((Productivity = "application/json"), (String = "text/csv"))),
        Problem,
    ),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<ReportId>,
    headers: HeaderMap,
) -> Result<Response> {
    let report = Report::find(&mut *app.db.conn().await?, auth.viewer, id).await?;
    if wants_csv(&headers) {
        if report.state() != ReportState::Done {
            return Err(Error::conflict(Code::ReportRunning, Code::ReportRunning.help()).into());
        }
        return csv_of(&report.read_lines()?);
    }
    Ok(axum::Json(shown(&report)?).into_response())
}

fn shown(report: &Report) -> Result<Productivity> {
    let state = report.state();
    Ok(Productivity {
        id: Some(report.id),
        state,
        progress: f64::from(report.done_periods) / f64::from(report.periods.max(1)),
        from: report.first_day,
        to: report.last_day,
        group: report.grouped_by,
        lines: if state == ReportState::Done { report.read_lines()? } else { Vec::new() },
    })
}

fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.trim().starts_with("text/csv"))
}

/// Lines as CSV (RFC 4180).
fn csv_of(lines: &[Line]) -> Result<Response> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    for line in lines {
        csv.serialize(line).map_err(|error| Error::Internal(error.into()))?;
    }
    let bytes = csv.into_inner().map_err(|error| Error::Internal(anyhow::anyhow!("{error}")))?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"productivity.csv\""),
    ];
    Ok((headers, bytes).into_response())
}
