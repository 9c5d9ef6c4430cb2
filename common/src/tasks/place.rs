//! Where a task is and who does it, and what hangs on that: by whose clock it is due.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryableByName, SelectableHelper as _,
    sql_types::{Array, Bool, Nullable, Timestamptz, Uuid},
};

use super::{Due, DueInput, DueKind, Task, event};
use crate::{
    access::{MemberRole, Viewer, project_role},
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    ids::{ProjectId, TaskId, UserId},
    schema::{tasks, users},
    users::Person,
    zone::Zone,
};

/// Lets the viewer put a task into `project`, or out of all projects: `at` is where the request says so. The project stays,
/// and who is in it too, until the transaction ends.
///
/// # Errors
/// [`Error::Invalid`] if there is no such project that they see, [`Error::Forbidden`] if they are no editor there,
/// [`Error::Conflict`] if it is archived.
pub(crate) async fn check_project(
    tx: &mut Tx,
    viewer: Viewer,
    project: Option<ProjectId>,
    at: impl Fn(Code, String) -> FieldError,
) -> Result<()> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        archived: bool,
    }

    let Some(project) = project else {
        return match viewer.project {
            None => Ok(()),
            Some(only) => {
                let detail = format!("Your token is for one project: give {only}.");
                Err(Error::Invalid(vec![at(Code::Required, detail)]))
            }
        };
    };
    // Whoever changes who is in it waits for this lock, and this for theirs: the role that is read next holds.
    let row: Option<Row> = sql!(
        "SELECT archived_at IS NOT NULL AS archived FROM projects WHERE id = {project} FOR KEY SHARE",
        project: Uuid = project,
    )
    .load(tx.conn())
    .await?
    .pop();
    match (row, project_role(tx.conn(), viewer, project).await?) {
        (Some(row), Some(role)) => {
            role.allow(MemberRole::Editor)?;
            match row.archived {
                true => Err(Error::conflict(Code::ProjectArchived, Code::ProjectArchived.help())),
                false => Ok(()),
            }
        }
        _ => Err(Error::Invalid(vec![at(Code::InvalidValue, "You see no such project.".to_owned())])),
    }
}

/// The place of a project in the bodies of tasks.
pub(super) fn project_field(code: Code, detail: String) -> FieldError {
    FieldError::at("/project_id", code, detail)
}

/// Refuses somebody who would see the task for no other reason than that it is theirs to do.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) async fn check_assignee(
    tx: &mut Tx,
    owner: UserId,
    project: Option<ProjectId>,
    assignee: UserId,
) -> Result<()> {
    // Who is in the project stays in it until this is committed, or was taken out before it is asked.
    sql!("SELECT FROM projects WHERE id = {project} FOR KEY SHARE", project: Nullable<Uuid> = project)
        .execute(tx.conn())
        .await?;
    if sees(tx, owner, project, assignee).await? {
        return Ok(());
    }
    let detail = match project {
        Some(_) => "This person is not in the project. Add them to it first.",
        None => "Nobody else sees a task without a project. Put it into a project that they are in.",
    };
    Err(Error::invalid("/assignee_id", Code::InvalidValue, detail))
}

/// Whether a person sees what `owner` has in `project`, and may log in at all.
pub(super) async fn sees(
    tx: &mut Tx,
    owner: UserId,
    project: Option<ProjectId>,
    person: UserId,
) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        sees: bool,
    }

    if person == owner {
        return Ok(true);
    }
    let row: Row = sql!(
        "SELECT EXISTS (SELECT FROM project_access a JOIN users u ON u.id = a.user_id AND u.is_active
             WHERE a.project_id = {project} AND a.user_id = {person}) AS sees",
        project: Nullable<Uuid> = project,
        person: Uuid = person,
    )
    .get_result(tx.conn())
    .await?;
    Ok(row.sees)
}

/// What a due date means that `viewer` wrote: a time without a zone is one moment for all, in the writer's zone, if others
/// read it on another clock or in a team (semantics §2). It is due by the clock of who does the task, else of its owner.
pub(super) async fn due(
    tx: &mut Tx,
    input: &DueInput,
    viewer: &Person,
    clock: UserId,
    project: Option<ProjectId>,
) -> Result<Due> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        in_team: bool,
    }

    let clock = zone_of(tx, viewer, clock).await?;
    let shared = match (input, project) {
        (DueInput::Wall(_, None), Some(project)) if clock == viewer.zone => {
            let row: Row = sql!(
                "SELECT EXISTS (SELECT FROM projects WHERE id = {project} AND team_id IS NOT NULL) AS in_team",
                project: Uuid = project,
            )
            .get_result(tx.conn())
            .await?;
            row.in_team
        }
        _ => clock != viewer.zone,
    };
    Ok(input.resolve(viewer.zone, clock, shared))
}

