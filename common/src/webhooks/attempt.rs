//! One attempt of a delivery, as the database sees it: whether it is wanted now, and what its end means for the delivery
//! and for its endpoint. Sending is the worker's business, and nothing here holds a connection meanwhile.
//!
//! A failing receiver is no fault of ours: it is settled in the delivery, which counts its own attempts, and the job is
//! put off to the next of them. The *circuit* of an endpoint opens after [`OPENS_AFTER`] failures in a row
//! (`webhook_endpoints.retry_at`): its deliveries wait, uncharged, and at that time one of them is the probe.

mod schedule;
mod settle;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Bytea, Double, Integer, Nullable, Text, Timestamptz, Uuid},
};

pub use schedule::{MAX_RETRY_AFTER, SCHEDULE, pause, retry_after};
pub use settle::{Ending, Next, cancel, settle};

use super::{signature::Secret, target::Owner};
use crate::{
    db::{Db, RunQueryDsl as _, sql},
    error::{Error, Result},
    events::{self, audience_sql},
    ids::{DeliveryId, EndpointId, EventId, UserId},
    secrets::SecretKeys,
};

/// So many failures in a row open the circuit of an endpoint.
pub const OPENS_AFTER: i32 = 5;
/// How long the circuit is open at first; twice as long after each failed probe, up to [`OPEN_AT_MOST`].
pub const OPEN_AT_FIRST: TimeDelta = TimeDelta::seconds(30);
/// The longest time between two probes.
pub const OPEN_AT_MOST: TimeDelta = TimeDelta::minutes(5);
/// For so long after a probe began no other begins, unless it ended; longer than an attempt may take.
const PROBE: TimeDelta = TimeDelta::seconds(20);
/// After so long without a success an endpoint is switched off, and its owner is told (product §5).
pub const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(5);
/// With more deliveries open than this an endpoint is sent one at a time (semantics §9).
pub const BACKLOG: i64 = 100;

/// A delivery that is wanted and due, with where and how it is sent.
#[derive(Debug, Clone)]
pub struct Due {
    /// The delivery.
    pub id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// Whose endpoint it is.
    pub owner_id: UserId,
    /// What is sent.
    pub event_id: EventId,
    /// The URL, as it was stored.
    pub url: String,
    /// How far the URL may lead.
    pub owner: Owner,
    /// Attempts made so far.
    pub attempts: i32,
    /// Whether somebody asked for it to see what happens: it waits for nothing, and is tried once.
    pub is_ping: bool,
    /// The circuit is open until then, or was; `None` if it is closed.
    pub retry_at: Option<DateTime<Utc>>,
    /// Whether the endpoint failed last, or has more than [`BACKLOG`] deliveries open: then one at a time.
    pub is_troubled: bool,
    /// Whether more than [`BACKLOG`] deliveries are open.
    pub has_backlog: bool,
    /// The request that brought the event about.
    pub request_id: Option<String>,
    sealed: Vec<Vec<u8>>,
}

/// Where a delivery stands when its job runs.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Finished, or deleted with its endpoint.
    Settled,
    /// Not wanted any more, for this reason: to be [cancelled](cancel).
    Unwanted(&'static str),
    /// To be sent.
    Due(Box<Due>),
}

impl Due {
    /// The secrets that are valid now, the newest first.
    ///
    /// # Errors
    /// If a secret cannot be opened: its key is missing in `SECRET_KEYS`.
    pub fn secrets(&self, keys: &SecretKeys) -> Result<Vec<Secret>> {
        let open = |sealed: &Vec<u8>| {
            let plain = keys.open(sealed, self.endpoint_id.uuid().as_bytes())?;
            Secret::parse(std::str::from_utf8(&plain).ok()?)
        };
        let secrets: Option<Vec<Secret>> = self.sealed.iter().map(open).collect();
        secrets.ok_or_else(|| {
            let endpoint = self.endpoint_id;
            Error::Internal(anyhow::anyhow!(
                "the secret of the webhook endpoint {endpoint} does not open: is its key still in SECRET_KEYS?"
            ))
        })
    }
}

