use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Date, Double, Integer, Nullable, Text, Time, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{FireReason, FireState, Reason, delivery::TOO_LATE};
use crate::{
    allowance::{self, Allowance, count_sql, until_sql},
    clock::Now,
    db::{Db, RunQueryDsl as _, Tx, sql},
    error::Result,
    events::{self, EventType, NewEvent},
    ids::{FireId, JobId, ReminderId, TaskId, UserId},
    metrics,
    schema::sql_types,
    tasks::{TaskData, due::Meaning, viewers_sql},
    telemetry::Origin,
    zone::Zone,
};

/// Whom a mail is for.
#[derive(Debug, Clone, QueryableByName)]
pub struct Recipient {
    /// Their address.
    #[diesel(sql_type = Text)]
    pub email: String,
    /// Whether they have shown that it is theirs.
    #[diesel(sql_type = Bool)]
    pub email_verified: bool,
    /// Where their clock hangs.
    #[diesel(sql_type = Text)]
    pub time_zone: Zone,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    no_mail_until: Option<DateTime<Utc>>,
}

impl Recipient {
    /// Whether they may get another mail today.
    pub fn allowance(&self) -> Allowance {
        self.no_mail_until.into()
    }
}

/// The person, if a fire of theirs is due that a job has. They may get `per_day` mails.
///
/// # Errors
/// If the database is away.
pub async fn waiting(
    conn: &mut AsyncPgConnection,
    now: Now,
    user: UserId,
    per_day: u32,
) -> Result<Option<Recipient>> {
    let rows = sql!(
        concat!(
            "SELECT email::text AS email, email_verified_at IS NOT NULL AS email_verified, time_zone, ",
            until_sql!("u.id"),
            " AS no_mail_until FROM users u WHERE id = {user} AND EXISTS (
                 SELECT FROM reminder_fires f WHERE f.user_id = u.id AND f.state IN ('queued', 'sending') AND f.fire_at <= {now})"
        ),
        user: Uuid = user,
        now = now,
        per_day: Integer = allowance::limit(per_day),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().next())
}

/// Says why what a person's jobs have is not sent now: skipped for good, or `queued` until tomorrow, as the reason says.
///
/// # Errors
/// If the database is away.
pub async fn hold(conn: &mut AsyncPgConnection, now: Now, user: UserId, reason: Reason) -> Result<()> {
    let held = sql!(
        "WITH mine AS MATERIALIZED (SELECT id FROM reminder_fires WHERE user_id = {user} AND state = 'queued' AND fire_at <= {now}
             ORDER BY id FOR UPDATE)
         UPDATE reminder_fires f SET state = {state}, reason = {reason} FROM mine WHERE f.id = mine.id",
        user: Uuid = user,
        now = now,
        state: sql_types::FireState = reason.state(),
        reason: Text = reason.as_str(),
    )
    .execute(conn)
    .await?;
    if reason.state() != FireState::Queued {
        for _ in 0..held {
            metrics::fire_settled(reason.state().as_str(), reason.as_str(), None);
        }
    }
    Ok(())
}

/// The fires of one mail, which this job alone may send now.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whom the mail is for.
    user: UserId,
    /// They go by this: the same for the same fires, however often they are tried.
    pub message_id: String,
    /// The request that planned the first of them.
    pub origin: Origin,
    /// When they were claimed.
    pub now: DateTime<Utc>,
    /// What is sent, the earliest first; never empty.
    pub fires: Vec<ClaimedFire>,
    /// Whether something is left that needs a mail of its own.
    pub is_more: bool,
}

/// A fire with what its mail says.
#[derive(Debug, Clone, QueryableByName)]
pub struct ClaimedFire {
    /// Its id.
    #[diesel(sql_type = Uuid)]
    pub id: FireId,
    /// The task that it reminds of.
    #[diesel(sql_type = Uuid)]
    pub task_id: TaskId,
    /// When it was to fire.
    #[diesel(sql_type = Timestamptz)]
    pub fire_at: DateTime<Utc>,
    /// The task's title.
    #[diesel(sql_type = Text)]
    pub title: String,
    /// The beginning of its description.
    #[diesel(sql_type = Nullable<Text>)]
    pub description: Option<String>,
    /// How much it matters.
    #[diesel(sql_type = Text)]
    pub priority: String,
    /// The name of its project.
    #[diesel(sql_type = Nullable<Text>)]
    pub project: Option<String>,
    #[diesel(sql_type = Nullable<Date>)]
    due_date: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Time>)]
    due_time: Option<NaiveTime>,
    #[diesel(sql_type = Nullable<Text>)]
    due_zone: Option<Zone>,
    #[diesel(sql_type = sql_types::FireState)]
    state: FireState,
    #[diesel(sql_type = Nullable<Text>)]
    message_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    unwanted: Option<String>,
    #[diesel(sql_type = Bool)]
    in_flight: bool,
    #[diesel(sql_type = Nullable<Text>)]
    request_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    traceparent: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

