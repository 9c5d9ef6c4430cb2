use std::collections::BTreeMap;

use chrono::Duration;
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Bool, Double, Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;

use super::{FireReason, FireState, Reason, catch_up};
use crate::{
    clock::Now,
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{FireId, JobId, UserId},
    jobs::SendReminder,
    ledger::{self, NewJob},
    telemetry::Origin,
};

/// Fires that one round takes at most.
pub const BATCH: usize = 1_000;
/// A reminder that is later than this is not sent any more (semantics §9).
pub(super) const TOO_LATE: Duration = Duration::hours(24);
/// A reminder that is later than this is late (semantics §1).
pub(super) const LATE: Duration = Duration::seconds(60);
/// People who get late reminders a second, unless the operator says otherwise (semantics §9).
pub const CATCH_UP_PER_SECOND: u16 = 10;

/// How long until the next fire is due; zero if one is, `None` if none is planned.
///
/// # Errors
/// If the database is away.
pub async fn until_next(conn: &mut AsyncPgConnection, now: Now) -> Result<Option<std::time::Duration>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Double>)]
        seconds: Option<f64>,
    }

    let rows: Vec<Row> = sql!(
        "SELECT extract(epoch FROM min(fire_at) - {now})::float8 AS seconds FROM reminder_fires
         WHERE state IN ('planned', 'deferred')",
        now = now,
    )
    .load(conn)
    .await?;
    let seconds = rows.into_iter().next().and_then(|row| row.seconds);
    Ok(seconds.map(|seconds| std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// A fire whose time has come.
#[derive(QueryableByName)]
pub(super) struct Due {
    #[diesel(sql_type = Uuid)]
    pub(super) id: FireId,
    #[diesel(sql_type = Uuid)]
    pub(super) user_id: UserId,
    /// By more than [`LATE`].
    #[diesel(sql_type = Bool)]
    pub(super) late: bool,
    /// By more than [`TOO_LATE`].
    #[diesel(sql_type = Bool)]
    pub(super) too_late: bool,
    #[diesel(sql_type = Nullable<Text>)]
    request_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    traceparent: Option<String>,
}

/// The columns of [`Due`], from `reminder_fires`.
macro_rules! due_columns {
    () => {
        "id, user_id, fire_at < {now} - make_interval(secs => {late}) AS late,
             fire_at < {now} - make_interval(secs => {too_late}) AS too_late, request_id, traceparent"
    };
}
pub(super) use due_columns;

/// What a round of the due step took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Fires that a job has now.
    pub queued: usize,
    /// Fires that were skipped.
    pub too_late: usize,
    is_full: bool,
}

impl Taken {
    /// Whether there may be more.
    pub fn is_full(self) -> bool {
        self.is_full
    }
}

/// The due step (semantics §5.1, §5.5): takes up to [`BATCH`] fires whose time has come, the oldest first, makes one
/// job for each person among them, and skips what is too late. Any number of schedulers may do so at once.
///
/// Who gets nothing but late reminders is paced: at most `late_per_second` of them a second, all schedulers together,
/// so that a day of downtime is no flood of mail (semantics §9). What is on time never waits for them.
///
/// # Errors
/// If the database is away.
pub async fn queue_due(tx: &mut Tx, late_per_second: u16) -> Result<Taken> {
    let due: Vec<Due> = sql!(
        concat!(
            "SELECT ",
            due_columns!(),
            " FROM reminder_fires WHERE state IN ('planned', 'deferred') AND fire_at <= {now}
             ORDER BY fire_at LIMIT {batch} FOR UPDATE SKIP LOCKED"
        ),
        now = tx.clock().now(),
        too_late: Double = TOO_LATE.as_seconds_f64(),
        late: Double = LATE.as_seconds_f64(),
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    let mut taken = Taken { is_full: due.len() >= BATCH, ..Taken::default() };
    let (too_late, due): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|fire| fire.too_late);
    if !too_late.is_empty() {
        let reason = Reason::Unwanted(FireReason::TooLate);
        taken.too_late = too_late.len();
        sql!(
            "UPDATE reminder_fires SET state = 'skipped', reason = {reason}, missed_at = {now} WHERE id = ANY({ids})",
            reason: Text = reason.as_str(),
            now = tx.clock().now(),
            ids: Array<Uuid> = too_late.iter().map(|fire| fire.id).collect::<Vec<_>>(),
        )
        .execute(tx.conn())
        .await?;
    }

    let mut people: BTreeMap<UserId, Vec<Due>> = BTreeMap::new();
    for fire in due {
        people.entry(fire.user_id).or_default().push(fire);
    }
    let mut given = Vec::new();
    let slots = catch_up::slots(tx, &mut people, &mut given, late_per_second).await?;
    let jobs: Vec<NewJob> = people
        .iter()
        .map(|(user_id, fires)| {
            // Of several requests the mail can name one: that of the fire that was due first.
            let (request_id, traceparent) = fires
                .iter()
                .next()
                .map(|fire| (fire.request_id.clone(), fire.traceparent.clone()))
                .unwrap_or_default();
            let job =
                NewJob::of(&SendReminder { user_id: *user_id })?.origin(Origin { request_id, traceparent });
            Ok(match slots.get(user_id) {
                Some(slot) => job.run_at(*slot),
                None => job,
            })
        })
        .collect::<Result<_>>()?;
    let jobs = ledger::enqueue_all(tx, jobs).await?;
    given.extend(
        people.values().zip(jobs).flat_map(|(fires, job)| fires.iter().map(move |fire| (fire.id, job))),
    );
    taken.queued = given.len();
    if given.is_empty() {
        return Ok(taken);
    }
    let (ids, jobs): (Vec<FireId>, Vec<JobId>) = given.into_iter().unzip();
    sql!(
        "UPDATE reminder_fires f SET state = 'queued', reason = NULL, job_id = q.job_id
         FROM unnest({ids}, {jobs}) AS q (id, job_id) WHERE f.id = q.id",
        ids: Array<Uuid> = ids,
        jobs: Array<Uuid> = jobs,
    )
    .execute(tx.conn())
    .await?;
    Ok(taken)
}

/// A fire that [`recover`] found, as it is now.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Recovered {
    /// `Planned`, or settled.
    #[diesel(sql_type = crate::schema::sql_types::FireState)]
    pub state: FireState,
    /// Why it is settled.
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
}