/// Looks at a delivery before an attempt: whether its endpoint is active, its owner too, and whether they may still see
/// the task.
///
/// # Errors
/// If the database is away.
pub async fn load(db: &Db, id: DeliveryId) -> Result<Standing> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        endpoint_id: EndpointId,
        #[diesel(sql_type = Uuid)]
        owner_id: UserId,
        #[diesel(sql_type = Uuid)]
        event_id: EventId,
        #[diesel(sql_type = Text)]
        event_type: String,
        #[diesel(sql_type = Text)]
        url: String,
        #[diesel(sql_type = Bool)]
        is_admin: bool,
        #[diesel(sql_type = Integer)]
        attempts: i32,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        retry_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Integer)]
        failure_streak: i32,
        #[diesel(sql_type = BigInt)]
        open: i64,
        #[diesel(sql_type = Nullable<Text>)]
        unwanted: Option<String>,
        #[diesel(sql_type = Nullable<Text>)]
        request_id: Option<String>,
        #[diesel(sql_type = Bytea)]
        secret: Vec<u8>,
        #[diesel(sql_type = Nullable<Bytea>)]
        previous: Option<Vec<u8>>,
    }

    let row: Option<Row> = sql!(
        concat!(
            "SELECT d.endpoint_id, e.owner_id, d.event_id, d.event_type, e.url, u.role = 'admin' AS is_admin, d.attempts,
                 e.retry_at, e.failure_streak, d.request_id, e.secret_enc AS secret,
                 CASE WHEN e.previous_secret_until > {now} THEN e.previous_secret_enc END AS previous,
                 (SELECT count(*) FROM (SELECT FROM webhook_deliveries o
                      WHERE o.endpoint_id = e.id AND o.finished_at IS NULL LIMIT {enough}) o) AS open,
                 CASE WHEN e.state = 'paused' THEN 'endpoint_paused'
                      WHEN e.state = 'auto_disabled' THEN 'endpoint_disabled'
                      WHEN e.state = 'gone' THEN 'endpoint_gone'
                      WHEN NOT u.is_active THEN 'owner_disabled'
                      WHEN ev.id IS NOT NULL AND NOT coalesce(e.owner_id = ANY ",
            audience_sql!("ev"),
            ", false) THEN 'no_access' END AS unwanted
             FROM webhook_deliveries d LEFT JOIN events ev ON ev.id = d.event_id
             JOIN webhook_endpoints e ON e.id = d.endpoint_id JOIN users u ON u.id = e.owner_id
             WHERE d.id = {id} AND d.finished_at IS NULL"
        ),
        id: Uuid = id,
        now = db.clock().now(),
        enough: BigInt = BACKLOG + 1,
    )
    .load(&mut db.conn().await?)
    .await?
    .pop();
    let Some(row) = row else { return Ok(Standing::Settled) };
    if let Some(reason) = row.unwanted {
        let known = ["endpoint_paused", "endpoint_disabled", "endpoint_gone", "owner_disabled"];
        let reason = known.into_iter().find(|known| *known == reason).unwrap_or("no_access");
        return Ok(Standing::Unwanted(reason));
    }
    let has_backlog = row.open > BACKLOG;
    Ok(Standing::Due(Box::new(Due {
        id,
        endpoint_id: row.endpoint_id,
        owner_id: row.owner_id,
        event_id: row.event_id,
        url: row.url,
        owner: if row.is_admin { Owner::Admin } else { Owner::User },
        attempts: row.attempts,
        is_ping: row.event_type == events::PING,
        retry_at: row.retry_at,
        is_troubled: has_backlog || row.failure_streak > 0,
        has_backlog,
        request_id: row.request_id,
        sealed: std::iter::once(row.secret).chain(row.previous).collect(),
    })))
}

/// Asks to be the probe of an endpoint whose circuit has been open long enough. Of any number that ask at once, in any
/// number of processes, one is.
///
/// # Errors
/// If the database is away.
pub async fn probe(db: &Db, endpoint: EndpointId) -> Result<bool> {
    let touched = sql!(
        "UPDATE webhook_endpoints SET retry_at = {now} + make_interval(secs => {probe})
         WHERE id = {endpoint} AND retry_at <= {now}",
        now = db.clock().now(),
        probe: Double = PROBE.as_seconds_f64(),
        endpoint: Uuid = endpoint,
    )
    .execute(&mut db.conn().await?)
    .await?;
    Ok(touched == 1)
}
