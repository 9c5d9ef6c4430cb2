use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Date, Double, Nullable, SmallInt, Text, Time, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;

use super::{DigestState, Reason, Wish, plan::Slot};
use crate::{
    clock::Now,
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{DigestRunId, UserId},
    jobs::SendDailySummary,
    ledger::{self, NewJob},
    notifications::{self, Days},
    schema::sql_types,
    zone::Zone,
};

/// People that one round takes at most.
pub const BATCH: usize = 1_000;

/// How long until the next summary is due; zero if one is, `None` if none is wanted.
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
        "SELECT extract(epoch FROM min(next_digest_at) - {now})::float8 AS seconds FROM user_notification_prefs
         WHERE next_digest_at IS NOT NULL",
        now = now,
    )
    .load(conn)
    .await?;
    let seconds = rows.into_iter().next().and_then(|row| row.seconds);
    Ok(seconds.map(|seconds| std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// What a round took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// People whose time had come.
    pub people: usize,
    /// Summaries that a job has now.
    pub planned: usize,
    /// Summaries that were too late.
    pub too_late: usize,
}

/// Takes up to [`BATCH`] people whose summary is due, writes down a run for each day with its job in the same
/// transaction, and plans the next. What is too late is written down as that. Any number of schedulers may do so at
/// once.
///
/// # Errors
/// If the database is away.
pub async fn queue_due(tx: &mut Tx) -> Result<Taken> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        user_id: UserId,
        #[diesel(sql_type = Timestamptz)]
        next_digest_at: DateTime<Utc>,
        #[diesel(sql_type = diesel::sql_types::Bool)]
        digest_enabled: bool,
        #[diesel(sql_type = Time)]
        digest_time: NaiveTime,
        #[diesel(sql_type = SmallInt)]
        digest_days: Days,
        #[diesel(sql_type = Text)]
        time_zone: Zone,
        #[diesel(sql_type = Nullable<Date>)]
        done: Option<NaiveDate>,
        #[diesel(sql_type = Timestamptz)]
        now: DateTime<Utc>,
    }

    let due: Vec<Row> = sql!(
        "SELECT p.user_id, p.next_digest_at, p.digest_enabled, p.digest_time, p.digest_days, u.time_zone,
             (SELECT max(r.local_date) FROM digest_runs r WHERE r.user_id = p.user_id AND NOT r.requested) AS done,
             {now} AS now
         FROM user_notification_prefs p JOIN users u ON u.id = p.user_id
         WHERE p.next_digest_at <= {now} ORDER BY p.next_digest_at LIMIT {batch} FOR UPDATE OF p SKIP LOCKED",
        now = tx.clock().now(),
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    let Some(now) = due.as_slice().first().map(|row| row.now) else { return Ok(Taken::default()) };

    let mut runs: Vec<(DigestRunId, UserId, Slot)> = Vec::new();
    let mut next: Vec<(UserId, Option<DateTime<Utc>>)> = Vec::with_capacity(due.len());
    for row in &due {
        let wish = Wish {
            enabled: row.digest_enabled,
            time: row.digest_time,
            days: row.digest_days,
            tz: row.time_zone.tz(),
        };
        let (slots, after) = wish.due(row.done, row.next_digest_at, now);
        runs.extend(slots.into_iter().map(|slot| (DigestRunId::new(), row.user_id, slot)));
        next.push((row.user_id, after));
    }
    let too_late = insert(tx, now, &runs).await?;
    sql!(
        "UPDATE user_notification_prefs p SET next_digest_at = n.next_at
         FROM unnest({users}, {times}) AS n (user_id, next_at) WHERE p.user_id = n.user_id",
        users: Array<Uuid> = next.iter().map(|(user, _)| *user).collect::<Vec<_>>(),
        times: Array<Nullable<Timestamptz>> = next.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
    )
    .execute(tx.conn())
    .await?;
    Ok(Taken { people: due.len(), planned: runs.len() - too_late, too_late })
}