impl ClaimedFire {
    /// When the task is due.
    pub fn due(&self) -> Option<Meaning> {
        Some(match (self.due_date?, self.due_time, &self.due_zone) {
            (date, None, _) => Meaning::Date(date),
            (date, Some(time), None) => Meaning::Floating(date.and_time(time)),
            (date, Some(time), Some(zone)) => Meaning::Zoned(date.and_time(time), zone.clone()),
        })
    }

    fn unwanted(&self) -> Option<Reason> {
        let reasons = [
            Reason::Moved,
            Reason::Ambiguous,
            Reason::Unwanted(FireReason::RecipientDisabled),
            Reason::Unwanted(FireReason::NoAccess),
            Reason::Unwanted(FireReason::TaskDeleted),
            Reason::Unwanted(FireReason::TaskDone),
            Reason::Unwanted(FireReason::TaskArchived),
            Reason::Unwanted(FireReason::ReminderRemoved),
            Reason::Unwanted(FireReason::TooLate),
            Reason::Unwanted(FireReason::Unsubscribed),
            Reason::Unwanted(FireReason::Paused),
            Reason::Unwanted(FireReason::AddressSuppressed),
        ];
        let name = self.unwanted.as_deref()?;
        reasons.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// Takes what a person gets in the next mail: right before `DATA`, so that what was done or removed until now is left
/// out (semantics §5.2). The fires are `sending` from now on, and nobody else can claim them. What is not wanted any
/// more is settled. `None` if nothing is left to send.
///
/// A fire that an earlier try left in `sending` is ambiguous: it may have arrived. It is tried once more under the
/// message id of that try (semantics §5.4), apart from what is new; if it stays in `sending` again, it is dead.
/// `job` is whose try this is; what another job is sending while it lives is not touched. `host` ends the message id.
///
/// # Errors
/// If the database is away.
pub async fn claim(db: &Db, user: UserId, job: Option<JobId>, host: &str) -> Result<Option<Claim>> {
    let mut tx = db.begin().await?;
    let found = lock(&mut tx, user, job).await?;
    let (unwanted, wanted): (Vec<_>, Vec<_>) = found
        .into_iter()
        .filter(|fire| !fire.in_flight)
        .map(|fire| (fire.unwanted(), fire))
        .partition(|(reason, _)| reason.is_some());
    // What has a message id goes by it again; otherwise everything goes together.
    let first_id = wanted.iter().find_map(|(_, fire)| fire.message_id.clone());
    let (fires, others): (Vec<_>, Vec<_>) =
        wanted.into_iter().map(|(_, fire)| fire).partition(|fire| fire.message_id == first_id);
    let message_id = first_id.unwrap_or_else(|| message_id(&fires, host));

    let mut changes: Vec<(FireId, FireState, Option<Reason>, Option<&str>)> = unwanted
        .iter()
        .filter_map(|(reason, fire)| Some((fire.id, (*reason)?.state(), *reason, fire.message_id.as_deref())))
        .collect();
    changes.extend(fires.iter().map(|fire| {
        let ambiguous = (fire.state == FireState::Sending).then_some(Reason::Ambiguous);
        (fire.id, FireState::Sending, ambiguous, Some(message_id.as_str()))
    }));
    if !changes.is_empty() {
        sql!(
            "UPDATE reminder_fires f SET state = c.state::fire_state, reason = c.reason, message_id = c.message_id,
                 job_id = coalesce({job}, f.job_id), missed_at = CASE WHEN c.reason = 'too_late' THEN {now} END
             FROM unnest({ids}, {states}, {reasons}, {message_ids}) AS c (id, state, reason, message_id) WHERE f.id = c.id",
            job: Nullable<Uuid> = job,
            now = tx.clock().now(),
            ids: Array<Uuid> = changes.iter().map(|(id, ..)| *id).collect::<Vec<_>>(),
            states: Array<Text> = changes.iter().map(|(_, state, ..)| state.as_str()).collect::<Vec<_>>(),
            reasons: Array<Nullable<Text>> =
                changes.iter().map(|(_, _, reason, _)| reason.map(Reason::as_str)).collect::<Vec<_>>(),
            message_ids: Array<Nullable<Text>> = changes.iter().map(|(.., id)| *id).collect::<Vec<_>>(),
        )
        .execute(tx.conn())
        .await?;
    }
    tx.commit().await?;
    for reason in unwanted.iter().filter_map(|(reason, _)| *reason) {
        metrics::fire_settled(reason.state().as_str(), reason.as_str(), None);
    }
    let Some(first) = fires.as_slice().first() else { return Ok(None) };
    let origin = Origin { request_id: first.request_id.clone(), traceparent: first.traceparent.clone() };
    Ok(Some(Claim { user, message_id, origin, now: first.now, fires, is_more: !others.is_empty() }))
}

/// Locks what a person's jobs have and reads it. Two statements: the second sees what was committed while the first
/// waited for the locks.
async fn lock(tx: &mut Tx, user: UserId, job: Option<JobId>) -> Result<Vec<ClaimedFire>> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(sql_type = Uuid)]
        id: FireId,
    }

    let now = tx.clock().now();
    let locked: Vec<Locked> = sql!(
        "SELECT id FROM reminder_fires WHERE user_id = {user} AND state IN ('queued', 'sending') AND fire_at <= {now}
         ORDER BY id FOR UPDATE",
        user: Uuid = user,
        now = now,
    )
    .load(tx.conn())
    .await?;
    if locked.is_empty() {
        return Ok(Vec::new());
    }
    let fires = sql!(
        concat!("SELECT f.id, f.task_id, f.fire_at, t.title, left(t.description, 1000) AS description, t.priority::text AS priority,
             p.name AS project, t.due_date, t.due_time, t.due_zone, f.state, f.message_id, f.request_id, f.traceparent,
             {now} AS now,
             coalesce(f.state = 'sending' AND f.job_id IS DISTINCT FROM {job}
                 AND j.state = 'running' AND j.alive_until > clock_timestamp(), false) AS in_flight,
             CASE WHEN EXISTS (SELECT FROM reminder_fires n WHERE n.reminder_id = f.reminder_id AND n.user_id = f.user_id
                      AND n.channel = f.channel AND n.occurrence_no = f.occurrence_no AND n.slot = f.slot
                      AND n.plan_no > f.plan_no) THEN 'moved'
                  WHEN f.state = 'sending' AND f.reason = 'ambiguous' THEN 'ambiguous'
                  WHEN NOT u.is_active THEN 'recipient_disabled'
                  WHEN NOT f.user_id = ANY ", viewers_sql!("t"), " THEN 'no_access'
                  WHEN t.deleted_at IS NOT NULL THEN 'task_deleted'
                  WHEN t.status IN ('done', 'cancelled') THEN 'task_done'
                  WHEN t.archived_at IS NOT NULL OR p.archived_at IS NOT NULL THEN 'task_archived'
                  WHEN r.removed_at IS NOT NULL THEN 'reminder_removed'
                  WHEN f.fire_at < {now} - make_interval(secs => {too_late}) THEN 'too_late'
                  WHEN np.paused_until > {now} THEN 'paused'
                  WHEN np.reminders_email = false OR s.reason = 'unsubscribe' THEN 'unsubscribed'
                  WHEN s.reason IS NOT NULL THEN 'address_suppressed' END AS unwanted
         FROM reminder_fires f JOIN reminders r ON r.id = f.reminder_id JOIN tasks t ON t.id = f.task_id
         JOIN users u ON u.id = f.user_id LEFT JOIN user_notification_prefs np ON np.user_id = u.id
         LEFT JOIN LATERAL (SELECT s.reason FROM mail_suppressions s
             WHERE s.address_hash = sha256(convert_to(lower(u.email::text), 'UTF8')) AND (s.kind IS NULL OR s.kind = 'reminder')
             ORDER BY s.kind NULLS FIRST LIMIT 1) s ON true
         LEFT JOIN projects p ON p.id = t.project_id LEFT JOIN jobs j ON j.id = f.job_id
         WHERE f.id = ANY({ids}) ORDER BY f.fire_at, f.id"),
        now = now,
        job: Nullable<Uuid> = job,
        too_late: Double = TOO_LATE.as_seconds_f64(),
        ids: Array<Uuid> = locked.iter().map(|row| row.id).collect::<Vec<_>>(),
    )
    .load(tx.conn())
    .await?;
    Ok(fires)
}

