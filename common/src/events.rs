//! Events: what happened, written down with the change that made it happen, for whoever subscribed. A request writes one
//! event and one `fan_out_event` job; the deliveries follow from those. Nothing is written if nobody subscribes.

mod schema;

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryableByName,
    pg::Pg,
    query_builder::QueryFragment,
    sql_types::{Array, Jsonb, Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;
use utoipa::ToSchema;

use crate::{
    access::Viewer,
    audit::{Act, Acts},
    clock::Now,
    db::{Prepared, RunQueryDsl as _, Statement, Tx, sql},
    error::{Error, Result},
    ids::{EventId, ProjectId, TaskId, UserId},
    jobs::FanOutEvent,
    ledger::{self, NewJob},
    schema::events,
    tasks::viewers_sql,
    telemetry::Origin,
};

/// The version of the payload's form: it rises when a receiver would have to be changed.
const FORM: u8 = 1;

macro_rules! event_types {
    ($($variant:ident = $name:tt, $about:literal;)*) => {
        /// What can happen. The names are on the wire: they never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        pub enum EventType {
            $(#[doc = $about] #[serde(rename = $name)] $variant,)*
        }

        impl EventType {
            /// Those that can be subscribed to.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// When it happens, for people.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

event_types! {
    TaskCreated = "task.created", "A task was made.";
    TaskUpdated = "task.updated", "A task, its tags or its reminders were changed. What has a type of its own comes as that.";
    TaskCompleted = "task.completed", "A task was finished.";
    TaskReopened = "task.reopened", "A task that was finished or cancelled was opened again.";
    TaskDeleted = "task.deleted", "A task was put into the trash.";
    TaskRestored = "task.restored", "A task was taken out of the trash or out of the archive.";
    TaskArchived = "task.archived", "A task was put away.";
    TaskAssigned = "task.assigned", "A task was given to somebody to do.";
    CommentCreated = "comment.created", "Somebody commented on a task.";
    CommentUpdated = "comment.updated", "A comment was changed by its author.";
    CommentDeleted = "comment.deleted", "A comment was deleted.";
    ProjectCreated = "project.created", "A project was made.";
    ProjectUpdated = "project.updated", "A project or who is in it was changed, or it was taken out of the archive.";
    ProjectArchived = "project.archived", "A project was put away.";
    ProjectDeleted = "project.deleted", "A project was deleted. Only its owner is told.";
    DigestSent = "digest.sent", "A daily summary was sent to the owner of the webhook.";
    ReminderFired = "reminder.fired", "A reminder was sent.";
}

/// What `POST /webhooks/{id}/test` sends; nobody subscribes to it.
pub const PING: &str = "webhook.ping";

/// Who may learn of the event `$event` now, in SQL: an array. Who sees its task, if it is about one; else who sees its
/// project; else, and when the project is gone, whose it is. Null if the task is gone.
macro_rules! audience_sql {
    ($event:literal) => {
        concat!(
            "(CASE WHEN ",
            $event,
            ".task_id IS NOT NULL
                 THEN (SELECT ",
            $crate::tasks::viewers_sql!("audience"),
            " FROM tasks audience WHERE audience.id = ",
            $event,
            ".task_id)
             WHEN EXISTS (SELECT FROM projects WHERE projects.id = ",
            $event,
            ".project_id)
                 THEN people_of(",
            $event,
            ".project_id)
             ELSE ARRAY[",
            $event,
            ".owner_id] END)"
        )
    };
}
pub(crate) use audience_sql;

/// What changed: for each field its old and its new value, or null where the values are not told.
pub type Changes = Map<String, Value>;

/// Something that happened, on its way into the table.
#[derive(Debug, Clone)]
pub struct NewEvent {
    kind: EventType,
    actor: Option<UserId>,
    owner: UserId,
    assignee: Option<UserId>,
    project: Option<ProjectId>,
    task: Option<TaskId>,
    data: Value,
    changes: Option<Changes>,
}

/// What an event is about: it says who may learn of it.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Whose it is.
    pub owner: UserId,
    /// Who does it.
    pub assignee: Option<UserId>,
    /// Where it is.
    pub project: Option<ProjectId>,
    /// The task it belongs to.
    pub task: Option<TaskId>,
}

impl NewEvent {
    /// An event that the system brought about. `data` is what receivers are told, a few KiB at most.
    ///
    /// # Errors
    /// If `data` cannot be written as JSON.
    pub fn new(kind: EventType, about: About, data: &impl Serialize) -> Result<Self> {
        let data = serde_json::to_value(data).map_err(|error| Error::Internal(error.into()))?;
        let About { owner, assignee, project, task } = about;
        Ok(Self { kind, actor: None, owner, assignee, project, task, data, changes: None })
    }

    /// A person brought it about.
    pub fn by(self, viewer: Viewer) -> Self {
        Self { actor: Some(viewer.user_id), ..self }
    }

    /// What the audit trail says of it; nothing of what the record of a reminder or a summary says already.
    fn act(&self) -> Option<Act> {
        if matches!(self.kind, EventType::ReminderFired | EventType::DigestSent) {
            return None;
        }
        let (entity_type, _) = self.kind.as_str().split_once('.')?;
        let entity_id = self.data.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
        let details = match &self.changes {
            Some(changes) => Some(Value::Object(changes.clone())),
            None => ["title", "name"]
                .into_iter()
                .find_map(|name| Some(serde_json::json!({name: self.data.get(name)?}))),
        };
        let (actor, task) = (self.actor, self.task);
        Some(Act { actor, event_type: self.kind.as_str(), entity_type, entity_id, task, details })
    }

    /// With what changed.
    pub fn changing(self, changes: Changes) -> Self {
        Self { changes: Some(changes), ..self }
    }
}

/// Writes an event with the change that it tells of, and the job that makes deliveries of it: unless no endpoint could
/// want it.
///
/// # Errors
/// If the database is away.
pub async fn record(tx: &mut Tx, event: NewEvent) -> Result<()> {
    record_all(tx, vec![event]).await
}

/// Writes many events: one statement if nobody subscribes, two if somebody does.
///
/// # Errors
/// If the database is away.
pub async fn record_all(tx: &mut Tx, new: Vec<NewEvent>) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let record = Record::new(tx, new);
    let told = if record.acts.is_empty() {
        Prepared(record.insert_events()).load(tx.conn()).await?
    } else {
        let acts = record.insert_acts();
        let both = sql!("WITH audited AS ({acts}) {events}", acts = acts, events = record.insert_events());
        Prepared(both).load(tx.conn()).await?
    };
    record.tell(tx, told).await
}

/// What happened, on its way into the audit trail and the table of events: parts of a statement that may make it happen, too.
/// Whoever runs the statement calls [`Record::tell`] with the rows that [`insert_events`](Record::insert_events) returns.
pub(crate) struct Record {
    events: Vec<NewEvent>,
    acts: Acts,
    origin: Origin,
    now: Now,
}

/// An event that somebody may want to be told of.
#[derive(QueryableByName)]
pub(crate) struct Told {
    #[diesel(sql_type = Uuid)]
    id: EventId,
    #[diesel(sql_type = Uuid)]
    owner_id: UserId,
}

impl Record {
    /// What is to be written in this transaction.
    pub(crate) fn new(tx: &Tx, events: Vec<NewEvent>) -> Self {
        let (acts, now) = (events.iter().filter_map(NewEvent::act).collect(), tx.clock().now());
        Self { events, acts: Acts::new(acts, now), origin: Origin::current(), now }
    }

    /// Writes the audit trail. See [`Acts::insert`] for how to run it.
    pub(crate) fn insert_acts(&self) -> Statement<'_, impl Sized + 'static> {
        self.acts.insert()
    }

    /// Writes the events that an endpoint could want, and returns the `id` and `owner_id` of each. One has another form than several,
    /// so a statement that this is a part of has to be [`Prepared`].
    pub(crate) fn insert_events(&self) -> Statement<'_, impl Sized + 'static> {
        let origin = &self.origin;
        sql!(
            concat!(
                "INSERT INTO events (id, event_type, actor_id, owner_id, assignee_id, project_id, task_id, data, changes,
                     request_id, traceparent, created_at)
                 SELECT n.*, {request_id}, {traceparent}, {now} FROM {rows}
                 WHERE EXISTS (SELECT FROM webhook_endpoints e WHERE ",
                "e.owner_id = ANY ",
                viewers_sql!("n"),
                " AND e.state IN ('active', 'paused') AND n.event_type = ANY (e.events)
                     AND (e.project_id IS NULL OR e.project_id = n.project_id))
                 ORDER BY n.id RETURNING id, owner_id"
            ),
            request_id: Nullable<Text> = origin.request_id.as_deref(),
            traceparent: Nullable<Text> = origin.traceparent.as_deref(),
            now = self.now,
            rows = self.rows(),
        )
    }

    /// Several come as arrays; to take one out of those would cost more than to write it.
    fn rows(&self) -> Box<dyn QueryFragment<Pg> + Send + '_> {
        if let [event] = &self.events[..] {
            return Box::new(sql!(
                "(SELECT {id} AS id, {event_type} AS event_type, {actor} AS actor_id, {owner} AS owner_id, {assignee} AS assignee_id,
                     {project} AS project_id, {task} AS task_id, {data} AS data, {changes} AS changes) n",
                id: Uuid = EventId::new(),
                event_type: Text = event.kind.as_str(),
                actor: Nullable<Uuid> = event.actor,
                owner: Uuid = event.owner,
                assignee: Nullable<Uuid> = event.assignee,
                project: Nullable<Uuid> = event.project,
                task: Nullable<Uuid> = event.task,
                data: Jsonb = &event.data,
                changes: Nullable<Jsonb> = event.changes.clone().map(Value::Object),
            ));
        }
        let events = &self.events;
        Box::new(sql!(
            "unnest({ids}, {types}, {actors}, {owners}, {assignees}, {projects}, {tasks}, {data}, {changes})
                 AS n (id, event_type, actor_id, owner_id, assignee_id, project_id, task_id, data, changes)",
            ids: Array<Uuid> = events.iter().map(|_| EventId::new()).collect::<Vec<_>>(),
            types: Array<Text> = events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(),
            actors: Array<Nullable<Uuid>> = events.iter().map(|event| event.actor).collect::<Vec<_>>(),
            owners: Array<Uuid> = events.iter().map(|event| event.owner).collect::<Vec<_>>(),
            assignees: Array<Nullable<Uuid>> = events.iter().map(|event| event.assignee).collect::<Vec<_>>(),
            projects: Array<Nullable<Uuid>> = events.iter().map(|event| event.project).collect::<Vec<_>>(),
            tasks: Array<Nullable<Uuid>> = events.iter().map(|event| event.task).collect::<Vec<_>>(),
            data: Array<Jsonb> = events.iter().map(|event| &event.data).collect::<Vec<_>>(),
            changes: Array<Nullable<Jsonb>> =
                events.iter().map(|event| event.changes.clone().map(Value::Object)).collect::<Vec<_>>(),
        ))
    }

    /// Sees to it that deliveries are made of the events that were written.
    ///
    /// # Errors
    /// If the database is away.
    pub(crate) async fn tell(&self, tx: &mut Tx, told: Vec<Told>) -> Result<()> {
        self.acts.count();
        // In the lane of whose event it is: somebody with very many does not stand before the others.
        let jobs: Result<Vec<NewJob>> = told
            .into_iter()
            .map(|row| Ok(NewJob::of(&FanOutEvent { event_id: row.id })?.lane(row.owner_id.to_string())))
            .collect();
        ledger::enqueue_all(tx, jobs?).await?;
        Ok(())
    }
}

/// An event as it was written down.
#[derive(Debug, Clone, HasQuery)]
#[diesel(table_name = events, check_for_backend(diesel::pg::Pg))]
pub struct Event {
    /// Its id, and the `webhook-id` of its deliveries.
    pub id: EventId,
    /// Rises, with gaps.
    pub seq: i64,
    /// Its name on the wire.
    pub event_type: String,
    /// Who brought it about; nobody if it was the system.
    pub actor_id: Option<UserId>,
    /// The project that it is about, or in which its task was.
    pub project_id: Option<ProjectId>,
    /// The task that it is about.
    pub task_id: Option<TaskId>,
    /// What receivers are told of it.
    pub data: Value,
    /// What changed.
    pub changes: Option<Value>,
    /// When it happened.
    pub created_at: DateTime<Utc>,
}

impl Event {
    /// The event; `None` if it was pruned. Who may learn of it is the caller's question.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(conn: &mut AsyncPgConnection, id: EventId) -> Result<Option<Self>> {
        Ok(Self::query().filter(events::id.eq(id)).first(conn).await.optional()?)
    }

    /// The body that receivers get: the same bytes at every attempt, and less than 20 KiB. `public_url` is where people
    /// reach the API.
    pub fn payload(&self, public_url: &Url) -> String {
        let mut data = self.data.clone();
        let place = match (self.task_id, self.project_id) {
            (Some(task), _) => Some(format!("tasks/{task}")),
            (None, Some(project)) => Some(format!("projects/{project}")),
            (None, None) => None,
        };
        if let (Some(place), Some(fields)) = (place, data.as_object_mut()) {
            let base = public_url.as_str().trim_end_matches('/');
            fields.insert("url".to_owned(), format!("{base}/api/v1/{place}").into());
        }
        let actor = self.actor_id.map(|id| serde_json::json!({"id": id}));
        serde_json::json!({
            "type": self.event_type,
            "timestamp": self.created_at,
            "id": self.id,
            "seq": self.seq,
            "version": FORM,
            "data": data,
            "changes": self.changes,
            "actor": actor,
        })
        .to_string()
    }
}
