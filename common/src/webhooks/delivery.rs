use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{Array, BigInt, Bool, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};

use super::{
    endpoint::Endpoint,
    fan_out::{NewDelivery, deliver},
};
use crate::{
    access::{Expected, Viewer},
    db::{RunQueryDsl as _, Tx, pg_enum, sql, sql_expression},
    error::{Code, Error, FieldError, Result},
    events::{self, Event, audience_sql},
    ids::{DeliveryId, EndpointId, EventId, TaskId},
    page::{Cursors, Page},
    schema::webhook_deliveries as deliveries,
    secrets::Key,
    telemetry::Origin,
};

/// DeliveryDetail that one call repeats at most.
pub const MAX_RANGE: usize = 1_000;
/// What somebody waits for goes before everything else.
const AT_ONCE: i16 = 0;

pg_enum! {
    /// Where a delivery stands.
    DeliveryState: DeliveryState {
        /// It waits for its first or next attempt.
        Pending = "pending",
        /// It is being sent.
        InFlight = "in_flight",
        /// It arrived: the receiver answered 2xx.
        Succeeded = "succeeded",
        /// The last attempt failed; if it has not finished, there will be another.
        Failed = "failed",
        /// All attempts failed.
        Exhausted = "exhausted",
        /// It is not wanted any more.
        Cancelled = "cancelled",
    }
}

sql_expression! {
    /// When the job of an unfinished delivery runs next.
    pub NextAttemptAt on webhook_deliveries: Nullable<Timestamptz> =
        "(SELECT j.run_at FROM jobs j WHERE j.id = webhook_deliveries.job_id AND j.finished_at IS NULL
          AND webhook_deliveries.finished_at IS NULL)"
}

/// One event for one endpoint, and what came of it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = deliveries, check_for_backend(diesel::pg::Pg))]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// What happened: the `webhook-id` that the receiver sees, the same at every attempt and redelivery.
    pub event_id: EventId,
    /// What kind of thing that was.
    #[schema(example = "task.completed")]
    pub event_type: String,
    /// The task that it is about.
    pub task_id: Option<TaskId>,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next; null if it is not.
    #[diesel(select_expression = NextAttemptAt, select_expression_type = NextAttemptAt)]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The status of the last answer.
    #[schema(example = 204)]
    pub response_status: Option<i16>,
    /// How many milliseconds that took.
    #[schema(example = 87)]
    pub response_ms: Option<i32>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// The delivery that this one repeats, the first of them.
    pub redelivery_of: Option<DeliveryId>,
    /// When it was last tried.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
    /// The request that brought it about.
    pub request_id: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A delivery with what was sent and what was answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryDetail {
    /// The delivery.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// What was sent, or will be.
    pub request: SentRequest,
    /// What was answered last; null if there was no answer.
    pub response: Option<GotResponse>,
}

/// What a delivery sends.
#[derive(Debug, Serialize, ToSchema)]
pub struct SentRequest {
    /// Where to: the endpoint's URL as it is now.
    pub url: String,
    /// The headers, without the signature, which is made anew at each attempt and not kept.
    #[schema(value_type = Object)]
    pub headers: serde_json::Value,
    /// The body, byte for byte as it was signed; null if the task is out of the owner's sight now, or the event is gone.
    pub body: Option<String>,
}

/// What a receiver answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct GotResponse {
    /// The status.
    pub status: i16,
    /// How many milliseconds it took.
    pub ms: Option<i32>,
    /// The beginning of the body, at most 16 KiB; null if it is not kept, or the task is out of the owner's sight now.
    pub body: Option<String>,
}

/// Which deliveries a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct DeliveryFilter {
    /// Only those that stand so.
    pub state: Option<DeliveryState>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// Which deliveries are repeated.
#[derive(Debug, Clone, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct Range {
    /// Made at this instant or later.
    #[param(example = "2026-12-01T00:00:00Z")]
    pub from: DateTime<Utc>,
    /// Made before this instant; now, if absent.
    pub to: Option<DateTime<Utc>>,
    /// Which ended so: `failed` (the default) for all that did not arrive, `succeeded`, `exhausted` or `cancelled`.
    pub state: Option<DeliveryState>,
}

/// What came of repeating a range.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repeated {
    /// So many are delivered again.
    #[schema(example = 42)]
    pub count: usize,
    /// Whether there are more: the same call takes the next ones.
    pub has_more: bool,
}