/// Writes runs and the jobs of those that are in time; answers how many were not.
async fn insert(tx: &mut Tx, now: DateTime<Utc>, runs: &[(DigestRunId, UserId, Slot)]) -> Result<usize> {
    let timely: Vec<_> = runs.iter().filter(|(.., slot)| !slot.is_late).collect();
    let jobs = timely
        .iter()
        .map(|(run_id, user_id, _)| NewJob::of(&SendDailySummary { run_id: *run_id, user_id: *user_id }))
        .collect::<Result<_>>()?;
    let mut jobs = ledger::enqueue_all(tx, jobs).await?.into_iter();
    let too_late = runs.len() - timely.len();
    if runs.is_empty() {
        return Ok(0);
    }
    sql!(
        "INSERT INTO digest_runs (id, user_id, local_date, scheduled_at, state, job_id, created_at)
         SELECT r.id, r.user_id, r.local_date, r.scheduled_at, r.state::digest_state, r.job_id, {now}
         FROM unnest({ids}, {users}, {dates}, {times}, {states}, {jobs})
             AS r (id, user_id, local_date, scheduled_at, state, job_id)
         ON CONFLICT (user_id, local_date) WHERE NOT requested DO NOTHING",
        now: Timestamptz = now,
        ids: Array<Uuid> = runs.iter().map(|(id, ..)| *id).collect::<Vec<_>>(),
        users: Array<Uuid> = runs.iter().map(|(_, user, _)| *user).collect::<Vec<_>>(),
        dates: Array<Date> = runs.iter().map(|(.., slot)| slot.local_date).collect::<Vec<_>>(),
        times: Array<Timestamptz> = runs.iter().map(|(.., slot)| slot.at).collect::<Vec<_>>(),
        states: Array<Text> = runs.iter().map(|(.., slot)| state(slot).as_str()).collect::<Vec<_>>(),
        jobs: Array<Nullable<Uuid>> =
            runs.iter().map(|(.., slot)| if slot.is_late { None } else { jobs.next() }).collect::<Vec<_>>(),
    )
    .execute(tx.conn())
    .await?;
    Ok(too_late)
}

fn state(slot: &Slot) -> DigestState {
    if slot.is_late { DigestState::SkippedLate } else { DigestState::Planned }
}

/// Gives people their preferences who have none, because they were there before or came in another way than by
/// registering; up to [`BATCH`]. Answers how many.
///
/// # Errors
/// If the database is away.
pub async fn adopt(tx: &mut Tx) -> Result<usize> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: UserId,
        #[diesel(sql_type = Text)]
        time_zone: Zone,
        #[diesel(sql_type = Timestamptz)]
        now: DateTime<Utc>,
    }

    let strangers: Vec<Row> = sql!(
        "SELECT id, time_zone, {now} AS now FROM users u
         WHERE NOT EXISTS (SELECT FROM user_notification_prefs p WHERE p.user_id = u.id)
         ORDER BY id LIMIT {batch} FOR KEY SHARE SKIP LOCKED",
        now = tx.clock().now(),
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    for row in &strangers {
        notifications::begin(tx, row.id, &row.time_zone, row.now).await?;
    }
    Ok(strangers.len())
}

/// A run that [`recover`] found, as it is now.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Recovered {
    /// `Unknown` or `Failed`.
    #[diesel(sql_type = sql_types::DigestState)]
    pub state: DigestState,
}

/// Settles runs whose job has ended without them: one that was being handed over is unknown, any other has failed.
///
/// # Errors
/// If the database is away.
pub async fn recover(tx: &mut Tx) -> Result<Vec<Recovered>> {
    let rows = sql!(
        "WITH lost AS MATERIALIZED (
             SELECT r.id, CASE j.state WHEN 'cancelled' THEN {cancelled} ELSE {dead} END AS reason
             FROM digest_runs r LEFT JOIN jobs j ON j.id = r.job_id
             WHERE r.state IN ('planned', 'sending') AND (j.id IS NULL OR j.finished_at IS NOT NULL)
             ORDER BY r.id LIMIT {batch} FOR UPDATE OF r SKIP LOCKED)
         UPDATE digest_runs r SET reason = l.reason,
             state = CASE r.state WHEN 'sending' THEN 'unknown' ELSE 'failed' END::digest_state
         FROM lost l WHERE r.id = l.id RETURNING r.state",
        dead: Text = Reason::JobDead.as_str(),
        cancelled: Text = Reason::JobCancelled.as_str(),
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    Ok(rows)
}
