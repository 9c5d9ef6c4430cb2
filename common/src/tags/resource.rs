use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Scope, key, normalise};
use crate::{
    access::{Expected, MemberRole, Versioned, Viewer, project_role},
    db::{Condition, RunQueryDsl as _, Tx, sql, sql_condition},
    error::{Code, Error, FieldError, OnConstraint as _, Result},
    ids::{ProjectId, TagId, TaskId},
    page::{Cursors, Page},
    schema::tags,
    secrets::Key,
    tasks,
};

/// A tag.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = tags, check_for_backend(diesel::pg::Pg))]
pub struct Tag {
    /// Its id.
    pub id: TagId,
    /// The word.
    #[schema(example = "release")]
    pub name: String,
    /// The project whose people share it; null for one's own.
    pub project_id: Option<ProjectId>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
    /// When it was first used.
    pub created_at: DateTime<Utc>,
    #[serde(skip)]
    name_key: String,
}

/// What a client may set when it makes a tag.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"name": "release"}))]
pub struct NewTag {
    /// The word: 1 to 50 characters, without a comma.
    #[schema(min_length = 1, max_length = 50, example = "release")]
    pub name: String,
    /// The project whose people share it, where one has to be an editor; one's own if absent.
    #[serde(default)]
    pub project_id: Option<ProjectId>,
}

/// What a client may change (RFC 7396): a field that is absent stays.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"name": "Release"}))]
pub struct TagPatch {
    /// The word: 1 to 50 characters, without a comma.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 50, example = "Release")]
    pub name: Option<String>,
}

/// Into which tag another one goes.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub struct Merge {
    /// The tag that stays, of the same project, or one's own.
    pub into: TagId,
}

/// Which tags a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct TagFilter {
    /// Only those of this project.
    pub project_id: Option<ProjectId>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// The sort keys of a row, as a cursor holds them.
#[derive(Serialize, Deserialize)]
struct After {
    name_key: String,
    id: TagId,
}

/// The viewer's own, and those of the projects that they see.
fn visible_to(viewer: Viewer) -> Condition<'static, impl Sized + 'static> {
    sql_condition!(
        "((tags.owner_id = {viewer} AND {project}::uuid IS NULL)
          OR (tags.project_id = ANY ((SELECT projects_of({viewer}))::uuid[])
              AND ({project}::uuid IS NULL OR tags.project_id = {project})))",
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
}

fn missing() -> Error {
    Error::NotFound("tag")
}

fn exists() -> Error {
    Error::conflict(Code::TagExists, Code::TagExists.help())
}

/// The name as it is stored.
fn checked(name: &str) -> Result<String> {
    let names = normalise(&[name.to_owned()], "").map_err(|error| match error {
        Error::Invalid(errors) => Error::Invalid(
            errors
                .into_iter()
                .map(|error| FieldError { pointer: Some("/name".to_owned()), ..error })
                .collect(),
        ),
        error => error,
    })?;
    names.into_iter().next().ok_or_else(missing)
}

impl Versioned for Tag {
    const TAG: &str = "tag";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Tag {
    /// Makes a tag before it is used.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or a project that the viewer does not see, [`Error::Forbidden`] if they are no
    /// editor there, [`Error::Conflict`] if there is one with this name.
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewTag) -> Result<Self> {
        let name = checked(&new.name)?;
        tasks::check_project(tx, viewer, new.project_id, |code, detail| {
            FieldError::at("/project_id", code, detail)
        })
        .await?;
        let scope = Scope::of(viewer.user_id, new.project_id);
        let (id, now) = (TagId::new(), tx.clock().now());
        diesel::insert_into(tags::table)
            .values((
                (tags::id.eq(id), tags::owner_id.eq(scope.owner()), tags::project_id.eq(scope.project())),
                (tags::name_key.eq(key(&name)), tags::name.eq(name), tags::created_at.eq(now)),
            ))
            .execute(tx.conn())
            .await
            .on_constraint(scope.constraint(), exists)?;
        Self::find(tx.conn(), viewer, id).await
    }

