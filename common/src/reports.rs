//! Figures about what a person has to do: their own tasks and those they were given. A day is a day on their own clock;
//! its ends are computed by [`zone`], and SQL counts between them.

mod stored;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Double, Integer, Nullable, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::stored::{Report, ReportState};
use crate::{
    access::Viewer,
    clock::Now,
    db::{RunQueryDsl as _, pg_enum, sql},
    error::{Code, Error, FieldError, Result},
    users::Person,
    zone,
};

/// Days that [`Stats`] look back.
const DAYS: u64 = 30;
/// The longest range of a report.
const LONGEST: u64 = 3_660;
/// Periods that are computed while the caller waits; what is longer is a job's work.
pub const AT_ONCE: usize = 400;

pg_enum! {
    /// What a line of a report sums up.
    ReportGroup: ReportGroup {
        /// A day.
        Day = "day",
        /// A week, from Monday (ISO 8601).
        Week = "week",
    }
}

/// The viewer's tasks, in SQL: theirs, or given to them, and not in the trash.
macro_rules! mine_sql {
    () => {
        "(t.owner_id = {me} OR t.assignee_id = {me}) AND t.deleted_at IS NULL"
    };
}

/// How it stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stats {
    /// Not begun.
    pub todo: i64,
    /// Begun.
    pub in_progress: i64,
    /// Finished.
    pub done: i64,
    /// Not to be done any more.
    pub cancelled: i64,
    /// Open, and due before now.
    pub overdue: i64,
    /// Seconds from making a task to finishing it, on average over the last 30 days; null if none was finished.
    #[schema(example = 86_400.5)]
    pub average_completion_seconds: Option<f64>,
    /// The last 30 days, today last.
    pub days: Vec<Line>,
}

/// What happened in a day or a week.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// The first day.
    pub from: NaiveDate,
    /// The last day.
    pub to: NaiveDate,
    /// Tasks made.
    pub created: i64,
    /// Tasks finished.
    pub completed: i64,
    /// Of those, finished after they were due.
    pub completed_late: i64,
    /// Seconds from making to finishing, on average; null if none was finished.
    pub average_completion_seconds: Option<f64>,
}

#[derive(QueryableByName)]
struct Counts {
    #[diesel(sql_type = BigInt)]
    todo: i64,
    #[diesel(sql_type = BigInt)]
    in_progress: i64,
    #[diesel(sql_type = BigInt)]
    done: i64,
    #[diesel(sql_type = BigInt)]
    cancelled: i64,
    #[diesel(sql_type = BigInt)]
    overdue: i64,
}

impl Stats {
    /// Counts the viewer's tasks.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn read(conn: &mut AsyncPgConnection, viewer: Viewer, now: Now) -> Result<Self> {
        let person = Person::load(conn, viewer.user_id, now).await?;
        let counts: Counts = sql!(
            concat!(
                "SELECT count(*) FILTER (WHERE status = 'todo') AS todo,
                     count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
                     count(*) FILTER (WHERE status = 'done') AS done,
                     count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
                     count(*) FILTER (WHERE status IN ('todo', 'in_progress') AND due_at < {now}) AS overdue
                 FROM tasks t WHERE t.archived_at IS NULL AND ",
                mine_sql!()
            ),
            me: Uuid = viewer.user_id,
            now = now,
        )
        .get_result(conn)
        .await?;
        let today = zone::local_date(person.now, person.zone);
        let days = Range::new(today - Days::new(DAYS - 1), today, ReportGroup::Day)?;
        let days = lines(conn, viewer, &days.periods(), person.zone).await?;
        let finished: i64 = days.iter().map(|day| day.completed).sum();
        let seconds: f64 =
            days.iter().filter_map(|day| Some(day.average_completion_seconds? * count(day.completed))).sum();
        let Counts { todo, in_progress, done, cancelled, overdue } = counts;
        let average_completion_seconds = (finished > 0).then(|| seconds / count(finished));
        Ok(Self { todo, in_progress, done, cancelled, overdue, average_completion_seconds, days })
    }
}

fn count(tasks: i64) -> f64 {
    f64::from(u32::try_from(tasks).unwrap_or(u32::MAX))
}

/// The days that a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: NaiveDate,
    last: NaiveDate,
    group: ReportGroup,
}

impl Range {
    /// From the first day to the last, both included.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it ends before it begins, or is longer than ten years.
    pub fn new(first: NaiveDate, last: NaiveDate, group: ReportGroup) -> Result<Self> {
        if last < first {
            return Err(wrong("`to` is the last day, and not before `from`."));
        }
        if last.signed_duration_since(first).num_days().unsigned_abs() > LONGEST {
            return Err(wrong("A report covers ten years at most."));
        }
        Ok(Self { first, last, group })
    }

