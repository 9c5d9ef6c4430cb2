//! How an attempt ends. A finish names the fence of its claim: one that comes late changes nothing, for the job is
//! another worker's by then.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{Array, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;

use super::JobState;
use crate::{
    clock::Clock,
    db::{RunQueryDsl as _, sql},
    error::Result,
    ids::JobId,
};

/// The end of one attempt, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// The job.
    pub id: JobId,
    /// The claim that ends.
    pub fence: i32,
    /// Where it stands now; never `Running`.
    pub state: JobState,
    /// If it goes back to `Ready`: when it may start again.
    pub again: Again,
    /// What went wrong, or why it is not wanted: at most 4 KiB.
    pub error: Option<String>,
}

/// When a job that is not finished may start again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Again {
    /// After this pause. The attempt counts.
    After(Duration),
    /// Not before this instant. The attempt is given back.
    At(DateTime<Utc>),
    /// When it was due, for it has not been tried. The attempt is given back.
    Unchanged,
}

/// Ends attempts. Answers which jobs it was that did end; for the others the finish came too late.
///
/// # Errors
/// If the database is away: it is then unknown which of them ended, and the call is safe to repeat.
pub async fn finish(
    conn: &mut AsyncPgConnection,
    clock: &Clock,
    mut finishes: Vec<Finish>,
) -> Result<Vec<JobId>> {
    // In the order of ids, so that two of these statements lock in the same order.
    finishes.sort_unstable_by_key(|finish| finish.id);
    let n = finishes.len();
    let (mut ids, mut fences, mut states) =
        (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut pauses, mut untils, mut given_back, mut errors) =
        (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
    for finish in finishes {
        ids.push(finish.id);
        fences.push(finish.fence);
        states.push(finish.state.as_str());
        let again = (finish.state == JobState::Ready).then_some(finish.again);
        pauses.push(match again {
            Some(Again::After(pause)) => Some(pause.as_secs_f64()),
            _ => None,
        });
        untils.push(match again {
            Some(Again::At(instant)) => Some(instant),
            _ => None,
        });
        given_back.push(matches!(again, Some(Again::At(_) | Again::Unchanged)));
        errors.push(finish.error);
    }
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: JobId,
    }

    let rows: Vec<Row> = sql!(
        "UPDATE jobs j SET state = f.state::job_state, alive_until = NULL,
             finished_at = CASE WHEN f.state <> 'ready' THEN {now} END,
             run_at = coalesce(f.until, {now} + make_interval(secs => f.pause), j.run_at),
             pushed_at = CASE WHEN f.state <> 'ready' THEN j.pushed_at END,
             attempt = j.attempt - CASE WHEN f.given_back THEN 1 ELSE 0 END,
             errors = CASE WHEN f.error IS NULL THEN j.errors ELSE
                 CASE WHEN jsonb_array_length(j.errors) < 10 THEN j.errors ELSE j.errors - 0 END || jsonb_build_object(
                     'at', to_json({now}), 'attempt', j.attempt, 'worker', j.worker, 'text', f.error) END
         FROM unnest({ids}, {fences}, {states}, {pauses}, {untils}, {given_back}, {errors})
             AS f(id, fence, state, pause, until, given_back, error)
         WHERE j.id = f.id AND j.fence = f.fence AND j.state = 'running'
         RETURNING j.id",
        now = clock.now(),
        ids: Array<Uuid> = ids,
        fences: Array<Integer> = fences,
        states: Array<Text> = states,
        pauses: Array<Nullable<Double>> = pauses,
        untils: Array<Nullable<Timestamptz>> = untils,
        given_back: Array<Bool> = given_back,
        errors: Array<Nullable<Text>> = errors,
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}
