//! Late reminders after downtime: who gets them when (semantics §9). A slot is an instant at which one person may be sent
//! all that they missed; slots are given in order, by all schedulers together, and only to late reminders.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Double, Timestamptz, Uuid},
};

use super::delivery::{Due, LATE, TOO_LATE, due_columns};
use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    ids::{FireId, JobId, UserId},
};

/// Under this name `scheduler_state` keeps the last slot that was given.
const STATE: &str = "catch_up";

/// Gives each person who has nothing but late fires a slot. The backlog of a person is one mail: the rest of it that is
/// due joins `people`, and what belongs to a job that waits for its slot already leaves `people` for `given`.
///
/// # Errors
/// If the database is away.
pub(super) async fn slots(
    tx: &mut Tx,
    people: &mut BTreeMap<UserId, Vec<Due>>,
    given: &mut Vec<(FireId, JobId)>,
    per_second: u16,
) -> Result<BTreeMap<UserId, DateTime<Utc>>> {
    let late = |people: &BTreeMap<UserId, Vec<Due>>| -> Vec<UserId> {
        let all_late = people.iter().filter(|(_, fires)| fires.iter().all(|fire| fire.late));
        all_late.map(|(user, _)| *user).collect()
    };
    if late(people).is_empty() {
        return Ok(BTreeMap::new());
    }
    // Holds the others' late rounds up until this one is committed; rounds without late fires do not come here.
    let step = Duration::microseconds(1_000_000 / i64::from(per_second.max(1)));
    advance(tx, step, 0).await?;
    let have: Vec<FireId> = people.values().flatten().map(|fire| fire.id).collect();
    for fire in rest(tx, &late(people), &have).await? {
        people.entry(fire.user_id).or_default().push(fire);
    }
    for Waiting { user_id, job_id } in waiting(tx, &late(people)).await? {
        given.extend(people.remove(&user_id).into_iter().flatten().map(|fire| (fire.id, job_id)));
    }
    let late = late(people);
    let last = advance(tx, step, late.len()).await?;
    let mut slot = last;
    Ok(late
        .into_iter()
        .rev()
        .map(|user| {
            let own = slot;
            slot -= step;
            (user, own)
        })
        .collect())
}

/// Takes so many slots, from now on at the earliest, and answers the last of them.
async fn advance(tx: &mut Tx, step: Duration, slots: usize) -> Result<DateTime<Utc>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Timestamptz)]
        last_slot_at: DateTime<Utc>,
    }

    let step = step.as_seconds_f64();
    let taken = step * f64::from(u32::try_from(slots).unwrap_or(u32::MAX));
    let row: Row = sql!(
        "INSERT INTO scheduler_state AS s (name, last_slot_at)
         VALUES ({name}, {now} + make_interval(secs => {taken} - {step}))
         ON CONFLICT (name) DO UPDATE SET last_slot_at =
             greatest(s.last_slot_at, {now} - make_interval(secs => {step})) + make_interval(secs => {taken})
         RETURNING last_slot_at",
        name: diesel::sql_types::Text = STATE,
        now = tx.clock().now(),
        taken: Double = taken,
        step: Double = step,
    )
    .get_result(tx.conn())
    .await?;
    Ok(row.last_slot_at)
}

/// What else these people have missed, beyond the batch that is at hand.
async fn rest(tx: &mut Tx, people: &[UserId], batch: &[FireId]) -> Result<Vec<Due>> {
    let fires: Vec<Due> = sql!(
        concat!(
            "SELECT ",
            due_columns!(),
            " FROM reminder_fires WHERE user_id = ANY({people}) AND state IN ('planned', 'deferred') AND fire_at <= {now}
                 AND id <> ALL({batch})
             ORDER BY fire_at FOR UPDATE SKIP LOCKED"
        ),
        batch: Array<Uuid> = batch,
        people: Array<Uuid> = people,
        now = tx.clock().now(),
        late: Double = LATE.as_seconds_f64(),
        too_late: Double = TOO_LATE.as_seconds_f64(),
    )
    .load(tx.conn())
    .await?;
    Ok(fires)
}

/// A person's job that waits for its slot.
#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = Uuid)]
    user_id: UserId,
    #[diesel(sql_type = Uuid)]
    job_id: JobId,
}

/// Of each of these people the job that has late fires of theirs and has not begun. It is locked, so that it does not
/// begin before it has the others, too.
async fn waiting(tx: &mut Tx, people: &[UserId]) -> Result<Vec<Waiting>> {
    let jobs = sql!(
        "SELECT w.user_id, j.id AS job_id FROM (
             SELECT DISTINCT ON (f.user_id) f.user_id, f.job_id FROM reminder_fires f JOIN jobs j ON j.id = f.job_id
             WHERE f.user_id = ANY({people}) AND f.state = 'queued' AND f.fire_at < {now} - make_interval(secs => {late})
                 AND j.state = 'ready' AND j.attempt = 0
             ORDER BY f.user_id, j.run_at) w
         JOIN jobs j ON j.id = w.job_id WHERE j.state = 'ready' ORDER BY j.id FOR UPDATE OF j SKIP LOCKED",
        people: Array<Uuid> = people,
        now = tx.clock().now(),
        late: Double = LATE.as_seconds_f64(),
    )
    .load(tx.conn())
    .await?;
    Ok(jobs)
}
