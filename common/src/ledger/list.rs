//! The ledger as an operator reads it. There is no index by state, kind or queue, on purpose (design §2.1: it would
//! make every claim and finish dearer), so a list goes newest first by id and looks through [`SCAN`] rows a page at
//! most. What is unfinished has an index and is found however old it is.

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _,
    pg::Pg,
    sql_types::{Nullable, Text, Timestamptz},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::JobState;
use crate::{
    db::{RunQueryDsl as _, sql_condition, sql_expression},
    error::{Error, Result},
    ids::JobId,
    page::{Cursors, Page, Paging},
    schema::jobs,
    secrets::Key,
};

/// Rows that a page looks through at most.
pub(super) const SCAN: i64 = 50_000;
/// Rows per page if the caller does not say.
const DEFAULT_LIMIT: u16 = 50;
/// Rows per page at most.
const MAX_LIMIT: u16 = 200;

sql_expression! {
    /// The beginning of the newest error.
    pub LastError on jobs: Nullable<Text> = "left(jobs.errors -> -1 ->> 'text', 300)"
}

/// A job, as a list shows it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = jobs, check_for_backend(Pg))]
pub struct JobSummary {
    /// Its id.
    pub id: JobId,
    /// What it does: a wire name.
    #[schema(example = "send_reminder")]
    pub kind: String,
    /// Its queue.
    #[schema(example = "mail")]
    pub queue: String,
    /// Whose work it is: a user's id, a webhook endpoint's id, or `system`.
    pub lane: String,
    /// Where it stands. `dead` means a fault of ours.
    pub state: JobState,
    /// 0 first … 3.
    #[schema(example = 1)]
    pub priority: i16,
    /// When it may start, or could.
    pub run_at: DateTime<Utc>,
    /// Tries so far.
    #[schema(example = 2)]
    pub attempt: i16,
    /// Tries in all.
    #[schema(example = 6)]
    pub max_attempts: i16,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When its last try began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done, given up or cancelled.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who tried last.
    #[schema(example = "worker-1-4711-5be2c1f0")]
    pub worker: Option<String>,
    /// The beginning of its newest error.
    #[diesel(select_expression = LastError, select_expression_type = LastError)]
    #[schema(example = "421 4.7.0 try again later")]
    pub last_error: Option<String>,
}

/// A job with everything that is known of it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = jobs, check_for_backend(Pg))]
pub struct JobDetails {
    /// As lists show it.
    #[diesel(embed)]
    #[serde(flatten)]
    pub summary: JobSummary,
    /// What it is about: ids only.
    #[schema(value_type = Object, example = json!({"user_id": "0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978"}))]
    pub args: serde_json::Value,
    /// The last ten errors, and what operators did with it, oldest first: `at`, `attempt`, `worker`, `text`.
    #[schema(value_type = Vec<JobError>)]
    pub errors: serde_json::Value,
    /// What it says to whoever waits for it.
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Claims ever made.
    pub fence: i32,
    /// Times that its worker died.
    pub crashes: i16,
    /// Until when its worker need not show that it lives; null unless it runs.
    pub alive_until: Option<DateTime<Utc>>,
    /// When Redis was given it; null: the relay will.
    pub pushed_at: Option<DateTime<Utc>>,
    /// No other job can have it.
    #[schema(example = "cron:prune_history:2030-01-01T03:30:00Z")]
    pub unique_key: Option<String>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// Its trace (W3C Trace Context).
    pub traceparent: Option<String>,
}

/// An entry of [`JobDetails::errors`], for the documentation.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobError {
    /// When.
    pub at: DateTime<Utc>,
    /// In which try.
    pub attempt: i16,
    /// Which worker, or who.
    pub worker: Option<String>,
    /// What went wrong, or what was done.
    pub text: String,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this kind.
    #[param(example = "send_reminder")]
    pub kind: Option<String>,
    /// In this queue.
    #[param(example = "mail")]
    pub queue: Option<String>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = MAX_LIMIT)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// What a search through a part of the ledger found.
pub(super) struct Found<T> {
    pub(super) rows: Vec<T>,
    /// Where to go on; `None` at the end of the ledger.
    pub(super) next: Option<JobId>,
}

impl JobFilter {
    fn is_unfinished(&self) -> bool {
        matches!(self.state, Some(JobState::Ready | JobState::Running))
    }