/// The same for the same fires, and for no others.
fn message_id(fires: &[ClaimedFire], host: &str) -> String {
    let mut ids: Vec<FireId> = fires.iter().map(|fire| fire.id).collect();
    ids.sort_unstable();
    let mut hash = Sha256::new();
    for id in &ids {
        hash.update(id.uuid().as_bytes());
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let first = ids.as_slice().first().map(|id| id.uuid().simple().to_string()).unwrap_or_default();
    format!("<{first}.{digest}@{host}>")
}

/// What became of a mail.
#[derive(Debug, Clone)]
pub enum Ending<'a> {
    /// The mail server accepted it with this reply.
    Sent {
        /// Its reply.
        reply: &'a str,
    },
    /// It is not tried again.
    Dead {
        /// `Rejected` or `GaveUp`.
        reason: Reason,
        /// What the mail server said.
        reply: &'a str,
    },
    /// It is tried again.
    Again {
        /// Whether the mail may have arrived: then it keeps its message id.
        ambiguous: bool,
    },
}

/// A fire that was settled.
#[derive(QueryableByName)]
struct Settled {
    #[diesel(sql_type = Uuid)]
    task_id: TaskId,
    #[diesel(sql_type = Uuid)]
    reminder_id: ReminderId,
    #[diesel(sql_type = Timestamptz)]
    fire_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Double>)]
    late: Option<f64>,
    /// Whether a webhook may want to be told.
    #[diesel(sql_type = Bool)]
    heard: bool,
}

