//! Tasks inside tasks: at most [`MAX_DEPTH`] levels, all of one project; and their order by hand.

use chrono::{DateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryableByName,
    sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid},
};
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{TaskRow, event, nullable, visible_to};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    ids::{ProjectId, TaskId, UserId},
    schema::tasks,
    tags,
    users::Person,
};

/// Levels of tasks inside tasks at most, the outermost counted.
pub const MAX_DEPTH: i32 = 5;

/// Where a task is to be.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"project_id": null, "position": 1.5}))]
pub struct Move {
    /// Into this project, or out of all; absent: it stays where it is.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<ProjectId>)]
    pub project_id: Option<Option<ProjectId>>,
    /// Into this task, or out of all; absent: it stays where it is, or leaves a task of another project.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<TaskId>)]
    pub parent_id: Option<Option<TaskId>>,
    /// Right before this task of the same place.
    #[serde(default)]
    pub before: Option<TaskId>,
    /// Right after this task of the same place.
    #[serde(default)]
    pub after: Option<TaskId>,
    /// At this position. With neither of the three it becomes the last.
    #[serde(default)]
    pub position: Option<f64>,
}

/// The tasks among which one stands: those of a project, or those of a person that are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) owner: UserId,
    pub(super) project: Option<ProjectId>,
}

impl Place {
    /// Lets one transaction at a time change who stands where: each keeps the others' checks true.
    pub(super) async fn lock(self, tx: &mut Tx) -> Result<()> {
        let key = self.project.map_or(self.owner.uuid(), ProjectId::uuid);
        sql!(
            "SELECT pg_advisory_xact_lock(hashtextextended('tree:' || {key}, 0))",
            key: Text = key.to_string(),
        )
        .execute(tx.conn())
        .await?;
        Ok(())
    }
}

/// Refuses a task as the parent of `child`, or of a new one: it has to be in the same place and not in the trash, not inside
/// the child, and not too deep.
pub(super) async fn check_parent(
    tx: &mut Tx,
    viewer: Viewer,
    place: Place,
    child: Option<TaskId>,
    parent: TaskId,
) -> Result<()> {
    use diesel::{ExpressionMethods as _, QueryDsl as _};

    #[derive(QueryableByName)]
    struct Depths {
        #[diesel(sql_type = Integer)]
        above: i32,
        #[diesel(sql_type = Integer)]
        below: i32,
        #[diesel(sql_type = Bool)]
        inside: bool,
    }

    let refuse = |detail: &str| Err(Error::invalid("/parent_id", Code::InvalidValue, detail));
    place.lock(tx).await?;
    let found: Option<(UserId, Option<ProjectId>, Option<DateTime<Utc>>)> = tasks::table
        .filter(tasks::id.eq(parent))
        .filter(visible_to(viewer))
        .select((tasks::owner_id, tasks::project_id, tasks::deleted_at))
        .first(tx.conn())
        .await
        .optional()?;
    let Some((owner, project, deleted_at)) = found else { return refuse("You see no such task.") };
    if project != place.project || (project.is_none() && owner != place.owner) {
        return refuse("A task and the tasks in it are in one project, or in none and of one owner.");
    }
    if deleted_at.is_some() {
        return refuse("That task is in the trash.");
    }
    let depths: Depths = sql!(
        "WITH RECURSIVE up AS (SELECT id, parent_id, 1 AS level FROM tasks WHERE id = {parent}
             UNION ALL SELECT t.id, t.parent_id, up.level + 1 FROM tasks t JOIN up ON t.id = up.parent_id WHERE up.level < 10),
         down AS (SELECT id, 1 AS level FROM tasks WHERE id = {child}
             UNION ALL SELECT t.id, down.level + 1 FROM tasks t JOIN down ON t.parent_id = down.id WHERE down.level < 10)
         SELECT (SELECT max(level) FROM up) AS above, coalesce((SELECT max(level) FROM down), 1) AS below,
             EXISTS (SELECT FROM up WHERE id = {child}) AS inside",
        parent: Uuid = parent,
        child: Nullable<Uuid> = child,
    )
    .get_result(tx.conn())
    .await?;
    if depths.inside {
        return refuse("A task is not inside itself.");
    }
    if depths.above + depths.below > MAX_DEPTH {
        return refuse("Tasks stand in each other at most five deep.");
    }
    Ok(())
}

fn ids(rows: Vec<TaskRow>) -> Vec<TaskId> {
    rows.into_iter().map(|row| row.id).collect()
}

