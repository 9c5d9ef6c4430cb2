mod turns;

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use common::{
    error::Error,
    events::Event,
    jobs::SendWebhook,
    webhooks::{
        attempt::{self, Due, Ending, Next, Standing},
        signature,
        target::TargetError,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

pub use turns::Turns;

use crate::{
    context::Context,
    job::{JobError, Run},
};

/// A delivery that waits for its endpoint's circuit looks again after so long at most: its owner may have mended the
/// receiver, and a ping then closes the circuit.
const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(5);
/// Over so much time deliveries that wait together come back: a few, and a backlog.
const SPREAD: (TimeDelta, TimeDelta) = (TimeDelta::seconds(1), TimeDelta::minutes(1));

impl Run for SendWebhook {
    /// One attempt of a delivery. What the receiver makes of it is settled in the delivery; the job is done then, or put
    /// off to the next attempt without being charged. What fails here is the job's own failure.
    async fn run(self, context: &Context) -> Result<(), JobError> {
        let Some(mut due) = wanted(context, &self).await? else { return Ok(()) };
        let turn = if due.is_ping {
            None
        } else {
            if is_open(context, &due) {
                return Err(wait_for(context, &due));
            }
            match context.turns.take(due.endpoint_id, due.is_troubled).await {
                Ok(turn) => Some(turn),
                Err(pause) => return Err(JobError::Snooze(context.db.clock().instant() + pause)),
            }
        };
        // Much may have happened while it waited for its turn.
        if turn.as_ref().is_some_and(|turn| turn.has_waited()) {
            match wanted(context, &self).await? {
                Some(again) => due = again,
                None => return Ok(()),
            }
        }
        if let Some(since) = due.retry_at
            && !due.is_ping
            && (since > context.db.clock().instant() || !attempt::probe(&context.db, due.endpoint_id).await?)
        {
            return Err(wait_for(context, &due));
        }
        let Some(ending) = send(context, &due).await? else {
            return Ok(attempt::cancel(&context.db, due.id, "event_pruned").await?);
        };
        drop(turn);
        match attempt::settle(&context.db, &due, &ending, rand::random()).await? {
            Next::Settled => Ok(()),
            Next::Again(at) => Err(JobError::Snooze(at)),
        }
    }
}

/// The delivery, if it is still to be sent.
async fn wanted(context: &Context, job: &SendWebhook) -> Result<Option<Due>, JobError> {
    match attempt::load(&context.db, job.delivery_id).await? {
        Standing::Due(due) => Ok(Some(*due)),
        Standing::Settled => Ok(None),
        Standing::Unwanted(reason) => {
            attempt::cancel(&context.db, job.delivery_id, reason).await?;
            Err(JobError::Cancel(reason.to_owned()))
        }
    }
}

fn is_open(context: &Context, due: &Due) -> bool {
    due.retry_at.is_some_and(|until| until > context.db.clock().instant())
}

/// The endpoint's circuit is open: the delivery comes back when it is probed, and is not charged.
fn wait_for(context: &Context, due: &Due) -> JobError {
    let now = context.db.clock().instant();
    let until: DateTime<Utc> = due.retry_at.unwrap_or(now).clamp(now, now + LOOK_AGAIN);
    let spread = if due.has_backlog { SPREAD.1 } else { SPREAD.0 };
    let share = TimeDelta::milliseconds(rand::random_range(0..spread.num_milliseconds()));
    JobError::Snooze(until + share)
}

/// Sends it. `None` if the event is there no more. No connection to the database is held meanwhile.
async fn send(context: &Context, due: &Due) -> Result<Option<Ending>, JobError> {
    let Some(event) = Event::load(&mut *context.db.conn().await?, due.event_id).await? else {
        return Ok(None);
    };
    let target = match context.http.reach().target(&due.url, due.owner) {
        Ok(target) => target,
        // It was good when it was made: what the operator allows has changed, or whose it is.
        Err(error @ TargetError::NotPublic(_)) => return Ok(Some(refused(format!("ssrf_blocked: {error}")))),
        Err(error) => return Ok(Some(refused(format!("the URL is not allowed any more: {error}")))),
    };
    let body = event.payload(&context.settings.public_url);
    let headers = headers(context, due, &body)?;
    let started = Instant::now();
    let answer = context.http.post(&target, due.owner, headers, body).await;
    let took = started.elapsed();
    Ok(Some(match answer {
        Ok(answer) => Ending {
            status: Some(answer.status),
            body: answer.body,
            retry_after: answer.retry_after,
            error: None,
            took,
        },
        Err(failure) => Ending { took, ..refused(failure.to_string()) },
    }))
}

fn refused(error: String) -> Ending {
    Ending { error: Some(error), ..Ending::default() }
}

/// The headers of Standard Webhooks, with the time of this attempt and a signature for each secret that is valid now.
fn headers(context: &Context, due: &Due, body: &str) -> Result<HeaderMap, JobError> {
    let id = due.event_id.to_string();
    let timestamp = context.db.clock().instant().timestamp();
    let secrets = due.secrets(&context.secrets)?;
    let signature = signature::header(&secrets, &id, timestamp, body.as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut set = |name: &'static str, value: &str| -> Result<(), Error> {
        let value = HeaderValue::from_str(value).map_err(|error| Error::Internal(error.into()))?;
        headers.insert(HeaderName::from_static(name), value);
        Ok(())
    };
    set("webhook-id", &id)?;
    set("webhook-timestamp", &timestamp.to_string())?;
    set("webhook-signature", &signature)?;
    if let Some(request) = &due.request_id {
        set("x-request-id", request)?;
    }
    Ok(headers)
}

#[cfg(all(test, feature = "testing"))]
mod tests;