    /// The newest jobs before `before`, at most `limit`, among the next `scan` rows.
    pub(super) async fn search(
        &self,
        conn: &mut AsyncPgConnection,
        before: Option<JobId>,
        limit: i64,
        scan: i64,
    ) -> Result<Found<JobSummary>> {
        let mut query = JobSummary::query().into_boxed::<Pg>();
        let mut edge = None;
        if self.is_unfinished() {
            query = query.filter(jobs::finished_at.is_null());
        } else {
            let mut ids = jobs::table.select(jobs::id).into_boxed::<Pg>();
            if let Some(before) = before {
                ids = ids.filter(jobs::id.lt(before));
            }
            edge =
                ids.order(jobs::id.desc()).offset(scan - 1).limit(1).first::<JobId>(conn).await.optional()?;
        }
        if let Some(edge) = edge {
            query = query.filter(jobs::id.ge(edge));
        }
        if let Some(before) = before {
            query = query.filter(jobs::id.lt(before));
        }
        if let Some(state) = self.state {
            query = query.filter(jobs::state.eq(state));
        }
        if let Some(kind) = &self.kind {
            query = query.filter(jobs::kind.eq(kind));
        }
        if let Some(queue) = &self.queue {
            query = query.filter(jobs::queue.eq(queue));
        }
        let mut rows: Vec<JobSummary> = query.order(jobs::id.desc()).limit(limit + 1).load(conn).await?;
        let more = i64::try_from(rows.len()).unwrap_or(i64::MAX) > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = if more { rows.last().map(|row| row.id) } else { edge };
        Ok(Found { rows, next })
    }
}

impl JobSummary {
    /// A page, newest first. It may have few rows, or none, and yet a next page: the search stopped after [`SCAN`]
    /// rows. Only operators may see it.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        filter: &JobFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let cursors = Cursors::new(cursor_keys, "jobs", filter)?;
        let before = filter.cursor.as_deref().map(|cursor| cursors.read::<JobId>(cursor)).transpose()?;
        let found = filter.search(conn, before, limit.into(), SCAN).await?;
        Page::until(found.rows, limit, &cursors, found.next.as_ref())
    }

    /// A page of what is unfinished in a queue, what is due first: what waits, is tried, or will be tried again. Only
    /// operators may see it.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn unfinished(
        conn: &mut AsyncPgConnection,
        queue: &str,
        paging: &Paging,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let cursors = Cursors::new(cursor_keys, "unfinished", &queue)?;
        let mut query = Self::query()
            .filter(jobs::finished_at.is_null())
            .filter(jobs::queue.eq(queue))
            .into_boxed::<Pg>();
        if let Some(cursor) = &paging.cursor {
            let (run_at, id) = cursors.read::<(DateTime<Utc>, JobId)>(cursor)?;
            query = query.filter(sql_condition!(
                "(jobs.run_at, jobs.id) > ({run_at}, {id})",
                run_at: Timestamptz = run_at,
                id: diesel::sql_types::Uuid = id,
            ));
        }
        let rows =
            query.order((jobs::run_at, jobs::id)).limit(i64::from(paging.limit()) + 1).load(conn).await?;
        Page::of(rows, paging.limit(), &cursors, |job: &Self| (job.run_at, job.id))
    }

    /// The newest, at most `limit`, and whether there may be more: for a terminal, which has no pages.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn newest(
        conn: &mut AsyncPgConnection,
        filter: &JobFilter,
        limit: i64,
    ) -> Result<(Vec<Self>, bool)> {
        let (mut rows, mut before) = (Vec::new(), None);
        loop {
            let wanted = limit - i64::try_from(rows.len()).unwrap_or(limit);
            let found = filter.search(conn, before, wanted, SCAN).await?;
            rows.extend(found.rows);
            before = found.next;
            if before.is_none() || i64::try_from(rows.len()).unwrap_or(limit) >= limit {
                return Ok((rows, before.is_some()));
            }
        }
    }
}

impl JobDetails {
    /// A job. Only operators may see it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, or it was pruned.
    pub async fn find(conn: &mut AsyncPgConnection, id: JobId) -> Result<Self> {
        Self::query().filter(jobs::id.eq(id)).first(conn).await.optional()?.ok_or(Error::NotFound("job"))
    }
}
