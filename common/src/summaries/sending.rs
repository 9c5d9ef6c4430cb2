use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery as _, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{Bool, Date, Double, Integer, Nullable, Text, Timestamptz, Uuid},
};
use serde_json::json;

use super::{Content, DigestState, Reader, Reason, message_id, plan};
use crate::{
    db::{Db, RunQueryDsl as _, Tx, sql},
    error::Result,
    events::{self, About, EventType, NewEvent},
    ids::{DigestRunId, JobId, UserId},
    metrics,
    notifications::Preferences,
    schema::{sql_types, user_notification_prefs as prefs},
    suppressions::{self, MailKind, SuppressionReason},
    telemetry::Origin,
    zone::Zone,
};

/// What the operator decided about summaries.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Whether an unconfirmed address gets none.
    pub verified_only: bool,
    /// After how many days a finished task is put away.
    pub archive_after_days: i32,
    /// What message ids end in.
    pub host: &'a str,
}

/// A run that is to be sent.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Where to.
    pub email: String,
}

/// A summary that this job alone may send now.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Which run.
    pub run_id: DigestRunId,
    /// The mail goes by this.
    pub message_id: String,
    /// The request that asked for it, if one did.
    pub origin: Origin,
    /// When it was to be sent.
    pub scheduled_at: DateTime<Utc>,
    /// What it says.
    pub content: Content,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    user_id: UserId,
    #[diesel(sql_type = Timestamptz)]
    scheduled_at: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    requested: bool,
    #[diesel(sql_type = sql_types::DigestState)]
    state: DigestState,
    #[diesel(sql_type = Bool)]
    tried: bool,
    #[diesel(sql_type = Bool)]
    in_flight: bool,
    #[diesel(sql_type = Nullable<Text>)]
    request_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    traceparent: Option<String>,
    #[diesel(sql_type = Text)]
    email: String,
    #[diesel(sql_type = Bool)]
    verified: bool,
    #[diesel(sql_type = Bool)]
    is_active: bool,
    #[diesel(sql_type = Text)]
    time_zone: Zone,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// Whom to send a run to, if it is still to be sent. Otherwise it is settled: too late, not wanted, nothing to say, or
/// cut short by an earlier try while it was handed over (semantics §5.4).
///
/// # Errors
/// If the database is away.
pub async fn waiting(
    db: &Db,
    run: DigestRunId,
    job: Option<JobId>,
    rules: Rules<'_>,
) -> Result<Option<Waiting>> {
    let mut tx = db.begin().await?;
    let judged = judge(&mut tx, run, job, rules).await;
    let verdict = tx.finish(judged).await?;
    Ok(verdict.open(run).map(|(row, _)| Waiting { email: row.email }))
}

/// Takes a run right before `DATA`: it is `sending` from now on, and says what is true now. `None` if it is not to be
/// sent any more.
///
/// # Errors
/// If the database is away.
pub async fn claim(db: &Db, run: DigestRunId, job: Option<JobId>, rules: Rules<'_>) -> Result<Option<Claim>> {
    let mut tx = db.begin().await?;
    let claimed = begin(&mut tx, run, job, rules).await;
    let verdict = tx.finish(claimed).await?;
    Ok(verdict.open(run).map(|(row, content)| Claim {
        run_id: run,
        message_id: message_id(run, rules.host),
        origin: Origin { request_id: row.request_id, traceparent: row.traceparent },
        scheduled_at: row.scheduled_at,
        content,
    }))
}