/// Writes down that these reminders were sent, for the webhooks that want to know.
async fn record_fired(tx: &mut Tx, fires: &[&Settled]) -> Result<()> {
    #[derive(Serialize)]
    struct Fired<'a> {
        #[serde(flatten)]
        task: &'a TaskData,
        reminder: FiredReminder,
    }

    #[derive(Serialize)]
    struct FiredReminder {
        id: ReminderId,
        fire_at: DateTime<Utc>,
    }

    if fires.is_empty() {
        return Ok(());
    }
    let tasks = TaskData::load_all(tx, &fires.iter().map(|fire| fire.task_id).collect::<Vec<_>>()).await?;
    let events = fires.iter().filter_map(|fire| {
        let task = tasks.iter().find(|task| task.id() == fire.task_id)?;
        let reminder = FiredReminder { id: fire.reminder_id, fire_at: fire.fire_at };
        Some(NewEvent::new(EventType::ReminderFired, task.about(), &Fired { task, reminder }))
    });
    events::record_all(tx, events.collect::<Result<_>>()?).await
}

/// Writes what became of a claim, each fire for itself, and counts the mail if it was sent. A try that was thought dead may come back with the truth: what
/// was accepted counts as sent even if another try has begun.
///
/// # Errors
/// If the database is away.
pub async fn settle(db: &Db, claim: &Claim, ending: &Ending<'_>) -> Result<()> {
    let ids: Vec<FireId> = claim.fires.iter().map(|fire| fire.id).collect();
    let (state, reason, reply, keeps_id) = match ending {
        Ending::Sent { reply } => (FireState::Sent, None, Some(*reply), true),
        Ending::Dead { reason, reply } => (FireState::Dead, Some(*reason), Some(*reply), true),
        Ending::Again { ambiguous } => (FireState::Queued, None, None, *ambiguous),
    };
    let mut tx = db.begin().await?;
    let rows: Vec<Settled> = sql!(
        concat!("WITH mine AS MATERIALIZED (SELECT id FROM reminder_fires WHERE id = ANY({ids}) AND message_id = {message_id}
             AND (state = 'sending' OR {sent} AND state = 'queued') ORDER BY id FOR UPDATE),
         counted AS (", count_sql!("{user}", "{sent}"), ")
         UPDATE reminder_fires f SET state = {state}, reason = CASE WHEN {sent} THEN f.reason ELSE {reason} END,
             message_id = CASE WHEN {keeps_id} THEN f.message_id END, smtp_reply = left({reply}, 500),
             sent_at = CASE WHEN {sent} THEN {now} END,
             late_by_s = CASE WHEN {sent} THEN greatest(0, floor(extract(epoch FROM {now} - f.fire_at)))::int END
         FROM mine WHERE f.id = mine.id
         RETURNING f.task_id, f.reminder_id, f.fire_at,
             CASE WHEN {sent} THEN extract(epoch FROM f.sent_at - f.fire_at)::float8 END AS late,
             EXISTS (SELECT FROM tasks t, webhook_endpoints e WHERE t.id = f.task_id AND e.owner_id = ANY ", viewers_sql!("t"), "
                 AND e.state IN ('active', 'paused') AND 'reminder.fired' = ANY (e.events)) AS heard"),
        user: Uuid = claim.user,
        ids: Array<Uuid> = ids,
        message_id: Text = claim.message_id.as_str(),
        sent: Bool = state == FireState::Sent,
        state: sql_types::FireState = state,
        reason: Nullable<Text> = reason.map(Reason::as_str),
        keeps_id: Bool = keeps_id,
        reply: Nullable<Text> = reply,
        now = tx.clock().now(),
    )
    .load(tx.conn())
    .await?;
    if state == FireState::Sent {
        record_fired(&mut tx, &rows.iter().filter(|row| row.heard).collect::<Vec<_>>()).await?;
    }
    tx.commit().await?;
    if state != FireState::Queued {
        for Settled { late, .. } in rows {
            let late = late.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
            metrics::fire_settled(state.as_str(), reason.map_or("", Reason::as_str), late);
        }
    }
    Ok(())
}