/// Finds fires whose job has ended without them: with a dead job the fire is dead, with a cancelled one it is
/// cancelled, and otherwise it is due again. Answers where each stands now; there are nearly always none.
///
/// # Errors
/// If the database is away.
pub async fn recover(tx: &mut Tx) -> Result<Vec<Recovered>> {
    let rows = sql!(
        "WITH lost AS MATERIALIZED (
             SELECT f.id, CASE j.state WHEN 'dead' THEN {dead} WHEN 'cancelled' THEN {cancelled} END AS reason
             FROM reminder_fires f LEFT JOIN jobs j ON j.id = f.job_id
             WHERE f.state IN ('queued', 'sending') AND (j.id IS NULL OR j.finished_at IS NOT NULL)
             ORDER BY f.id LIMIT {batch} FOR UPDATE OF f SKIP LOCKED)
         UPDATE reminder_fires f SET reason = l.reason, job_id = CASE WHEN l.reason IS NOT NULL THEN f.job_id END,
             state = CASE l.reason WHEN {dead} THEN 'dead' WHEN {cancelled} THEN 'cancelled' ELSE 'planned' END::fire_state
         FROM lost l WHERE f.id = l.id RETURNING f.state, f.reason",
        dead: Text = Reason::JobDead.as_str(),
        cancelled: Text = Reason::JobCancelled.as_str(),
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    Ok(rows)
}