    /// Its days or weeks, in order; the first and the last week may be short.
    pub fn periods(self) -> Vec<(NaiveDate, NaiveDate)> {
        let mut periods = Vec::new();
        let mut day = self.first;
        while day <= self.last {
            let end = match self.group {
                ReportGroup::Day => day,
                ReportGroup::Week => day + Days::new(6 - u64::from(day.weekday().num_days_from_monday())),
            };
            let end = end.min(self.last);
            periods.push((day, end));
            day = end + Days::new(1);
        }
        periods
    }
}

fn wrong(detail: &str) -> Error {
    Error::Malformed(FieldError::parameter("to", Code::MalformedParameter, detail))
}

#[derive(QueryableByName)]
struct Bucket {
    #[diesel(sql_type = Integer)]
    bucket: i32,
    #[diesel(sql_type = BigInt)]
    created: i64,
    #[diesel(sql_type = BigInt)]
    completed: i64,
    #[diesel(sql_type = BigInt)]
    late: i64,
    #[diesel(sql_type = Nullable<Double>)]
    took: Option<f64>,
}

/// A line for each period, which follow each other without a gap, in one statement.
///
/// # Errors
/// If the database is away.
pub async fn lines(
    conn: &mut AsyncPgConnection,
    viewer: Viewer,
    periods: &[(NaiveDate, NaiveDate)],
    tz: Tz,
) -> Result<Vec<Line>> {
    let starts = periods.iter().map(|(first, _)| zone::start_of_day(*first, tz));
    let end = periods.last().map(|(_, last)| zone::end_of_day(*last, tz));
    let bounds: Vec<DateTime<Utc>> = starts.chain(end).collect();
    let (Some(from), Some(to)) = (bounds.as_slice().first().copied(), bounds.as_slice().last().copied())
    else {
        return Ok(Vec::new());
    };
    let buckets: Vec<Bucket> = sql!(
        concat!(
            "SELECT bucket, sum(made)::bigint AS created, sum(finished)::bigint AS completed,
                 sum(was_late)::bigint AS late, avg(took)::float8 AS took
             FROM (
                 SELECT width_bucket(t.created_at, {bounds}) AS bucket, 1 AS made, 0 AS finished, 0 AS was_late,
                     NULL::float8 AS took
                 FROM tasks t WHERE t.created_at >= {from} AND t.created_at < {to} AND ",
            mine_sql!(),
            "    UNION ALL
                 SELECT width_bucket(t.completed_at, {bounds}), 0, 1, coalesce(t.completed_at > t.due_at, false)::int,
                     extract(epoch FROM t.completed_at - t.created_at)::float8
                 FROM tasks t WHERE t.completed_at >= {from} AND t.completed_at < {to} AND ",
            mine_sql!(),
            ") counted GROUP BY bucket"
        ),
        me: Uuid = viewer.user_id,
        bounds: Array<Timestamptz> = bounds,
        from: Timestamptz = from,
        to: Timestamptz = to,
    )
    .load(conn)
    .await?;
    let mut lines: Vec<Line> = periods
        .iter()
        .map(|(from, to)| Line {
            from: *from,
            to: *to,
            created: 0,
            completed: 0,
            completed_late: 0,
            average_completion_seconds: None,
        })
        .collect();
    for Bucket { bucket, created, completed, late, took } in buckets {
        // Buckets count from 1.
        let index = usize::try_from(bucket).ok().and_then(|bucket| bucket.checked_sub(1));
        if let Some(line) = index.and_then(|index| lines.get_mut(index)) {
            (line.created, line.completed, line.completed_late) = (created, completed, late);
            line.average_completion_seconds = took;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn weeks_begin_on_monday_and_the_ends_may_be_short() {
        // 1 January 2030 is a Tuesday.
        let weeks = Range::new(day("2030-01-01"), day("2030-01-15"), ReportGroup::Week).unwrap().periods();
        let expected =
            [("2030-01-01", "2030-01-06"), ("2030-01-07", "2030-01-13"), ("2030-01-14", "2030-01-15")];
        assert_eq!(weeks, expected.map(|(from, to)| (day(from), day(to))));
        let days = Range::new(day("2030-01-01"), day("2030-01-31"), ReportGroup::Day).unwrap().periods();
        assert_eq!(days.len(), 31);
    }

    #[test]
    fn a_range_that_cannot_be_is_refused() {
        assert!(Range::new(day("2030-01-02"), day("2030-01-01"), ReportGroup::Day).is_err());
        assert!(Range::new(day("2030-01-01"), day("2041-01-01"), ReportGroup::Week).is_err());
        let longest = Range::new(NaiveDate::MAX, NaiveDate::MAX, ReportGroup::Day);
        assert!(longest.is_ok());
    }
}