/// The same due date by somebody's clock; `None` if there is none.
pub(super) async fn due_by(tx: &mut Tx, due: &Due, viewer: &Person, clock: UserId) -> Result<Option<Due>> {
    match due.meaning() {
        Some(meaning) => Ok(Some(Due::new(meaning, zone_of(tx, viewer, clock).await?))),
        None => Ok(None),
    }
}

/// The zone of somebody's clock.
async fn zone_of(tx: &mut Tx, viewer: &Person, clock: UserId) -> Result<Tz> {
    if clock == viewer.id {
        return Ok(viewer.zone);
    }
    let zone: Zone = users::table.find(clock).select(users::time_zone).first(tx.conn()).await?;
    Ok(zone.tz())
}

/// Counts anew when these tasks are due, as far as that hangs on the clock of who does them, else of their owner. The
/// versions of those that move rise.
///
/// # Errors
/// If the database is away.
pub(crate) async fn recount(tx: &mut Tx, by: Viewer, now: DateTime<Utc>, ids: &[TaskId]) -> Result<()> {
    let rows: Vec<(TaskId, UserId, Option<UserId>, Due)> = tasks::table
        .filter(tasks::id.eq_any(ids))
        .filter(tasks::due_kind.eq_any([DueKind::Date, DueKind::Floating]))
        .order(tasks::id)
        .select((tasks::id, tasks::owner_id, tasks::assignee_id, Due::as_select()))
        .for_no_key_update()
        .load(tx.conn())
        .await?;
    let mut clocks: Vec<UserId> = rows.iter().map(|(_, owner, doer, _)| doer.unwrap_or(*owner)).collect();
    clocks.sort_unstable();
    clocks.dedup();
    let zones: Vec<(UserId, Zone)> = users::table
        .filter(users::id.eq_any(clocks))
        .select((users::id, users::time_zone))
        .load(tx.conn())
        .await?;
    let zones: BTreeMap<UserId, Tz> = zones.into_iter().map(|(id, zone)| (id, zone.tz())).collect();
    let moved: Vec<(TaskId, Due, DateTime<Utc>)> = rows
        .into_iter()
        .filter_map(|(id, owner, doer, due)| {
            let at = due.meaning()?.instant(*zones.get(&doer.unwrap_or(owner))?);
            (due.at() != Some(at)).then_some((id, due, at))
        })
        .collect();
    let (ids, instants): (Vec<TaskId>, Vec<DateTime<Utc>>) =
        moved.iter().map(|(id, _, at)| (*id, *at)).unzip();
    super::outdate(tx, ids.iter().copied());
    sql!(
        "UPDATE tasks t SET due_at = m.at, version = version + 1, updated_at = {now}
         FROM unnest({ids}, {instants}) AS m (id, at) WHERE t.id = m.id",
        now: Timestamptz = now,
        ids: Array<Uuid> = ids,
        instants: Array<Timestamptz> = instants,
    )
    .execute(tx.conn())
    .await?;
    let before = moved.into_iter().map(|(id, due, _)| (id, due)).collect();
    event::record_moved(tx, by, &before).await
}

impl Task {
    /// Counts anew when a person's tasks are due that hang on their clock, after it was changed.
    ///
    /// # Errors
    /// If the database is away.
    pub(crate) async fn follow_clock(tx: &mut Tx, person: &Person) -> Result<()> {
        use diesel::BoolExpressionMethods as _;

        let ids: Vec<TaskId> = tasks::table
            .filter(
                tasks::assignee_id
                    .eq(person.id)
                    .or(tasks::owner_id.eq(person.id).and(tasks::assignee_id.is_null())),
            )
            .filter(tasks::due_kind.eq_any([DueKind::Date, DueKind::Floating]))
            .select(tasks::id)
            .load(tx.conn())
            .await?;
        recount(tx, Viewer { user_id: person.id, project: None }, person.now, &ids).await
    }
}
