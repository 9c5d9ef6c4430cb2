//! The audit trail: who did what, and when, in the transaction that did it. Rows hold plain ids and what the actor was
//! called then, so that they outlive what they are about; nobody changes or deletes them, and [`mod@seal`] makes it show if
//! somebody did. What happens to a task, a project or a comment is written by [`events`](crate::events) together with
//! the event; everything else by whoever does it, with [`record`].
//!
//! Details say what changed. They hold no password, no token, no secret, and no text longer than events carry.

mod list;
mod seal;

use diesel::{
    pg::Pg,
    query_builder::QueryFragment,
    sql_types::{Array, Bytea, Jsonb, Nullable, Text, Uuid},
};
use serde_json::Value;

pub use self::{
    list::{AuditEvent, AuditFilter},
    seal::{Intact, Sealed, seal, verify},
};
use crate::{
    clock::Now,
    db::{Prepared, RunQueryDsl as _, Statement, Tx, sql},
    error::Result,
    ids::{AuditEventId, TaskId, UserId},
    telemetry::Origin,
};

/// What is to be written down.
#[derive(Debug, Clone)]
pub struct Act {
    /// Who did it; nobody if it was the system, or is not known.
    pub actor: Option<UserId>,
    /// What happened: a wire name such as `task.updated`.
    pub event_type: &'static str,
    /// What it happened to: `task`, `user`, `webhook` ….
    pub entity_type: &'static str,
    /// Which one.
    pub entity_id: Option<uuid::Uuid>,
    /// The task that it belongs to.
    pub task: Option<TaskId>,
    /// What changed.
    pub details: Option<Value>,
}

impl Act {
    /// Somebody did something to something that belongs to no task.
    pub fn new(
        actor: UserId,
        event_type: &'static str,
        entity_type: &'static str,
        entity: impl Into<Option<uuid::Uuid>>,
    ) -> Self {
        let entity_id = entity.into();
        Self { actor: Some(actor), event_type, entity_type, entity_id, task: None, details: None }
    }

    /// Somebody did something to their own account.
    pub fn own(actor: UserId, event_type: &'static str) -> Self {
        Self::new(actor, event_type, "user", actor.uuid())
    }

    /// Somebody of whom nothing is known did something.
    pub fn unknown(event_type: &'static str, entity_type: &'static str) -> Self {
        Self { actor: None, event_type, entity_type, entity_id: None, task: None, details: None }
    }

    /// With what changed.
    #[must_use]
    pub fn details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }
}

tokio::task_local! {
    static CLIENT: Option<Vec<u8>>;
}

/// Runs `work` as asked for from the address with this keyed hash.
pub async fn from_client<F: Future>(ip_hash: Option<Vec<u8>>, work: F) -> F::Output {
    CLIENT.scope(ip_hash, work).await
}

/// Writes one act down.
///
/// # Errors
/// If the database is away.
pub async fn record(tx: &mut Tx, act: Act) -> Result<()> {
    record_all(tx, vec![act]).await
}

/// What came of a change; if it succeeded, its act is written down with it.
///
/// # Errors
/// The change's own, or if the database is away.
pub async fn after<T>(tx: &mut Tx, done: Result<T>, act: impl FnOnce(&T) -> Act) -> Result<T> {
    let value = done?;
    record(tx, act(&value)).await?;
    Ok(value)
}

/// Writes acts down, in one statement.
///
/// # Errors
/// If the database is away.
pub async fn record_all(tx: &mut Tx, acts: Vec<Act>) -> Result<()> {
    if acts.is_empty() {
        return Ok(());
    }
    let acts = Acts::new(acts, tx.clock().now());
    Prepared(acts.insert()).execute(tx.conn()).await?;
    acts.count();
    Ok(())
}

/// Acts on their way into the table: a statement, alone or as a part of another.
pub(crate) struct Acts {
    acts: Vec<Act>,
    now: Now,
}

impl Acts {
    /// What is to be written down, and when it happened.
    pub(crate) fn new(acts: Vec<Act>, now: Now) -> Self {
        Self { acts, now }
    }

    /// Whether there is nothing to write down.
    pub(crate) fn is_empty(&self) -> bool {
        self.acts.is_empty()
    }

    /// Writes them down. One has another form than several, so a statement that this is a part of has to be [`Prepared`].
    pub(crate) fn insert(&self) -> Statement<'_, impl Sized + 'static> {
        sql!(
            "INSERT INTO audit_events (id, happened_at, actor_id, actor_label, event_type, entity_type, entity_id, task_id,
                 ip_hash, request_id, details)
             SELECT a.id, {now}, a.actor, coalesce((SELECT email::text FROM users u WHERE u.id = a.actor),
                     CASE WHEN {ip_hash} IS NULL THEN 'system' ELSE 'unknown' END),
                 a.event_type, a.entity_type, a.entity, a.task, {ip_hash}, {request_id}, a.details
             FROM {rows} ORDER BY a.position",
            now = self.now,
            ip_hash: Nullable<Bytea> = CLIENT.try_with(Clone::clone).unwrap_or_default(),
            request_id: Nullable<Text> = Origin::current().request_id,
            rows = self.rows(),
        )
    }

    /// Each with its position. Several come as arrays; to take one out of those would cost more than to write it.
    fn rows(&self) -> Box<dyn QueryFragment<Pg> + Send + '_> {
        if let [act] = &self.acts[..] {
            return Box::new(sql!(
                "(SELECT {id} AS id, {actor} AS actor, {event_type} AS event_type, {entity_type} AS entity_type,
                     {entity} AS entity, {task} AS task, {details} AS details, 1 AS position) a",
                id: Uuid = AuditEventId::new(),
                actor: Nullable<Uuid> = act.actor,
                event_type: Text = act.event_type,
                entity_type: Text = act.entity_type,
                entity: Nullable<Uuid> = act.entity_id,
                task: Nullable<Uuid> = act.task,
                details: Nullable<Jsonb> = act.details.as_ref(),
            ));
        }
        let acts = &self.acts;
        Box::new(sql!(
            "unnest({ids}, {actors}, {event_types}, {entity_types}, {entities}, {tasks}, {details})
                 WITH ORDINALITY AS a (id, actor, event_type, entity_type, entity, task, details, position)",
            ids: Array<Uuid> = acts.iter().map(|_| AuditEventId::new()).collect::<Vec<_>>(),
            actors: Array<Nullable<Uuid>> = acts.iter().map(|act| act.actor).collect::<Vec<_>>(),
            event_types: Array<Text> = acts.iter().map(|act| act.event_type).collect::<Vec<_>>(),
            entity_types: Array<Text> = acts.iter().map(|act| act.entity_type).collect::<Vec<_>>(),
            entities: Array<Nullable<Uuid>> = acts.iter().map(|act| act.entity_id).collect::<Vec<_>>(),
            tasks: Array<Nullable<Uuid>> = acts.iter().map(|act| act.task).collect::<Vec<_>>(),
            details: Array<Nullable<Jsonb>> = acts.iter().map(|act| act.details.as_ref()).collect::<Vec<_>>(),
        ))
    }

    /// Counts them, when they are written.
    pub(crate) fn count(&self) {
        for act in &self.acts {
            crate::metrics::audited(act.event_type);
        }
    }
}