/// What is inside a task goes to its new project with it; what cannot, as it is another's and there is no project, stays
/// and is inside nothing.
pub(super) async fn follow(
    tx: &mut Tx,
    viewer: Viewer,
    now: DateTime<Utc>,
    id: TaskId,
    to: Place,
) -> Result<()> {
    let moved: Vec<TaskRow> = sql!(
        "WITH RECURSIVE down AS (SELECT id FROM tasks WHERE parent_id = {id} AND ({project}::uuid IS NOT NULL OR owner_id = {owner})
             UNION SELECT t.id FROM tasks t JOIN down ON t.parent_id = down.id
                 WHERE {project}::uuid IS NOT NULL OR t.owner_id = {owner}),
         locked AS MATERIALIZED (SELECT id FROM tasks WHERE id IN (SELECT id FROM down) ORDER BY id FOR NO KEY UPDATE)
         UPDATE tasks t SET project_id = {project}, version = version + 1, updated_at = {now},
             assignee_id = CASE WHEN t.assignee_id = t.owner_id OR t.assignee_id IN
                 (SELECT a.user_id FROM project_access a WHERE a.project_id = {project}) THEN t.assignee_id END
         FROM locked l WHERE t.id = l.id RETURNING t.id",
        id: Uuid = id,
        owner: Uuid = to.owner,
        project: Nullable<Uuid> = to.project,
        now: Timestamptz = now,
    )
    .load(tx.conn())
    .await?;
    let moved = ids(moved);
    let family: Vec<TaskId> = moved.iter().copied().chain([id]).collect();
    let left: Vec<TaskRow> = sql!(
        "UPDATE tasks SET parent_id = NULL, version = version + 1, updated_at = {now}
         WHERE parent_id = ANY ({family}) AND project_id IS DISTINCT FROM {project} RETURNING id",
        family: Array<Uuid> = &family,
        project: Nullable<Uuid> = to.project,
        now: Timestamptz = now,
    )
    .load(tx.conn())
    .await?;
    super::outdate(tx, moved.iter().copied().chain(ids(left)));
    tags::rescope(tx, &family).await?;
    super::recount(tx, viewer, now, &moved).await?;
    event::record_released(tx, viewer, &moved, &["project_id", "assignee_id"]).await
}

/// Puts what is inside a task into the trash with it.
pub(super) async fn trash(tx: &mut Tx, id: TaskId, now: DateTime<Utc>) -> Result<Vec<TaskId>> {
    let rows: Vec<TaskRow> = sql!(
        "WITH RECURSIVE down AS (SELECT id FROM tasks WHERE parent_id = {id}
             UNION SELECT t.id FROM tasks t JOIN down ON t.parent_id = down.id),
         locked AS MATERIALIZED (SELECT id FROM tasks WHERE id IN (SELECT id FROM down) AND deleted_at IS NULL
             ORDER BY id FOR NO KEY UPDATE)
         UPDATE tasks t SET deleted_at = {now}, version = version + 1, updated_at = {now}
         FROM locked l WHERE t.id = l.id RETURNING t.id",
        id: Uuid = id,
        now: Timestamptz = now,
    )
    .load(tx.conn())
    .await?;
    let ids = ids(rows);
    super::outdate(tx, ids.iter().copied());
    Ok(ids)
}

/// Takes out of the trash what went into it with a task.
pub(super) async fn restore(
    tx: &mut Tx,
    id: TaskId,
    deleted_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<TaskId>> {
    let rows: Vec<TaskRow> = sql!(
        "WITH RECURSIVE down AS (SELECT id FROM tasks WHERE parent_id = {id} AND deleted_at = {deleted_at}
             UNION SELECT t.id FROM tasks t JOIN down ON t.parent_id = down.id WHERE t.deleted_at = {deleted_at}),
         locked AS MATERIALIZED (SELECT id FROM tasks WHERE id IN (SELECT id FROM down) ORDER BY id FOR NO KEY UPDATE)
         UPDATE tasks t SET deleted_at = NULL, version = version + 1, updated_at = {now}
         FROM locked l WHERE t.id = l.id RETURNING t.id",
        id: Uuid = id,
        deleted_at: Timestamptz = deleted_at,
        now: Timestamptz = now,
    )
    .load(tx.conn())
    .await?;
    let ids = ids(rows);
    super::outdate(tx, ids.iter().copied());
    Ok(ids)
}

/// The position that a wish means, among what stands in the same place and the same task. If two neighbours are so close
/// that nothing fits between them, all are numbered anew first.
pub(super) async fn position(
    tx: &mut Tx,
    person: &Person,
    place: Place,
    parent: Option<TaskId>,
    id: TaskId,
    wish: &Move,
) -> Result<f64> {
    if let Some(position) = wish.position {
        return match position.is_finite() {
            true => Ok(position),
            false => Err(Error::invalid("/position", Code::InvalidValue, "It is a number.")),
        };
    }
    place.lock(tx).await?;
    for again in [true, false] {
        let Some((below, above)) = neighbours(tx, place, parent, id, wish).await? else {
            return last(tx, person, place, parent).await;
        };
        let between = below + (above - below) / 2.0;
        if (below < between && between < above) || !again {
            return Ok(between);
        }
        renumber(tx, place, parent).await?;
    }
    Ok(0.0)
}