    /// A page of what `viewer` may see, by name.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        filter: &TagFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(50);
        let cursors = Cursors::new(cursor_keys, "tags", filter)?;
        let mut query = Self::query().filter(visible_to(viewer)).into_boxed::<diesel::pg::Pg>();
        if let Some(project) = filter.project_id {
            query = query.filter(tags::project_id.eq(project));
        }
        if let Some(cursor) = &filter.cursor {
            let after: After = cursors.read(cursor)?;
            query = query.filter(sql_condition!(
                "(tags.name_key, tags.id) > ({name_key}, {id})",
                name_key: Text = after.name_key,
                id: Uuid = after.id,
            ));
        }
        let rows = query.order((tags::name_key, tags::id)).limit(i64::from(limit) + 1).load(conn).await?;
        Page::of(rows, limit, &cursors, |tag: &Self| After { name_key: tag.name_key.clone(), id: tag.id })
    }

    /// The tag, if `viewer` may see it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this viewer may see.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: TagId) -> Result<Self> {
        let found = Self::query().filter(tags::id.eq(id)).filter(visible_to(viewer));
        found.first(conn).await.optional()?.ok_or_else(missing)
    }

    /// Renames it, on all tasks that have it; their versions rise.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] unless it is the viewer's or they are an editor of its project,
    /// [`Error::Stale`], [`Error::Invalid`] for a bad name, [`Error::Conflict`] if there is another with this name.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: TagId,
        expected: &Expected,
        patch: &TagPatch,
    ) -> Result<Self> {
        let name = patch.name.as_deref().map(checked).transpose()?;
        let (before, tasks) = Self::lock(tx, viewer, id, expected).await?;
        let Some(name) = name.filter(|name| *name != before.name) else { return Ok(before) };
        diesel::update(tags::table.find(id))
            .set((tags::name_key.eq(key(&name)), tags::name.eq(name), tags::version.eq(before.version + 1)))
            .execute(tx.conn())
            .await
            .on_constraint(before.scope(viewer).constraint(), exists)?;
        changed(tx, viewer, &tasks).await?;
        Self::find(tx.conn(), viewer, id).await
    }

    /// Takes it off all tasks and deletes it.
    ///
    /// # Errors
    /// As [`Tag::patch`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: TagId, expected: &Expected) -> Result<()> {
        let (_, tasks) = Self::lock(tx, viewer, id, expected).await?;
        diesel::delete(tags::table.find(id)).execute(tx.conn()).await?;
        changed(tx, viewer, &tasks).await
    }

    /// Puts `into` on all tasks that have this one, and deletes this one.
    ///
    /// # Errors
    /// As [`Tag::patch`], and [`Error::Invalid`] if `into` is no other tag of the same place.
    pub async fn merge(
        tx: &mut Tx,
        viewer: Viewer,
        id: TagId,
        expected: &Expected,
        into: TagId,
    ) -> Result<Self> {
        let (before, tasks) = Self::lock(tx, viewer, id, expected).await?;
        let target = Self::find(tx.conn(), viewer, into).await.ok();
        let Some(target) = target.filter(|target| target.id != id && target.project_id == before.project_id)
        else {
            let detail = "Name another tag of the same project, or of your own.";
            return Err(Error::invalid("/into", Code::InvalidValue, detail));
        };
        sql!(
            "INSERT INTO task_tags (task_id, tag_id) SELECT task_id, {into} FROM task_tags WHERE tag_id = {id}
             ON CONFLICT DO NOTHING",
            into: Uuid = into,
            id: Uuid = id,
        )
        .execute(tx.conn())
        .await?;
        diesel::delete(tags::table.find(id)).execute(tx.conn()).await?;
        changed(tx, viewer, &tasks).await?;
        Ok(target)
    }

    /// The tag as it stands, if the viewer may change it, and the tasks that have it, which are locked: before the tag, as
    /// whoever changes a task's tags does it.
    async fn lock(
        tx: &mut Tx,
        viewer: Viewer,
        id: TagId,
        expected: &Expected,
    ) -> Result<(Self, Vec<TaskId>)> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Uuid)]
            id: TaskId,
        }

        let seen = Self::find(tx.conn(), viewer, id).await?;
        if let Some(project) = seen.project_id {
            project_role(tx.conn(), viewer, project).await?.ok_or_else(missing)?.allow(MemberRole::Editor)?;
        }
        let rows: Vec<Row> = sql!(
            "SELECT id FROM tasks WHERE id IN (SELECT task_id FROM task_tags WHERE tag_id = {id})
             ORDER BY id FOR NO KEY UPDATE",
            id: Uuid = id,
        )
        .load(tx.conn())
        .await?;
        let tag: Option<Self> =
            Self::query().filter(tags::id.eq(id)).for_update().first(tx.conn()).await.optional()?;
        let tag = tag.ok_or_else(missing)?;
        expected.check(&tag)?;
        Ok((tag, rows.into_iter().map(|row| row.id).collect()))
    }

    fn scope(&self, viewer: Viewer) -> Scope {
        Scope::of(viewer.user_id, self.project_id)
    }
}

impl Scope {
    /// What keeps names apart.
    fn constraint(self) -> &'static str {
        match self {
            Self::Person(_) => "tags_owner_id_name_key",
            Self::Project(_) => "tags_project_id_name_key",
        }
    }
}

/// Raises the versions of these tasks, which answer with their tags, and writes down that those changed.
async fn changed(tx: &mut Tx, viewer: Viewer, ids: &[TaskId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    tasks::outdate(tx, ids.iter().copied());
    let now = tx.clock().now();
    sql!(
        "UPDATE tasks SET version = version + 1, updated_at = {now} WHERE id = ANY ({ids})",
        now = now,
        ids: diesel::sql_types::Array<Uuid> = ids,
    )
    .execute(tx.conn())
    .await?;
    tasks::record_released(tx, viewer, ids, &["tags"]).await
}
