use diesel::{
    QueryableByName,
    sql_types::{Array, BigInt, Nullable, Text, Uuid},
};

use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
    events::audience_sql,
    ids::{DeliveryId, EndpointId, EventId, JobId, TaskId},
    jobs::SendWebhook,
    ledger::{self, NewJob},
    telemetry::Origin,
};

/// Deliveries that one transaction makes at most.
pub const BATCH: usize = 500;

/// A delivery on its way into the table.
#[derive(Debug, Clone, QueryableByName)]
pub(super) struct NewDelivery {
    #[diesel(sql_type = Uuid)]
    pub(super) endpoint_id: EndpointId,
    #[diesel(sql_type = Uuid)]
    pub(super) event_id: EventId,
    #[diesel(sql_type = Text)]
    pub(super) event_type: String,
    #[diesel(sql_type = Nullable<Uuid>)]
    pub(super) task_id: Option<TaskId>,
    /// The delivery that is repeated, the first of its kind.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub(super) redelivery_of: Option<DeliveryId>,
}

/// Makes a delivery of an event, and its job, for each endpoint that subscribes to it, whose project it is in, and whose
/// owner may learn of it now: up to [`BATCH`] that have none yet, and answers how many. Running it again, also twice at
/// once, makes no second one.
///
/// # Errors
/// If the database is away.
pub async fn fan_out(tx: &mut Tx, event: EventId) -> Result<usize> {
    // Locked against deletion: one that is deleted meanwhile is left out.
    let wanted: Vec<NewDelivery> = sql!(
        concat!(
            "SELECT e.id AS endpoint_id, ev.id AS event_id, ev.event_type, ev.task_id, NULL::uuid AS redelivery_of
             FROM events ev JOIN webhook_endpoints e ON e.owner_id = ANY ",
            audience_sql!("ev"),
            " JOIN users u ON u.id = e.owner_id AND u.is_active
             WHERE ev.id = {event} AND e.state IN ('active', 'paused') AND ev.event_type = ANY (e.events)
                 AND (e.project_id IS NULL OR e.project_id = ev.project_id)
                 AND NOT EXISTS (SELECT FROM webhook_deliveries d
                     WHERE d.endpoint_id = e.id AND d.event_id = ev.id AND d.redelivery_of IS NULL)
             ORDER BY e.id LIMIT {batch} FOR KEY SHARE OF e"
        ),
        event: Uuid = event,
        batch: BigInt = i64::try_from(BATCH).unwrap_or(i64::MAX),
    )
    .load(tx.conn())
    .await?;
    deliver(tx, &wanted, None).await?;
    Ok(wanted.len())
}

/// Writes deliveries and their jobs; what was delivered already and is not asked for again is left out. Answers the
/// deliveries that there are now, in the order of `new`.
pub(super) async fn deliver(
    tx: &mut Tx,
    new: &[NewDelivery],
    priority: Option<i16>,
) -> Result<Vec<DeliveryId>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        id: DeliveryId,
        #[diesel(sql_type = Uuid)]
        endpoint_id: EndpointId,
    }

    if new.is_empty() {
        return Ok(Vec::new());
    }
    let origin = Origin::current();
    let mut made: Vec<Row> = sql!(
        "INSERT INTO webhook_deliveries
             (id, endpoint_id, event_id, event_type, task_id, redelivery_of, request_id, traceparent, created_at)
         SELECT n.*, {request_id}, {traceparent}, {now}
         FROM unnest({ids}, {endpoints}, {events}, {types}, {tasks}, {redelivery_of})
             AS n (id, endpoint_id, event_id, event_type, task_id, redelivery_of)
         ON CONFLICT (endpoint_id, event_id) WHERE redelivery_of IS NULL DO NOTHING
         RETURNING id, endpoint_id",
        request_id: Nullable<Text> = origin.request_id,
        traceparent: Nullable<Text> = origin.traceparent,
        now = tx.clock().now(),
        ids: Array<Uuid> = new.iter().map(|_| DeliveryId::new()).collect::<Vec<_>>(),
        endpoints: Array<Uuid> = new.iter().map(|n| n.endpoint_id).collect::<Vec<_>>(),
        events: Array<Uuid> = new.iter().map(|n| n.event_id).collect::<Vec<_>>(),
        types: Array<Text> = new.iter().map(|n| n.event_type.as_str()).collect::<Vec<_>>(),
        tasks: Array<Nullable<Uuid>> = new.iter().map(|n| n.task_id).collect::<Vec<_>>(),
        redelivery_of: Array<Nullable<Uuid>> = new.iter().map(|n| n.redelivery_of).collect::<Vec<_>>(),
    )
    .load(tx.conn())
    .await?;
    made.sort_unstable_by_key(|row| row.id);
    let jobs: Vec<NewJob> = made
        .iter()
        .map(|row| {
            let job = NewJob::of(&SendWebhook { delivery_id: row.id, endpoint_id: row.endpoint_id })?;
            Ok(match priority {
                Some(priority) => job.priority(priority),
                None => job,
            })
        })
        .collect::<Result<_>>()?;
    let jobs: Vec<JobId> = ledger::enqueue_all(tx, jobs).await?;
    let ids: Vec<DeliveryId> = made.into_iter().map(|row| row.id).collect();
    sql!(
        "UPDATE webhook_deliveries d SET job_id = j.job_id FROM unnest({ids}, {jobs}) AS j (id, job_id) WHERE d.id = j.id",
        ids: Array<Uuid> = ids.as_slice(),
        jobs: Array<Uuid> = jobs,
    )
    .execute(tx.conn())
    .await?;
    Ok(ids)
}