/// Between which positions a task is to stand; `None` if it is to be the last.
async fn neighbours(
    tx: &mut Tx,
    place: Place,
    parent: Option<TaskId>,
    id: TaskId,
    wish: &Move,
) -> Result<Option<(f64, f64)>> {
    #[derive(QueryableByName)]
    struct Around {
        #[diesel(sql_type = Double)]
        at: f64,
        #[diesel(sql_type = Nullable<Double>)]
        below: Option<f64>,
        #[diesel(sql_type = Nullable<Double>)]
        above: Option<f64>,
    }

    let (anchor, name) = match (wish.before, wish.after) {
        (Some(_), Some(_)) => {
            let detail = "Give `before` or `after`, not both.";
            return Err(Error::Invalid(vec![FieldError::at("/after", Code::InvalidValue, detail)]));
        }
        (Some(anchor), None) => (anchor, "/before"),
        (None, Some(anchor)) => (anchor, "/after"),
        (None, None) => return Ok(None),
    };
    let around: Option<Around> = sql!(
        "WITH siblings AS (SELECT t.id, t.position FROM tasks t WHERE (t.project_id = {project}
                 OR {project}::uuid IS NULL AND t.project_id IS NULL AND t.owner_id = {owner}) AND t.parent_id IS NOT DISTINCT FROM {parent}
             AND t.deleted_at IS NULL)
         SELECT a.position AS at,
             (SELECT max(s.position) FROM siblings s WHERE (s.position, s.id) < (a.position, a.id) AND s.id <> {id}) AS below,
             (SELECT min(s.position) FROM siblings s WHERE (s.position, s.id) > (a.position, a.id) AND s.id <> {id}) AS above
         FROM siblings a WHERE a.id = {anchor} AND a.id <> {id}",
        project: Nullable<Uuid> = place.project,
        owner: Uuid = place.owner,
        parent: Nullable<Uuid> = parent,
        id: Uuid = id,
        anchor: Uuid = anchor,
    )
    .load(tx.conn())
    .await?
    .pop();
    let Some(around) = around else {
        return Err(Error::invalid(
            name,
            Code::InvalidValue,
            "There is no other such task in the same place.",
        ));
    };
    Ok(Some(match name {
        "/before" => (around.below.unwrap_or(around.at - 2.0), around.at),
        _ => (around.at, around.above.unwrap_or(around.at + 2.0)),
    }))
}

/// Behind all others, and behind what was made up to now.
async fn last(tx: &mut Tx, person: &Person, place: Place, parent: Option<TaskId>) -> Result<f64> {
    #[derive(QueryableByName)]
    struct Last {
        #[diesel(sql_type = Nullable<Double>)]
        last: Option<f64>,
    }

    let row: Last = sql!(
        "SELECT max(position) AS last FROM tasks WHERE (project_id = {project}
                 OR {project}::uuid IS NULL AND project_id IS NULL AND owner_id = {owner}) AND parent_id IS NOT DISTINCT FROM {parent}",
        project: Nullable<Uuid> = place.project,
        owner: Uuid = place.owner,
        parent: Nullable<Uuid> = parent,
    )
    .get_result(tx.conn())
    .await?;
    let now = first_position(person.now);
    Ok(row.last.map_or(now, |last| now.max(last + 1.0)))
}

/// The position of what is made at an instant.
#[expect(clippy::cast_precision_loss, reason = "a double holds the milliseconds of 200,000 years")]
pub(super) fn first_position(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

/// Numbers what stands in one place with gaps of a thousand. Their versions rise.
async fn renumber(tx: &mut Tx, place: Place, parent: Option<TaskId>) -> Result<()> {
    let now = tx.clock().now();
    let rows: Vec<TaskRow> = sql!(
        "WITH siblings AS MATERIALIZED (SELECT t.id, t.position FROM tasks t WHERE (t.project_id = {project}
                 OR {project}::uuid IS NULL AND t.project_id IS NULL AND t.owner_id = {owner}) AND t.parent_id IS NOT DISTINCT FROM {parent}
             ORDER BY t.id FOR NO KEY UPDATE),
         numbered AS (SELECT id, row_number() OVER (ORDER BY position, id) * {gap}::bigint AS position FROM siblings)
         UPDATE tasks t SET position = n.position, version = version + 1, updated_at = {now}
         FROM numbered n WHERE t.id = n.id RETURNING t.id",
        project: Nullable<Uuid> = place.project,
        owner: Uuid = place.owner,
        parent: Nullable<Uuid> = parent,
        gap: BigInt = 1000_i64,
        now = now,
    )
    .load(tx.conn())
    .await?;
    super::outdate(tx, ids(rows));
    Ok(())
}