impl Delivery {
    /// The log of an endpoint, the newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer has no such endpoint, [`Error::Malformed`] for a bad cursor.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        endpoint: EndpointId,
        filter: &DeliveryFilter,
        keys: &[Key],
    ) -> Result<Page<Self>> {
        Endpoint::find(conn, viewer, endpoint).await?;
        let limit = filter.limit.unwrap_or(50);
        let cursors = Cursors::new(keys, "deliveries", &(endpoint, filter))?;
        let mut rows = Self::query()
            .filter(deliveries::endpoint_id.eq(endpoint))
            .order(deliveries::id.desc())
            .limit(i64::from(limit) + 1)
            .into_boxed();
        if let Some(state) = filter.state {
            rows = rows.filter(deliveries::state.eq(state));
        }
        if let Some(cursor) = &filter.cursor {
            rows = rows.filter(deliveries::id.lt(cursors.read::<DeliveryId>(cursor)?));
        }
        Page::of(rows.load(conn).await?, limit, &cursors, |last: &Self| last.id)
    }

    /// One delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer has no such endpoint, or it no such delivery.
    pub async fn find(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        endpoint: EndpointId,
        id: DeliveryId,
    ) -> Result<Self> {
        Endpoint::find(conn, viewer, endpoint).await?;
        let found = Self::query().filter(deliveries::id.eq(id)).filter(deliveries::endpoint_id.eq(endpoint));
        found.first(conn).await.optional()?.ok_or(Error::NotFound("delivery"))
    }

    /// Whether an attempt has come to its end, the first at least.
    pub fn was_tried(&self) -> bool {
        self.finished_at.is_some() || (self.attempts > 0 && self.state != DeliveryState::InFlight)
    }
}

impl DeliveryDetail {
    /// One delivery with what was sent and answered. Who has lost sight of the task does not see its data.
    ///
    /// # Errors
    /// As [`Delivery::find`].
    pub async fn find(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        endpoint: EndpointId,
        id: DeliveryId,
        public_url: &Url,
    ) -> Result<Self> {
        let url = Endpoint::find(conn, viewer, endpoint).await?.url;
        let delivery = Delivery::find(conn, viewer, endpoint, id).await?;
        let visible = is_visible(conn, viewer, delivery.event_id).await?;
        let event = if visible { Event::load(conn, delivery.event_id).await? } else { None };
        let answer: Option<String> = if visible {
            deliveries::table
                .find(id)
                .select(deliveries::response_body)
                .first(conn)
                .await
                .optional()?
                .flatten()
        } else {
            None
        };
        let headers = serde_json::json!({
            "content-type": "application/json",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": delivery.last_attempt_at.map(|at| at.timestamp().to_string()),
        });
        let body = event.map(|event| event.payload(public_url));
        let response = delivery.response_status.map(|status| GotResponse {
            status,
            ms: delivery.response_ms,
            body: answer,
        });
        Ok(Self { delivery, request: SentRequest { url, headers, body }, response })
    }
}

/// Whether the viewer may learn of an event now; of one that was pruned nobody may.
async fn is_visible(conn: &mut AsyncPgConnection, viewer: Viewer, event: EventId) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        visible: bool,
    }

    let row: Row = sql!(
        concat!(
            "SELECT EXISTS (SELECT FROM events ev WHERE ev.id = {event} AND {viewer} = ANY ",
            audience_sql!("ev"),
            ") AS visible"
        ),
        event: Uuid = event,
        viewer: Uuid = viewer.user_id,
    )
    .get_result(conn)
    .await?;
    Ok(row.visible)
}

/// Delivers once more, under the same `webhook-id`: a delivery of its own.
///
/// # Errors
/// [`Error::NotFound`] if the viewer has no such delivery, or may not learn of the event any more; [`Error::Conflict`] if the
/// delivery has not come to its end, or the endpoint is disabled.
pub async fn redeliver(
    tx: &mut Tx,
    viewer: Viewer,
    endpoint: EndpointId,
    id: DeliveryId,
) -> Result<Delivery> {
    Endpoint::lock(tx, viewer, endpoint, &Expected::Any).await?.refuse_inactive()?;
    let old = Delivery::find(tx.conn(), viewer, endpoint, id).await?;
    if !is_visible(tx.conn(), viewer, old.event_id).await? {
        return Err(Error::NotFound("event"));
    }
    if old.finished_at.is_none() {
        return Err(Error::conflict(Code::DeliveryUnderWay, Code::DeliveryUnderWay.help()));
    }
    let new = NewDelivery {
        endpoint_id: endpoint,
        event_id: old.event_id,
        event_type: old.event_type,
        task_id: old.task_id,
        redelivery_of: Some(old.redelivery_of.unwrap_or(old.id)),
    };
    made(tx, viewer, new).await
}

