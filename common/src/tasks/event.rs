use std::collections::BTreeMap;

use diesel::{ExpressionMethods as _, HasQuery, QueryDsl as _, pg::Pg, query_builder::QueryFragment};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Due, Task, TaskPriority, TaskStatus};
use crate::{
    access::Viewer,
    db::{Prepared, RunQueryDsl as _, Tx, sql},
    error::{Error, Result},
    events::{self, About, Changes, EventType, NewEvent, Record},
    ids::{ProjectId, TaskId, UserId},
    schema::tasks,
};

/// What events tell of a task: what fits into a few KiB, whatever people write.
#[derive(Debug, Clone, HasQuery, Serialize)]
#[diesel(table_name = tasks, check_for_backend(diesel::pg::Pg))]
pub struct TaskData {
    id: TaskId,
    version: i32,
    title: String,
    status: TaskStatus,
    priority: TaskPriority,
    #[diesel(embed)]
    due: Due,
    project_id: Option<ProjectId>,
    assignee_id: Option<UserId>,
    #[serde(skip)]
    owner_id: UserId,
}

impl From<&Task> for TaskData {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id,
            version: task.version,
            title: task.title.clone(),
            status: task.status,
            priority: task.priority,
            due: task.due.clone(),
            project_id: task.project_id,
            assignee_id: task.assignee_id,
            owner_id: task.owner_id,
        }
    }
}

impl TaskData {
    /// The tasks with these ids, whoever may see them: events are for those who may.
    ///
    /// # Errors
    /// If the database is away.
    pub(crate) async fn load_all(tx: &mut Tx, ids: &[TaskId]) -> Result<Vec<Self>> {
        Ok(Self::query().filter(tasks::id.eq_any(ids)).order(tasks::id).load(tx.conn()).await?)
    }

    /// Which task it is.
    pub(crate) fn id(&self) -> TaskId {
        self.id
    }

    /// Something happened to this task, and nobody in particular did it.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(crate) fn event(&self, kind: EventType) -> Result<NewEvent> {
        NewEvent::new(kind, self.about(), self)
    }

    /// What an event about this task is about.
    pub(crate) fn about(&self) -> About {
        About {
            owner: self.owner_id,
            assignee: self.assignee_id,
            project: self.project_id,
            task: Some(self.id),
        }
    }

    /// The fields in which `after` differs, with both values.
    pub(crate) fn changes(&self, after: &Self) -> Result<Changes> {
        let (before, after) = (fields(self)?, fields(after)?);
        let changed = before
            .into_iter()
            .zip(after)
            .filter(|((name, before), (_, after))| before != after && name != "version");
        Ok(changed.map(|((name, before), (_, after))| (name, json!([before, after]))).collect())
    }
}

/// Both sides of a comparison have the same names in the same order.
fn fields(data: &TaskData) -> Result<Changes> {
    match serde_json::to_value(data).map_err(|error| Error::Internal(error.into()))? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Changes::new()),
    }
}

/// Writes down that something happened to these tasks, and nobody in particular did it.
///
/// # Errors
/// If the database is away.
pub async fn record_all(tx: &mut Tx, kind: EventType, ids: &[TaskId]) -> Result<()> {
    let tasks = TaskData::load_all(tx, ids).await?;
    let events = tasks.iter().map(|task| task.event(kind)).collect::<Result<_>>()?;
    events::record_all(tx, events).await
}

/// Writes down that something of this task changed that events only name.
///
/// # Errors
/// If the database is away.
pub(crate) async fn record_change(tx: &mut Tx, viewer: Viewer, id: TaskId, field: &str) -> Result<()> {
    let changes = Changes::from_iter([(field.to_owned(), Value::Null)]);
    for task in TaskData::load_all(tx, &[id]).await? {
        let event = task.event(EventType::TaskUpdated)?.by(viewer).changing(changes.clone());
        events::record(tx, event).await?;
    }
    Ok(())
}

