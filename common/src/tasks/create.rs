use diesel::ExpressionMethods as _;

use super::{Due, NewTask, Task, TaskData, TaskStatus, change::person, place, tree, tree::Place};
use crate::{
    access::Viewer,
    db::{Prepared, RunQueryDsl as _, Tx, sql},
    error::Result,
    events::{EventType, Record},
    ids::TaskId,
    reminders::{self, FirstReminders},
    schema::tasks,
    tags::{self, Scope},
    tasks::Changed,
};

impl Task {
    /// Makes a task of the viewer's own, with its tags and reminders, and plans what they will send.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid) if a rule is broken that only what is stored decides,
    /// [`Error::Forbidden`](crate::error::Error::Forbidden) if the viewer is no editor of the project.
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewTask) -> Result<Changed> {
        let person = person(tx, viewer).await?;
        let tag_names = tags::normalise(&new.tags, "/tags")?;
        place::check_project(tx, viewer, new.project_id, place::project_field).await?;
        if let Some(assignee) = new.assignee_id {
            place::check_assignee(tx, viewer.user_id, new.project_id, assignee).await?;
        }
        let clock = new.assignee_id.unwrap_or(viewer.user_id);
        let due = match &new.due {
            Some(due) => place::due(tx, due, &person, clock, new.project_id).await?,
            None => Due::default(),
        };
        let place = Place { owner: viewer.user_id, project: new.project_id };
        if let Some(parent) = new.parent_id {
            tree::check_parent(tx, viewer, place, None, parent).await?;
        }
        reminders::check(&new.reminders, due.at().is_some(), "/reminders")?;

        let id = TaskId::new();
        let reminders = FirstReminders::plan(id, &due, &new.reminders, &person);
        let task = Self {
            id,
            title: new.title.trim().to_owned(),
            description: new.description.clone(),
            status: TaskStatus::Todo,
            completed: false,
            priority: new.priority,
            tags: Vec::new(),
            due,
            reminders: reminders.shown(),
            project_id: new.project_id,
            parent_id: new.parent_id,
            position: tree::first_position(person.now),
            owner_id: viewer.user_id,
            assignee_id: new.assignee_id,
            completed_at: None,
            archived_at: None,
            deleted_at: None,
            version: 1,
            created_at: person.now,
            updated_at: person.now,
        };
        task.write(tx, viewer, &reminders).await?;
        let warnings = reminders.warnings();
        if tag_names.is_empty() {
            return Ok(Changed { task, warnings });
        }
        // A tag that is there already is called as it was called first.
        tags::set(tx, Scope::of(viewer.user_id, new.project_id), id, &tag_names).await?;
        Ok(Changed { task: Self::find(tx.conn(), viewer, id).await?, warnings })
    }

    /// Writes a task that was just made, its reminders, the audit trail and who is told of it, in one statement: nothing of
    /// it is there yet, so nothing has to be asked.
    async fn write(&self, tx: &mut Tx, viewer: Viewer, reminders: &FirstReminders<'_>) -> Result<()> {
        let data = TaskData::from(self);
        let assigned = self.assignee_id.map(|_| EventType::TaskAssigned);
        let kinds = [EventType::TaskCreated].into_iter().chain(assigned);
        let events = kinds.map(|kind| Ok(data.event(kind)?.by(viewer))).collect::<Result<_>>()?;
        let record = Record::new(tx, events);
        let insert = diesel::insert_into(tasks::table).values((
            (tasks::id.eq(self.id), tasks::owner_id.eq(self.owner_id), tasks::created_by.eq(viewer.user_id)),
            (tasks::title.eq(&self.title), tasks::description.eq(&self.description)),
            (tasks::status.eq(self.status), tasks::priority.eq(self.priority), &self.due),
            (tasks::project_id.eq(self.project_id), tasks::assignee_id.eq(self.assignee_id)),
            (tasks::parent_id.eq(self.parent_id), tasks::position.eq(self.position)),
            (tasks::created_at.eq(self.created_at), tasks::updated_at.eq(self.updated_at)),
            tasks::version.eq(self.version),
        ));
        let written = Prepared(sql!(
            "WITH task AS ({task}){reminders}, audited AS ({acts}), told AS ({events}) SELECT id, owner_id FROM told",
            task = insert,
            reminders = reminders.insert(),
            acts = record.insert_acts(),
            events = record.insert_events(),
        ));
        let told = written.load(tx.conn()).await?;
        record.tell(tx, told).await
    }
}
