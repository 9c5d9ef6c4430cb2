use chrono::{DateTime, NaiveDate, Utc};
use diesel::{ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, pg::Pg};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Line, Range, ReportGroup, lines};
use crate::{
    access::Viewer,
    db::{Db, RunQueryDsl as _, Tx},
    error::{Error, Result},
    ids::{ReportId, UserId},
    jobs::{GenerateReport, Job as _},
    schema::reports,
    users::Person,
    zone::Zone,
};

/// Periods that are computed in one transaction.
const STEP: usize = 100;
/// The same report is not computed again within so long.
const FRESH: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// How far a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    /// A job works on it.
    Running,
    /// It is complete.
    Done,
}

/// A report that a job computes.
#[derive(Debug, Clone, HasQuery)]
#[diesel(table_name = reports, check_for_backend(Pg))]
pub struct Report {
    /// Its id.
    pub id: ReportId,
    /// Whose.
    pub user_id: UserId,
    /// The first day.
    pub first_day: NaiveDate,
    /// The last day.
    pub last_day: NaiveDate,
    /// What a line sums up.
    pub grouped_by: ReportGroup,
    /// On whose clock days begin.
    pub time_zone: Zone,
    /// How many lines there will be.
    pub periods: i32,
    /// How many there are.
    pub done_periods: i32,
    /// The lines so far.
    pub lines: Value,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was complete.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Report {
    /// How far it is.
    pub fn state(&self) -> ReportState {
        if self.finished_at.is_some() { ReportState::Done } else { ReportState::Running }
    }

    /// Its lines.
    ///
    /// # Errors
    /// If another version of this program wrote them in another form.
    pub fn read_lines(&self) -> Result<Vec<Line>> {
        serde_json::from_value(self.lines.clone()).map_err(|error| Error::Internal(error.into()))
    }

    /// Asks for a report, unless the same was asked for a short time ago: then it is that.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn request(tx: &mut Tx, viewer: Viewer, range: Range) -> Result<Self> {
        let clock = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, clock).await?;
        let same = Self::query()
            .filter(reports::user_id.eq(viewer.user_id))
            .filter(reports::created_at.gt(person.now - FRESH))
            .filter(reports::first_day.eq(range.first))
            .filter(reports::last_day.eq(range.last))
            .filter(reports::grouped_by.eq(range.group))
            .filter(reports::time_zone.eq(Zone::from(person.zone)))
            .order(reports::created_at.desc())
            .first(tx.conn())
            .await
            .optional()?;
        if let Some(same) = same {
            return Ok(same);
        }
        let id = ReportId::new();
        let job = GenerateReport { report_id: id, user_id: viewer.user_id }.enqueue(tx).await?;
        diesel::insert_into(reports::table)
            .values((
                (reports::id.eq(id), reports::user_id.eq(viewer.user_id)),
                (reports::first_day.eq(range.first), reports::last_day.eq(range.last)),
                (reports::grouped_by.eq(range.group), reports::time_zone.eq(Zone::from(person.zone))),
                reports::periods.eq(i32::try_from(range.periods().len()).unwrap_or(i32::MAX)),
                (reports::job_id.eq(Some(job)), reports::created_at.eq(person.now)),
            ))
            .execute(tx.conn())
            .await?;
        Self::find(tx.conn(), viewer, id).await
    }

    /// The viewer's report.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not theirs, or was deleted after its days.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: ReportId) -> Result<Self> {
        Self::query()
            .filter(reports::id.eq(id))
            .filter(reports::user_id.eq(viewer.user_id))
            .first(conn)
            .await
            .optional()?
            .ok_or(Error::NotFound("report"))
    }

    /// Computes the next lines, and answers whether that were the last. Whoever finds that another was quicker writes
    /// nothing.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn go_on(db: &Db, viewer: Viewer, id: ReportId) -> Result<bool> {
        let mut tx = db.begin().await?;
        let went_on = go_on(&mut tx, viewer, id).await;
        tx.finish(went_on).await
    }
}

async fn go_on(tx: &mut Tx, viewer: Viewer, id: ReportId) -> Result<bool> {
    let report = Report::query()
        .filter(reports::id.eq(id))
        .filter(reports::user_id.eq(viewer.user_id))
        .for_update()
        .first(tx.conn())
        .await
        .optional()?;
    // It was deleted: nobody waits for it.
    let Some(report) = report else { return Ok(true) };
    if report.finished_at.is_some() {
        return Ok(true);
    }
    let periods =
        Range { first: report.first_day, last: report.last_day, group: report.grouped_by }.periods();
    let done = usize::try_from(report.done_periods).unwrap_or_default();
    let next: Vec<_> = periods.iter().skip(done).take(STEP).copied().collect();
    let mut all = report.read_lines()?;
    all.extend(lines(tx.conn(), viewer, &next, report.time_zone.tz()).await?);
    let is_done = all.len() >= periods.len();
    let finished_at = is_done.then(|| tx.clock().instant());
    let written = serde_json::to_value(&all).map_err(|error| Error::Internal(error.into()))?;
    diesel::update(reports::table.find(id))
        .set((
            reports::lines.eq(written),
            reports::done_periods.eq(i32::try_from(all.len()).unwrap_or(i32::MAX)),
            reports::finished_at.eq(finished_at),
        ))
        .execute(tx.conn())
        .await?;
    Ok(is_done)
}
