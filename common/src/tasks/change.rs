use chrono::{DateTime, NaiveTime, Utc};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};

use super::{
    Due, Move, Task, TaskPatch, TaskStatus, place, record_all,
    tree::{self, Place},
    visible_to,
};
use crate::{
    access::{Expected, Right, Viewer, project_role},
    db::{Prepared, RunQueryDsl as _, Tx},
    error::{Code, Error, Result},
    events::EventType,
    ids::{ProjectId, TaskId, UserId},
    reminders::{self, Warning},
    schema::{tasks, users},
    tags::{self, Scope},
    users::Person,
    zone::Zone,
};

/// A task, the zone and the start of the day of the viewer, and the time.
type Opened = (Task, Option<Zone>, Option<NaiveTime>, DateTime<Utc>);

/// What came of a change: the task as it is now, and what the person should know.
#[derive(Debug)]
pub struct Changed {
    /// The task after the change.
    pub task: Task,
    /// Such as a reminder whose time has passed already.
    pub warnings: Vec<Warning>,
}

impl Task {
    /// Changes what the patch names.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] if the viewer may not, [`Error::Stale`] if it is not the version that the
    /// caller saw, [`Error::Conflict`] in the trash, [`Error::Invalid`] if a rule is broken.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        patch: &TaskPatch,
    ) -> Result<Changed> {
        let (person, before) = Self::open(tx, viewer, id, expected, patch.right()).await?;
        before.apply(tx, viewer, &person, patch, None).await
    }

    /// Changes what the patch names of a task that is locked, and puts it to a place in the order if `moved` wishes so.
    pub(super) async fn apply(
        self,
        tx: &mut Tx,
        viewer: Viewer,
        person: &Person,
        patch: &TaskPatch,
        moved: Option<&Move>,
    ) -> Result<Changed> {
        let id = self.id;
        let before = self;
        before.refuse_in_trash()?;
        let (project, assignee) = before.replaced(tx, viewer, patch.project_id, patch.assignee_id).await?;
        let tag_names = patch.tags.as_ref().map(|names| tags::normalise(names, "/tags")).transpose()?;
        let clock = assignee.unwrap_or(before.owner_id);
        let due = match &patch.due {
            Some(Some(due)) => Some(place::due(tx, due, person, clock, project).await?),
            Some(None) => Some(Due::default()),
            None if assignee != before.assignee_id => place::due_by(tx, &before.due, person, clock).await?,
            None => None,
        };
        let place = Place { owner: before.owner_id, project };
        let parent = match patch.parent_id {
            Some(parent) => parent,
            None => before.parent_id.filter(|_| project == before.project_id),
        };
        if let Some(wanted) = parent.filter(|_| parent != before.parent_id || project != before.project_id) {
            tree::check_parent(tx, viewer, place, Some(id), wanted).await?;
        }
        let position = match moved {
            Some(wish) => Some(tree::position(tx, person, place, parent, id, wish).await?),
            None => None,
        };
        // Before the row is changed, which is then read with them.
        if let Some(names) = &tag_names {
            tags::set(tx, Scope::of(before.owner_id, project), id, names).await?;
        }
        let status = patch.status.filter(|status| *status != before.status);
        let version = touched(tx, &before, person.now);
        let update = diesel::update(tasks::table.find(id)).set((
            patch.title.as_deref().map(|title| tasks::title.eq(title.trim())),
            patch.description.as_ref().map(|text| tasks::description.eq(text.as_deref())),
            patch.priority.map(|priority| tasks::priority.eq(priority)),
            (tasks::project_id.eq(project), tasks::assignee_id.eq(assignee), tasks::parent_id.eq(parent)),
            position.map(|position| tasks::position.eq(position)),
            due.as_ref(),
            status.map(|status| status_columns(status, person.now)),
            version,
        ));
        let moves = project != before.project_id;
        let is_planned_anew = due.is_some() || status.is_some() || moves;
        if !is_planned_anew && tag_names.is_none() {
            // Nothing but the row changes, and to what is known.
            let task = Self {
                title: patch.title.as_deref().unwrap_or(&before.title).trim().to_owned(),
                description: patch.description.as_ref().unwrap_or(&before.description).clone(),
                priority: patch.priority.unwrap_or(before.priority),
                assignee_id: assignee,
                parent_id: parent,
                position: position.unwrap_or(before.position),
                version: version.version,
                updated_at: version.updated_at,
                ..before.clone()
            };
            task.write_changed(tx, viewer, &before, update).await?;
            return Ok(Changed { task, warnings: Vec::new() });
        }
        let after = if is_planned_anew {
            Prepared(update).execute(tx.conn()).await?;
            if moves {
                tree::follow(tx, viewer, person.now, id, place).await?;
            }
            settle(tx, viewer, id, person).await?
        } else {
            let after: Self = Prepared(update.returning(Self::as_returning())).get_result(tx.conn()).await?;
            Changed { task: after.seen_by(viewer), warnings: Vec::new() }
        };
        after.task.record_changed(tx, viewer, &before).await?;
        Ok(after)
    }

    /// Where it is to be and who is to do it, as the viewer wishes; absent wishes keep what is. Who does not see it in
    /// its new place does it no more.
    pub(super) async fn replaced(
        &self,
        tx: &mut Tx,
        viewer: Viewer,
        project: Option<Option<ProjectId>>,
        assignee: Option<Option<UserId>>,
    ) -> Result<(Option<ProjectId>, Option<UserId>)> {
        let target = project.unwrap_or(self.project_id);
        let moves = target != self.project_id;
        if moves {
            place::check_project(tx, viewer, target, place::project_field).await?;
            // To everybody else it would be gone.
            if target.is_none() && viewer.user_id != self.owner_id {
                return Err(Error::Forbidden(Code::Forbidden));
            }
        }
        let doer = match assignee {
            Some(Some(wanted)) if moves || self.assignee_id != Some(wanted) => {
                place::check_assignee(tx, self.owner_id, target, wanted).await?;
                Some(wanted)
            }
            Some(wanted) => wanted,
            None => match self.assignee_id {
                Some(doer) if moves && !place::sees(tx, self.owner_id, target, doer).await? => None,
                doer => doer,
            },
        };
        Ok((target, doer))
    }

    /// Finishes the task. Finishing it again changes nothing.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn complete(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        Self::set_status(tx, viewer, id, expected, TaskStatus::Done).await
    }

    /// Opens a closed task again. Reminders that lie ahead are planned again, what has passed is not sent.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn reopen(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        Self::set_status(tx, viewer, id, expected, TaskStatus::Todo).await
    }

    async fn set_status(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        status: TaskStatus,
    ) -> Result<Changed> {
        let (person, before) = Self::open(tx, viewer, id, expected, Right::Work).await?;
        before.refuse_in_trash()?;
        // Reopening what is in progress would lose that it was begun.
        if before.status == status || (status == TaskStatus::Todo && before.status.is_open()) {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        let update = diesel::update(tasks::table.find(id))
            .set((status_columns(status, person.now), touched(tx, &before, person.now)));
        Prepared(update).execute(tx.conn()).await?;
        let after = settle(tx, viewer, id, &person).await?;
        after.task.record_changed(tx, viewer, &before).await?;
        Ok(after)
    }

    /// Puts the task away, or takes it out again. Open reminders of what is put away are cancelled.
    ///
    /// # Errors
    /// As [`Task::patch`].
    pub async fn archive(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        archived: bool,
    ) -> Result<Changed> {
        let (person, before) = Self::open(tx, viewer, id, expected, Right::Edit).await?;
        before.refuse_in_trash()?;
        if before.archived_at.is_some() == archived {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        let update = diesel::update(tasks::table.find(id))
            .set((tasks::archived_at.eq(archived.then_some(person.now)), touched(tx, &before, person.now)));
        Prepared(update).execute(tx.conn()).await?;
        let after = settle(tx, viewer, id, &person).await?;
        let kind = if archived { EventType::TaskArchived } else { EventType::TaskRestored };
        after.task.record(tx, viewer, kind).await?;
        Ok(after)
    }

    /// Puts the task into the trash, where it stays for a while, with all that is part of it. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`], [`Error::Stale`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<()> {
        let (person, before) = Self::open(tx, viewer, id, expected, Right::Edit).await?;
        if before.deleted_at.is_none() {
            diesel::update(tasks::table.find(id))
                .set((tasks::deleted_at.eq(Some(person.now)), touched(tx, &before, person.now)))
                .execute(tx.conn())
                .await?;
            let inside = tree::trash(tx, id, person.now).await?;
            reminders::replan_tasks(tx, &inside, &person).await?;
            let after = settle(tx, viewer, id, &person).await?;
            after.task.record(tx, viewer, EventType::TaskDeleted).await?;
            record_all(tx, EventType::TaskDeleted, &inside).await?;
        }
        Ok(())
    }

    /// Takes the task out of the trash, with what went into it with it, or out of the archive.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`], [`Error::Stale`], [`Error::Conflict`] if it is part of something in the trash.
    pub async fn restore(tx: &mut Tx, viewer: Viewer, id: TaskId, expected: &Expected) -> Result<Changed> {
        let (person, before) = Self::open(tx, viewer, id, expected, Right::Edit).await?;
        let none: Option<DateTime<Utc>> = None;
        let mut inside = Vec::new();
        if let Some(deleted_at) = before.deleted_at {
            before.refuse_in_trashed(tx).await?;
            inside = tree::restore(tx, id, deleted_at, person.now).await?;
            reminders::replan_tasks(tx, &inside, &person).await?;
            diesel::update(tasks::table.find(id))
                .set((tasks::deleted_at.eq(none), touched(tx, &before, person.now)))
                .execute(tx.conn())
                .await?;
        } else if before.archived_at.is_some() {
            diesel::update(tasks::table.find(id))
                .set((tasks::archived_at.eq(none), touched(tx, &before, person.now)))
                .execute(tx.conn())
                .await?;
        } else {
            return Ok(Changed { task: before, warnings: Vec::new() });
        }
        let after = settle(tx, viewer, id, &person).await?;
        after.task.record(tx, viewer, EventType::TaskRestored).await?;
        record_all(tx, EventType::TaskRestored, &inside).await?;
        Ok(after)
    }

    /// The viewer's settings, and the task as it stands, locked until the end of the transaction, if the viewer may do what
    /// `needed` says.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`], [`Error::Stale`] if it is not the version that the caller saw.
    pub(super) async fn open(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        needed: Right,
    ) -> Result<(Person, Self)> {
        let (now, account) = (tx.clock().now(), users::table.find(viewer.user_id));
        // Subqueries, of which nothing is locked.
        let zone = account.select(users::time_zone).single_value();
        let day_start = account.select(users::day_start).single_value();
        let found: Option<Opened> = tasks::table
            .find(id)
            .filter(visible_to(viewer))
            .select((Self::as_select(), zone, day_start, now))
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?;
        let (task, zone, day_start, now) = found.ok_or(Error::NotFound("task"))?;
        let person = Person::new(viewer.user_id, zone.zip(day_start), now)?;
        task.right(tx, viewer).await?.allow(needed)?;
        expected.check(&task)?;
        Ok((person, task.seen_by(viewer)))
    }

    /// The task as by [`Task::open`].
    pub(crate) async fn lock(
        tx: &mut Tx,
        viewer: Viewer,
        id: TaskId,
        expected: &Expected,
        needed: Right,
    ) -> Result<Self> {
        Ok(Self::open(tx, viewer, id, expected, needed).await?.1)
    }

    /// What a viewer who sees it may do with it.
    async fn right(&self, tx: &mut Tx, viewer: Viewer) -> Result<Right> {
        let is_owner = self.owner_id == viewer.user_id;
        let role = match self.project_id {
            // Nobody may do more than the owner.
            Some(project) if !is_owner => project_role(tx.conn(), viewer, project).await?,
            _ => None,
        };
        Ok(Right::of(is_owner, self.assignee_id == Some(viewer.user_id), role))
    }

    /// What is part of something in the trash comes back with that.
    async fn refuse_in_trashed(&self, tx: &mut Tx) -> Result<()> {
        let Some(parent) = self.parent_id else { return Ok(()) };
        let deleted: Option<Option<DateTime<Utc>>> =
            tasks::table.find(parent).select(tasks::deleted_at).first(tx.conn()).await.optional()?;
        match deleted.flatten() {
            None => Ok(()),
            Some(_) => {
                let detail =
                    format!("It is a part of the task {parent}, which is in the trash. Restore that.");
                Err(Error::conflict(Code::TaskDeleted, detail))
            }
        }
    }

    pub(crate) fn refuse_in_trash(&self) -> Result<()> {
        match self.deleted_at {
            None => Ok(()),
            Some(_) => Err(Error::conflict(Code::TaskDeleted, "The task is in the trash. Restore it first.")),
        }
    }
}

