use super::*;
use crate::{
    db::Tx,
    jobs::{Job as _, Letter, SendMail},
    metrics,
};

/// How an attempt ended.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// The status that was answered; `None` if nothing was.
    pub status: Option<u16>,
    /// The beginning of the answer's body, at most 16 KiB.
    pub body: Option<String>,
    /// Its `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// What went wrong, for the owner of the endpoint; `None` if it was answered.
    pub error: Option<String>,
    /// How long it took.
    pub took: std::time::Duration,
}

impl Ending {
    fn is_success(&self) -> bool {
        matches!(self.status, Some(200..=299))
    }

    fn error(&self) -> Option<String> {
        let text = match (self.status, &self.error) {
            (_, Some(error)) => error.clone(),
            (Some(200..=299), None) => return None,
            (Some(300..=399), None) => "redirects are not followed: give the URL that it leads to".to_owned(),
            (Some(status), None) => format!("answered {status}"),
            (None, None) => "no answer".to_owned(),
        };
        Some(text.replace('\0', "").chars().take(500).collect())
    }
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The delivery was accepted, or is not tried again.
    Settled,
    /// It is tried again then.
    Again(DateTime<Utc>),
}

/// Writes how an attempt ended, for the delivery and for the endpoint. Both are written together: what was counted for
/// one was counted for the other. `jitter` is a random number from 0 to 1.
///
/// # Errors
/// If the database is away: the delivery is then sent again, under the same `webhook-id`.
pub async fn settle(db: &Db, due: &Due, ending: &Ending, jitter: f64) -> Result<Next> {
    if ending.is_success() {
        succeeded(db, due, ending).await?;
        metrics::webhook_delivery("succeeded");
        tracing::info!(delivery.id = %due.id, endpoint.id = %due.endpoint_id, status = ending.status, "webhook delivered");
        return Ok(Next::Settled);
    }
    let now = db.clock().instant();
    let asked = ending.retry_after.as_deref().and_then(|value| retry_after(value, now));
    let is_gone = ending.status == Some(410);
    let mut next = match pause(due.attempts + 1, jitter) {
        Some(planned) if !is_gone && !due.is_ping => Some(now + planned.max(asked.unwrap_or_default())),
        _ => None,
    };
    let mut tx = db.begin().await?;
    // What somebody tries out is no sign of a receiver that is down, unless it says that it is gone.
    if is_gone || !due.is_ping {
        // Too busy is said of the receiver, not of one delivery.
        let wait = asked.filter(|_| matches!(ending.status, Some(429 | 503)));
        if failed(&mut tx, due, is_gone, wait, jitter).await? {
            next = None;
        }
    }
    write(&mut tx, due, ending, next).await?;
    tx.commit().await?;
    let result = if next.is_some() { "failed" } else { "exhausted" };
    metrics::webhook_delivery(result);
    let error = ending.error();
    tracing::info!(delivery.id = %due.id, endpoint.id = %due.endpoint_id, status = ending.status, error, result,
        "webhook not delivered");
    Ok(next.map_or(Next::Settled, Next::Again))
}

/// One statement. The endpoint is written when there is something to say: once a minute is enough for `last_success_at`.
async fn succeeded(db: &Db, due: &Due, ending: &Ending) -> Result<()> {
    sql!(
        "WITH d AS (
             UPDATE webhook_deliveries SET state = 'succeeded', attempts = attempts + 1, response_status = {status},
                 response_ms = {millis}, response_body = {body}, error = NULL, last_attempt_at = {now}, finished_at = {now}
             WHERE id = {id} AND finished_at IS NULL)
         UPDATE webhook_endpoints SET failure_streak = 0, first_failure_at = NULL, retry_at = NULL, last_success_at = {now}
         WHERE id = {endpoint} AND (failure_streak > 0 OR retry_at IS NOT NULL OR last_success_at IS NULL
             OR last_success_at < {now} - interval '1 minute')",
        status: Nullable<Integer> = ending.status.map(i32::from),
        millis: Integer = millis(ending),
        body: Nullable<Text> = ending.body.as_deref(),
        now = db.clock().now(),
        id: Uuid = due.id,
        endpoint: Uuid = due.endpoint_id,
    )
    .execute(&mut db.conn().await?)
    .await?;
    Ok(())
}