/// Writes one delivery that nothing stands in the way of.
async fn made(tx: &mut Tx, viewer: Viewer, new: NewDelivery) -> Result<Delivery> {
    let endpoint = new.endpoint_id;
    let id =
        deliver(tx, &[new], Some(AT_ONCE)).await?.into_iter().next().ok_or(Error::NotFound("delivery"))?;
    Delivery::find(tx.conn(), viewer, endpoint, id).await
}

/// Delivers once more what came to its end in a state within a range, the oldest first and at most [`MAX_RANGE`]: of
/// each event the newest delivery only, and only if the viewer may still learn of it.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Malformed`] if the range is empty or the state is not an end, [`Error::Conflict`] if the
/// endpoint is disabled.
pub async fn redeliver_range(
    tx: &mut Tx,
    viewer: Viewer,
    endpoint: EndpointId,
    range: &Range,
) -> Result<Repeated> {
    let refuse =
        |name, detail| Err(Error::Malformed(FieldError::parameter(name, Code::MalformedParameter, detail)));
    if range.to.is_some_and(|to| to <= range.from) {
        return refuse("to", "The range ends before it begins.");
    }
    let states = match range.state.unwrap_or(DeliveryState::Failed) {
        DeliveryState::Failed => vec![DeliveryState::Failed, DeliveryState::Exhausted],
        state @ (DeliveryState::Succeeded | DeliveryState::Exhausted | DeliveryState::Cancelled) => {
            vec![state]
        }
        DeliveryState::Pending | DeliveryState::InFlight => {
            return refuse("state", "What is under way is tried again by itself.");
        }
    };
    // The lock makes a second call at the same time wait, and then see what the first has done.
    Endpoint::lock(tx, viewer, endpoint, &Expected::Any).await?.refuse_inactive()?;
    let mut found: Vec<NewDelivery> = sql!(
        concat!(
            "SELECT d.endpoint_id, d.event_id, d.event_type, d.task_id, coalesce(d.redelivery_of, d.id) AS redelivery_of
             FROM webhook_deliveries d
             WHERE d.endpoint_id = {endpoint} AND d.finished_at IS NOT NULL AND d.state = ANY ({states}::delivery_state[])
                 AND d.created_at >= {from} AND d.created_at < coalesce({to}, 'infinity')
                 AND NOT EXISTS (SELECT FROM webhook_deliveries n WHERE n.endpoint_id = d.endpoint_id
                     AND n.event_id = d.event_id AND n.redelivery_of IS NOT NULL AND n.id > d.id)
                 AND EXISTS (SELECT FROM events ev WHERE ev.id = d.event_id AND {viewer} = ANY ",
            audience_sql!("ev"),
            ") ORDER BY d.id LIMIT {limit}"
        ),
        endpoint: Uuid = endpoint,
        viewer: Uuid = viewer.user_id,
        states: Array<Text> = states.iter().map(|state| state.as_str()).collect::<Vec<_>>(),
        from: Timestamptz = range.from,
        to: Nullable<Timestamptz> = range.to,
        limit: BigInt = i64::try_from(MAX_RANGE).unwrap_or(i64::MAX).saturating_add(1),
    )
    .load(tx.conn())
    .await?;
    let has_more = found.len() > MAX_RANGE;
    found.truncate(MAX_RANGE);
    let count = deliver(tx, &found, None).await?.len();
    Ok(Repeated { count, has_more })
}

/// Sends a `webhook.ping`, before everything else, whatever the endpoint subscribes to.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] unless the endpoint is active.
pub async fn ping(tx: &mut Tx, viewer: Viewer, endpoint: EndpointId) -> Result<Delivery> {
    Endpoint::lock(tx, viewer, endpoint, &Expected::Any).await?.refuse_inactive()?;
    let (event_id, origin) = (EventId::new(), Origin::current());
    sql!(
        "INSERT INTO events (id, event_type, actor_id, owner_id, data, request_id, traceparent, created_at)
         VALUES ({id}, {ping}, {viewer}, {viewer}, {data}, {request_id}, {traceparent}, {now})",
        id: Uuid = event_id,
        ping: Text = events::PING,
        viewer: Uuid = viewer.user_id,
        data: Jsonb = serde_json::json!({"endpoint_id": endpoint}),
        request_id: Nullable<Text> = origin.request_id,
        traceparent: Nullable<Text> = origin.traceparent,
        now = tx.clock().now(),
    )
    .execute(tx.conn())
    .await?;
    let new = NewDelivery {
        endpoint_id: endpoint,
        event_id,
        event_type: events::PING.to_owned(),
        task_id: None,
        redelivery_of: None,
    };
    made(tx, viewer, new).await
}