/// Judges a run, and marks it as `sending` if it is sent.
async fn begin(tx: &mut Tx, run: DigestRunId, job: Option<JobId>, rules: Rules<'_>) -> Result<Verdict> {
    let verdict = judge(tx, run, job, rules).await?;
    if let Verdict::Send(_, content) = &verdict {
        sql!(
            "UPDATE digest_runs SET state = 'sending', job_id = coalesce({job}, job_id), item_count = {items},
                 message_id = {message_id} WHERE id = {run}",
            run: Uuid = run,
            job: Nullable<Uuid> = job,
            items: Integer = i32::try_from(content.items()).unwrap_or(i32::MAX),
            message_id: Text = message_id(run, rules.host),
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(verdict)
}

/// What is to become of a run.
enum Verdict {
    /// Nothing: it is settled, or somebody else's.
    Nothing,
    /// It was settled just now.
    Settled(DigestState, Option<Reason>),
    /// It is sent.
    Send(Box<Row>, Box<Content>),
}

impl Verdict {
    /// What is to be sent; what was settled is counted, after the commit.
    fn open(self, run: DigestRunId) -> Option<(Row, Content)> {
        match self {
            Self::Nothing => None,
            Self::Settled(state, reason) => {
                metrics::digest_settled(state.as_str());
                let reason = reason.map(Reason::as_str);
                tracing::info!(digest.id = %run, state = state.as_str(), reason, "daily summary settled unsent");
                None
            }
            Self::Send(row, content) => Some((*row, *content)),
        }
    }
}

/// Locks a run and judges it by what is true now.
async fn judge(tx: &mut Tx, run: DigestRunId, job: Option<JobId>, rules: Rules<'_>) -> Result<Verdict> {
    let Some(row) = lock(tx, run, job).await? else { return Ok(Verdict::Nothing) };
    match row.state {
        DigestState::Planned => {}
        DigestState::Sending if !row.in_flight => {
            return settle_as(tx, run, DigestState::Unknown, None).await;
        }
        _ => return Ok(Verdict::Nothing),
    }
    let preferences = Preferences::query()
        .filter(prefs::user_id.eq(row.user_id))
        .first(tx.conn())
        .await
        .optional()?
        .unwrap_or_default();
    let tz = row.time_zone.tz();
    let late = match row.requested {
        true => row.now - row.scheduled_at > plan::TOO_LATE,
        false => plan::is_too_late(row.scheduled_at, row.now, tz),
    };
    if late {
        return match row.tried {
            true => settle_as(tx, run, DigestState::Failed, Some(Reason::GaveUp)).await,
            false => settle_as(tx, run, DigestState::SkippedLate, None).await,
        };
    }
    let held = suppressions::held(tx.conn(), &row.email, MailKind::DailySummary).await?;
    if let Some(reason) = unwanted(&row, &preferences, held, rules.verified_only) {
        return settle_as(tx, run, DigestState::Skipped, Some(reason)).await;
    }
    let reader = Reader { user_id: row.user_id, tz, now: row.now };
    let content = Content::read(tx.conn(), reader, &preferences, rules.archive_after_days).await?;
    if content.is_empty() && preferences.digest_skip_empty && !row.requested {
        return settle_as(tx, run, DigestState::SkippedEmpty, None).await;
    }
    Ok(Verdict::Send(Box::new(row), Box::new(content)))
}

/// Why a run is not wanted. What a person asked for by hand comes although they have paused or unsubscribed.
fn unwanted(
    row: &Row,
    preferences: &Preferences,
    held: Option<SuppressionReason>,
    verified_only: bool,
) -> Option<Reason> {
    let asked = row.requested;
    match held {
        _ if !row.is_active => Some(Reason::RecipientDisabled),
        _ if verified_only && !row.verified => Some(Reason::Unverified),
        Some(SuppressionReason::Bounce | SuppressionReason::Admin) => Some(Reason::AddressSuppressed),
        Some(SuppressionReason::Unsubscribe) if !asked => Some(Reason::Unsubscribed),
        _ if !asked && !preferences.digest_enabled => Some(Reason::SwitchedOff),
        _ if !asked && preferences.paused_until.is_some_and(|until| until > row.now) => Some(Reason::Paused),
        _ => None,
    }
}

/// A run that is still open, locked. Two statements: the second sees what was committed while the first waited.
async fn lock(tx: &mut Tx, run: DigestRunId, job: Option<JobId>) -> Result<Option<Row>> {
    sql!("SELECT FROM digest_runs WHERE id = {run} FOR UPDATE", run: Uuid = run).execute(tx.conn()).await?;
    let rows = sql!(
        "SELECT r.user_id, r.scheduled_at, r.requested, r.state, r.smtp_reply IS NOT NULL AS tried,
             coalesce(r.job_id IS DISTINCT FROM {job} AND j.state = 'running' AND j.alive_until > clock_timestamp(), false)
                 AS in_flight,
             r.request_id, r.traceparent, u.email::text AS email, u.email_verified_at IS NOT NULL AS verified, u.is_active,
             u.time_zone, {now} AS now
         FROM digest_runs r JOIN users u ON u.id = r.user_id LEFT JOIN jobs j ON j.id = r.job_id WHERE r.id = {run}",
        run: Uuid = run,
        job: Nullable<Uuid> = job,
        now = tx.clock().now(),
    )
    .load(tx.conn())
    .await?;
    Ok(rows.into_iter().next())
}

async fn settle_as(
    tx: &mut Tx,
    run: DigestRunId,
    state: DigestState,
    reason: Option<Reason>,
) -> Result<Verdict> {
    sql!(
        "UPDATE digest_runs SET state = {state}, reason = {reason} WHERE id = {run}",
        run: Uuid = run,
        state: sql_types::DigestState = state,
        reason: Nullable<Text> = reason.map(Reason::as_str),
    )
    .execute(tx.conn())
    .await?;
    Ok(Verdict::Settled(state, reason))
}

/// What became of a try.
#[derive(Debug, Clone)]
pub enum Ending<'a> {
    /// The mail server accepted it.
    Sent {
        /// Its reply.
        reply: &'a str,
    },
    /// It was handed over, and nothing was heard: it may have arrived, and is not tried again.
    Unknown {
        /// What happened.
        error: &'a str,
    },
    /// It is not tried again.
    Failed {
        /// `Rejected` or `GaveUp`.
        reason: Reason,
        /// What the mail server said.
        reply: &'a str,
    },
    /// It is tried again, and counts as tried if an error is given.
    Again {
        /// What the mail server said.
        error: Option<&'a str>,
    },
}

/// Writes what became of a try. One that was thought dead may come back with the truth: what was accepted counts as
/// sent even if the run was settled as unknown meanwhile.
///
/// # Errors
/// If the database is away.
pub async fn settle(db: &Db, run: DigestRunId, ending: &Ending<'_>) -> Result<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Double>)]
        late: Option<f64>,
        #[diesel(sql_type = Uuid)]
        user_id: UserId,
        #[diesel(sql_type = Date)]
        local_date: NaiveDate,
        #[diesel(sql_type = Nullable<Integer>)]
        item_count: Option<i32>,
    }

    let (state, reason, reply) = match ending {
        Ending::Sent { reply } => (DigestState::Sent, None, Some(*reply)),
        Ending::Unknown { error } => (DigestState::Unknown, None, Some(*error)),
        Ending::Failed { reason, reply } => (DigestState::Failed, Some(*reason), Some(*reply)),
        Ending::Again { error } => (DigestState::Planned, None, *error),
    };
    let mut tx = db.begin().await?;
    let now = tx.clock().now();
    let rows: Vec<Row> = sql!(
        "UPDATE digest_runs r SET state = {state}, reason = {reason}, smtp_reply = coalesce(left({reply}, 500), r.smtp_reply),
             sent_at = CASE WHEN {sent} THEN {now} END,
             late_by_s = CASE WHEN {sent} THEN greatest(0, floor(extract(epoch FROM {now} - r.scheduled_at)))::int END
         WHERE id = {run} AND (r.state IN ('planned', 'sending') OR {sent} AND r.state = 'unknown')
         RETURNING CASE WHEN {sent} THEN extract(epoch FROM r.sent_at - r.scheduled_at)::float8 END AS late,
             r.user_id, r.local_date, r.item_count",
        run: Uuid = run,
        state: sql_types::DigestState = state,
        sent: Bool = state == DigestState::Sent,
        reason: Nullable<Text> = reason.map(Reason::as_str),
        reply: Nullable<Text> = reply,
        now = now,
    )
    .load(tx.conn())
    .await?;
    if state == DigestState::Sent {
        for row in &rows {
            let about = About { owner: row.user_id, assignee: None, project: None, task: None };
            let data = json!({"id": run, "date": row.local_date, "items": row.item_count});
            events::record(&mut tx, NewEvent::new(EventType::DigestSent, about, &data)?).await?;
        }
    }
    tx.commit().await?;
    if state != DigestState::Planned {
        for Row { late, .. } in rows {
            metrics::digest_settled(state.as_str());
            let late_ms =
                late.and_then(|late| Duration::try_from_secs_f64(late).ok()).map(|late| late.as_millis());
            tracing::info!(digest.id = %run, state = state.as_str(), late_ms, "daily summary settled");
        }
    }
    Ok(())
}