/// Writes down that the instants at which these tasks are due have moved with the clock of whose they are.
pub(super) async fn record_moved(tx: &mut Tx, viewer: Viewer, before: &BTreeMap<TaskId, Due>) -> Result<()> {
    let ids: Vec<TaskId> = before.keys().copied().collect();
    let mut events = Vec::new();
    for task in TaskData::load_all(tx, &ids).await? {
        let Some(due) = before.get(&task.id) else { continue };
        let changes = Changes::from_iter([("due".to_owned(), json!([due, task.due]))]);
        events.push(task.event(EventType::TaskUpdated)?.by(viewer).changing(changes));
    }
    events::record_all(tx, events).await
}

/// Writes down that whoever did these tasks, or had them, does not any more.
///
/// # Errors
/// If the database is away.
pub(crate) async fn record_released(
    tx: &mut Tx,
    viewer: Viewer,
    ids: &[TaskId],
    fields: &[&str],
) -> Result<()> {
    let changes = Changes::from_iter(fields.iter().map(|field| ((*field).to_owned(), Value::Null)));
    let tasks = TaskData::load_all(tx, ids).await?;
    let events = tasks
        .iter()
        .map(|task| Ok(task.event(EventType::TaskUpdated)?.by(viewer).changing(changes.clone())))
        .collect::<Result<_>>()?;
    events::record_all(tx, events).await
}

impl Task {
    /// Writes down that it was changed since `before`: as what is most telling, and that it was assigned.
    pub(super) async fn record_changed(&self, tx: &mut Tx, viewer: Viewer, before: &Self) -> Result<()> {
        events::record_all(tx, self.changed(viewer, before)?).await
    }

    /// As [`Task::record_changed`], in one statement with the `update` that changes it.
    pub(super) async fn write_changed(
        &self,
        tx: &mut Tx,
        viewer: Viewer,
        before: &Self,
        update: impl QueryFragment<Pg> + Send,
    ) -> Result<()> {
        let record = Record::new(tx, self.changed(viewer, before)?);
        let written = Prepared(sql!(
            "WITH changed AS ({update}), audited AS ({acts}) {events}",
            update = update,
            acts = record.insert_acts(),
            events = record.insert_events(),
        ));
        let told = written.load(tx.conn()).await?;
        record.tell(tx, told).await
    }

    /// What it is to have become this task, and no longer be `before`.
    fn changed(&self, viewer: Viewer, before: &Self) -> Result<Vec<NewEvent>> {
        let data = TaskData::from(self);
        let mut changes = TaskData::from(before).changes(&data)?;
        let named = [
            ("description", before.description != self.description),
            ("tags", before.tags != self.tags),
            ("reminders", before.reminders != self.reminders),
        ];
        for (name, _) in named.into_iter().filter(|(_, changed)| *changed) {
            changes.insert(name.to_owned(), Value::Null);
        }
        let assigned = self.assignee_id.is_some() && self.assignee_id != before.assignee_id;
        let kinds = match (self.change_type(before), assigned) {
            (EventType::TaskUpdated, true) => vec![EventType::TaskAssigned],
            (kind, true) => vec![kind, EventType::TaskAssigned],
            (kind, false) => vec![kind],
        };
        kinds.into_iter().map(|kind| Ok(data.event(kind)?.by(viewer).changing(changes.clone()))).collect()
    }

    /// Writes down that something happened to this task.
    pub(super) async fn record(&self, tx: &mut Tx, viewer: Viewer, kind: EventType) -> Result<()> {
        events::record(tx, TaskData::from(self).event(kind)?.by(viewer)).await
    }

    /// What to call a change from `before`: finishing and reopening have types of their own.
    fn change_type(&self, before: &Self) -> EventType {
        match (before.status, self.status) {
            (before, TaskStatus::Done) if before != TaskStatus::Done => EventType::TaskCompleted,
            (before, after) if !before.is_open() && after.is_open() => EventType::TaskReopened,
            _ => EventType::TaskUpdated,
        }
    }
}