/// Counts a failure of the endpoint: opens its circuit, switches it off, or notes that it is gone. Answers whether it is
/// sent no more.
async fn failed(tx: &mut Tx, due: &Due, is_gone: bool, wait: Option<TimeDelta>, jitter: f64) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Text>)]
        ended: Option<String>,
    }

    let now = tx.clock().now();
    let row: Option<Row> = sql!(
        "WITH e AS MATERIALIZED (
             SELECT id, CASE WHEN state <> 'active' THEN NULL WHEN {is_gone} THEN 'gone'
                 WHEN first_failure_at <= {now} - make_interval(secs => {give_up}) THEN 'auto_disabled' END AS ended,
                 CASE WHEN failure_streak + 1 >= {opens_after} THEN {now} + make_interval(secs =>
                     least({at_most}, {at_first} * power(2, least(failure_streak + 1 - {opens_after}, 20))) * {jitter}) END AS opens
             FROM webhook_endpoints WHERE id = {endpoint} FOR UPDATE)
         UPDATE webhook_endpoints w SET failure_streak = failure_streak + 1,
             first_failure_at = coalesce(first_failure_at, {now}),
             retry_at = greatest(e.opens, {now} + make_interval(secs => {wait}), w.retry_at),
             state = coalesce(e.ended::endpoint_state, state),
             version = version + CASE WHEN e.ended IS NULL THEN 0 ELSE 1 END,
             updated_at = CASE WHEN e.ended IS NULL THEN updated_at ELSE {now} END
         FROM e WHERE w.id = e.id RETURNING e.ended",
        is_gone: Bool = is_gone,
        now = now,
        give_up: Double = GIVE_UP_AFTER.as_seconds_f64(),
        opens_after: Integer = OPENS_AFTER,
        at_first: Double = OPEN_AT_FIRST.as_seconds_f64(),
        at_most: Double = OPEN_AT_MOST.as_seconds_f64(),
        jitter: Double = 0.8 + 0.4 * jitter,
        endpoint: Uuid = due.endpoint_id,
        wait: Nullable<Double> = wait.map(|wait| wait.as_seconds_f64()),
    )
    .load(tx.conn())
    .await?
    .pop();
    let Some(ended) = row.and_then(|row| row.ended) else { return Ok(false) };
    let is_disabled = ended == "auto_disabled";
    cancel_others(tx, due, if is_disabled { "endpoint_disabled" } else { "endpoint_gone" }).await?;
    if is_disabled {
        let letter = Letter::WebhookDisabled { endpoint_id: due.endpoint_id };
        SendMail { user_id: due.owner_id, letter }.enqueue(tx).await?;
    }
    Ok(true)
}

/// The other open deliveries of an endpoint that is sent no more. One that is locked is just being settled, and sees for
/// itself at its next attempt.
async fn cancel_others(tx: &mut Tx, due: &Due, reason: &str) -> Result<()> {
    let now = tx.clock().now();
    let count = sql!(
        "WITH o AS MATERIALIZED (SELECT id FROM webhook_deliveries
             WHERE endpoint_id = {endpoint} AND finished_at IS NULL AND id <> {id} ORDER BY id FOR UPDATE SKIP LOCKED)
         UPDATE webhook_deliveries d SET state = 'cancelled', error = {reason}, finished_at = {now} FROM o WHERE d.id = o.id",
        endpoint: Uuid = due.endpoint_id,
        id: Uuid = due.id,
        reason: Text = reason,
        now = now,
    )
    .execute(tx.conn())
    .await?;
    for _ in 0..count {
        metrics::webhook_delivery("cancelled");
    }
    tracing::warn!(endpoint.id = %due.endpoint_id, reason, cancelled = count, "the endpoint is sent no more webhooks");
    Ok(())
}

async fn write(tx: &mut Tx, due: &Due, ending: &Ending, next: Option<DateTime<Utc>>) -> Result<()> {
    let now = tx.clock().now();
    sql!(
        "UPDATE webhook_deliveries SET state = CASE WHEN {again} THEN 'failed' ELSE 'exhausted' END::delivery_state,
             attempts = attempts + 1, response_status = {status}, response_ms = {millis}, response_body = {body},
             error = {error}, last_attempt_at = {now}, finished_at = CASE WHEN {again} THEN NULL ELSE {now} END
         WHERE id = {id} AND finished_at IS NULL",
        again: Bool = next.is_some(),
        status: Nullable<Integer> = ending.status.map(i32::from),
        millis: Integer = millis(ending),
        body: Nullable<Text> = ending.body.as_deref(),
        error: Nullable<Text> = ending.error(),
        now = now,
        id: Uuid = due.id,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Cancels a delivery that is not wanted any more.
///
/// # Errors
/// If the database is away.
pub async fn cancel(db: &Db, id: DeliveryId, reason: &str) -> Result<()> {
    let count = sql!(
        "UPDATE webhook_deliveries SET state = 'cancelled', error = {reason}, finished_at = {now}
         WHERE id = {id} AND finished_at IS NULL",
        reason: Text = reason,
        now = db.clock().now(),
        id: Uuid = id,
    )
    .execute(&mut db.conn().await?)
    .await?;
    if count == 1 {
        metrics::webhook_delivery("cancelled");
    }
    Ok(())
}

fn millis(ending: &Ending) -> i32 {
    i32::try_from(ending.took.as_millis()).unwrap_or(i32::MAX)
}