impl TaskPatch {
    /// What somebody needs to be allowed to make this change.
    fn right(&self) -> Right {
        let Self { title, description, project_id, assignee_id, parent_id, status, priority, due, tags } =
            self;
        let edits = title.is_some()
            || description.is_some()
            || project_id.is_some()
            || assignee_id.is_some()
            || parent_id.is_some()
            || priority.is_some()
            || due.is_some()
            || tags.is_some();
        match (edits, status) {
            (false, Some(_)) => Right::Work,
            _ => Right::Edit,
        }
    }
}

/// The viewer's settings, and the time.
pub(super) async fn person(tx: &mut Tx, viewer: Viewer) -> Result<Person> {
    let now = tx.clock().now();
    Person::load(tx.conn(), viewer.user_id, now).await
}

/// The columns that say how far a task is, which hold together (a check in the schema).
fn status_columns(status: TaskStatus, now: DateTime<Utc>) -> StatusColumns {
    StatusColumns {
        status,
        completed_at: (status == TaskStatus::Done).then_some(now),
        cancelled_at: (status == TaskStatus::Cancelled).then_some(now),
    }
}

#[derive(diesel::AsChangeset)]
#[diesel(table_name = tasks, treat_none_as_null = true)]
struct StatusColumns {
    status: TaskStatus,
    completed_at: Option<DateTime<Utc>>,
    cancelled_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, diesel::AsChangeset)]
#[diesel(table_name = tasks)]
pub(crate) struct Touched {
    version: i32,
    updated_at: DateTime<Utc>,
}

/// What every change leaves behind.
pub(crate) fn touched(tx: &mut Tx, before: &Task, now: DateTime<Utc>) -> Touched {
    super::outdate(tx, [before.id]);
    Touched { version: before.version + 1, updated_at: now }
}

/// Plans anew what the task will send, and reads it as it is now.
pub(crate) async fn settle(tx: &mut Tx, viewer: Viewer, id: TaskId, person: &Person) -> Result<Changed> {
    let warnings = reminders::replan_task(tx, id, person).await?;
    let task = Task::find(tx.conn(), viewer, id).await?;
    Ok(Changed { task, warnings })
}
