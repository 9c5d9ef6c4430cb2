//! Projects: tasks that belong together, and who works on them. Roles and what they allow are in
//! [`access`](crate::access).

mod delete;
mod estate;
mod members;
mod release;

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, NullableExpressionMethods as _, OptionalExtension as _, QueryDsl as _,
    sql_types::{Nullable, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

pub(crate) use self::release::{lock_of_team, release};
pub use self::{
    delete::Disposal,
    estate::hand_over_all,
    members::{Member, Membership},
};
use crate::{
    access::{Expected, MemberRole, Versioned, Viewer, project_role, team_role},
    db::{Condition, RunQueryDsl as _, Tx, sql_condition},
    error::{Code, Error, Result, one_line},
    events::{self, About, Changes, EventType, NewEvent},
    ids::{ProjectId, TeamId, UserId},
    page::{Cursors, Page},
    schema::{projects, team_members},
    secrets::Key,
    tasks::nullable,
};

/// A project as everyone in it sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = projects, check_for_backend(diesel::pg::Pg))]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// What it is called.
    #[schema(example = "Launch")]
    pub name: String,
    /// More about it.
    pub description: Option<String>,
    /// Whose it is: one of those who have the role `owner`.
    pub owner_id: UserId,
    /// The team that works on it; its members have their roles here, too.
    pub team_id: Option<TeamId>,
    /// After how many days finished tasks are put away; null for what the installation says.
    #[schema(example = 14)]
    pub archive_done_after_days: Option<i32>,
    /// When it was put away. Nothing is put into it since, its tasks leave the lists, and nothing reminds of them.
    pub archived_at: Option<DateTime<Utc>>,
    /// Rises with every change, also of who is in it; the `ETag` is made of it.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a client may set when it makes a project.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Launch", "archive_done_after_days": 14}))]
pub struct NewProject {
    /// What it is called.
    #[garde(custom(one_line(1, 200)))]
    #[schema(min_length = 1, max_length = 200, example = "Launch")]
    pub name: String,
    /// More about it, at most 64 KiB.
    #[serde(default)]
    #[garde(inner(length(bytes, max = 65_536)))]
    #[schema(max_length = 65_536)]
    pub description: Option<String>,
    /// The team that works on it, in which one has to be an editor.
    #[serde(default)]
    #[garde(skip)]
    pub team_id: Option<TeamId>,
    /// After how many days finished tasks are put away, 1 to 3650; what the installation says if absent.
    #[serde(default)]
    #[garde(inner(range(min = 1, max = 3650)))]
    #[schema(minimum = 1, maximum = 3650)]
    pub archive_done_after_days: Option<i32>,
}

/// What its owners may change (RFC 7396): a field that is absent stays, one that is null is cleared.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Launch of the second version"}))]
pub struct ProjectPatch {
    /// What it is called.
    #[serde(default)]
    #[garde(inner(custom(one_line(1, 200))))]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// More about it, at most 64 KiB.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(inner(inner(length(bytes, max = 65_536))))]
    #[schema(value_type = Option<String>, max_length = 65_536)]
    pub description: Option<Option<String>>,
    /// The team that works on it, in which one has to be an editor. The members of the one before lose the project.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<TeamId>)]
    pub team_id: Option<Option<TeamId>>,
    /// After how many days finished tasks are put away, 1 to 3650; null for what the installation says.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(inner(inner(range(min = 1, max = 3650))))]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 3650)]
    pub archive_done_after_days: Option<Option<i32>>,
}

/// Which projects a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct ProjectFilter {
    /// `true`: only what was put away. Otherwise only what was not.
    #[serde(default)]
    pub archived: bool,
    /// Only those of this team.
    pub team_id: Option<TeamId>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// What events tell of a project.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectData<'a> {
    id: ProjectId,
    version: i32,
    name: &'a str,
    owner_id: UserId,
    team_id: Option<TeamId>,
    archived_at: Option<DateTime<Utc>>,
}

/// What the viewer may see.
fn visible_to(viewer: Viewer) -> Condition<'static, impl Sized + 'static> {
    sql_condition!(
        "(projects.id = ANY ((SELECT projects_of({viewer}))::uuid[])
          AND ({project}::uuid IS NULL OR projects.id = {project}))",
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
}

fn missing() -> Error {
    Error::NotFound("project")
}

/// Refuses a team into which the viewer may not put anything.
async fn check_team(tx: &mut Tx, viewer: Viewer, team: TeamId) -> Result<()> {
    match team_role(tx.conn(), viewer, team).await? {
        Some(role) => role.allow(MemberRole::Editor),
        None => Err(Error::invalid("/team_id", Code::InvalidValue, "You are in no such team.")),
    }
}

impl Versioned for Project {
    const TAG: &str = "p";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Project {
    /// Makes a project of the viewer's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the viewer is not in the team, [`Error::Forbidden`] if they are no editor there.
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewProject) -> Result<Self> {
        viewer.refuse_restricted()?;
        if let Some(team) = new.team_id {
            check_team(tx, viewer, team).await?;
        }
        let (id, now) = (ProjectId::new(), tx.clock().now());
        diesel::insert_into(projects::table)
            .values((
                (projects::id.eq(id), projects::owner_id.eq(viewer.user_id)),
                (projects::name.eq(new.name.trim()), projects::description.eq(new.description.as_deref())),
                projects::team_id.eq(new.team_id),
                projects::archive_done_after_days.eq(new.archive_done_after_days),
                (projects::created_at.eq(now), projects::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        let project = Self::find(tx.conn(), viewer, id).await?;
        project.record(tx, viewer, EventType::ProjectCreated, None).await?;
        Ok(project)
    }

    /// A page of what `viewer` may see, the oldest first.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        filter: &ProjectFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(50);
        let cursors = Cursors::new(cursor_keys, "projects", filter)?;
        let mut query = Self::query().filter(visible_to(viewer)).into_boxed::<diesel::pg::Pg>();
        query = match filter.archived {
            true => query.filter(projects::archived_at.is_not_null()),
            false => query.filter(projects::archived_at.is_null()),
        };
        if let Some(team) = filter.team_id {
            query = query.filter(projects::team_id.eq(team));
        }
        if let Some(cursor) = &filter.cursor {
            query = query.filter(projects::id.gt(cursors.read::<ProjectId>(cursor)?));
        }
        let rows = query.order(projects::id).limit(i64::from(limit) + 1).load(conn).await?;
        Page::of(rows, limit, &cursors, |project: &Self| project.id)
    }

    /// The project, if `viewer` may see it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this viewer may see.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: ProjectId) -> Result<Self> {
        let found = Self::query().filter(projects::id.eq(id)).filter(visible_to(viewer));
        found.first(conn).await.optional()?.ok_or_else(missing)
    }

    /// Changes what the patch names.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] unless the viewer is an owner, [`Error::Stale`] if it is not the
    /// version that the caller saw, [`Error::Invalid`] for a team as [`Project::create`].
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: ProjectId,
        expected: &Expected,
        patch: &ProjectPatch,
    ) -> Result<Self> {
        let before = Self::lock(tx, viewer, id, expected, MemberRole::Owner).await?;
        let team = patch.team_id.filter(|team| *team != before.team_id);
        if let Some(Some(team)) = team {
            check_team(tx, viewer, team).await?;
        }
        let now = tx.clock().now();
        diesel::update(projects::table.find(id))
            .set((
                patch.name.as_deref().map(|name| projects::name.eq(name.trim())),
                patch.description.as_ref().map(|text| projects::description.eq(text.as_deref())),
                team.map(|team| projects::team_id.eq(team)),
                patch.archive_done_after_days.map(|days| projects::archive_done_after_days.eq(days)),
                (projects::version.eq(before.version + 1), projects::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        if let (Some(_), Some(old)) = (team, before.team_id) {
            let people: Vec<UserId> = team_members::table
                .filter(team_members::team_id.eq(old))
                .select(team_members::user_id)
                .load(tx.conn())
                .await?;
            release(tx, viewer, &[id], &people).await?;
        }
        let after = Self::load(tx, id).await?;
        after.record(tx, viewer, EventType::ProjectUpdated, Some(&before)).await?;
        Ok(after)
    }

    /// Puts the project away, or takes it out again. Its tasks stay as they are: while it is away they leave the lists and
    /// the daily summaries, and what would remind of them is cancelled when it comes due.
    ///
    /// # Errors
    /// As [`Project::patch`].
    pub async fn archive(
        tx: &mut Tx,
        viewer: Viewer,
        id: ProjectId,
        expected: &Expected,
        archived: bool,
    ) -> Result<Self> {
        let before = Self::lock(tx, viewer, id, expected, MemberRole::Owner).await?;
        if before.archived_at.is_some() == archived {
            return Ok(before);
        }
        let now = tx.clock().now();
        let row = diesel::update(projects::table.find(id));
        let versioned = (projects::version.eq(before.version + 1), projects::updated_at.eq(now));
        if archived {
            row.set((projects::archived_at.eq(now.nullable()), versioned)).execute(tx.conn()).await?;
        } else {
            row.set((projects::archived_at.eq(None::<DateTime<Utc>>), versioned)).execute(tx.conn()).await?;
        }
        let after = Self::load(tx, id).await?;
        let kind = if archived { EventType::ProjectArchived } else { EventType::ProjectUpdated };
        after.record(tx, viewer, kind, Some(&before)).await?;
        Ok(after)
    }

    /// The project as it stands, locked until the end of the transaction, if the viewer has the role `needed`. Nobody
    /// puts a task into it meanwhile.
    async fn lock(
        tx: &mut Tx,
        viewer: Viewer,
        id: ProjectId,
        expected: &Expected,
        needed: MemberRole,
    ) -> Result<Self> {
        let project: Option<Self> =
            Self::query().filter(projects::id.eq(id)).for_update().first(tx.conn()).await.optional()?;
        let role = project_role(tx.conn(), viewer, id).await?.ok_or_else(missing)?;
        let project = project.ok_or_else(missing)?;
        role.allow(needed)?;
        expected.check(&project)?;
        Ok(project)
    }

    /// The project in the transaction that changed it, by which the viewer may have lost it.
    async fn load(tx: &mut Tx, id: ProjectId) -> Result<Self> {
        Ok(Self::query().filter(projects::id.eq(id)).first(tx.conn()).await?)
    }

    /// Writes down that something happened to it.
    async fn record(
        &self,
        tx: &mut Tx,
        viewer: Viewer,
        kind: EventType,
        before: Option<&Self>,
    ) -> Result<()> {
        let about = About { owner: self.owner_id, assignee: None, project: Some(self.id), task: None };
        let mut event = NewEvent::new(kind, about, &self.data())?.by(viewer);
        if let Some(before) = before {
            event = event.changing(before.changes(self));
        }
        events::record(tx, event).await
    }

    fn data(&self) -> ProjectData<'_> {
        let Self { id, version, name, owner_id, team_id, archived_at, .. } = self;
        ProjectData {
            id: *id,
            version: *version,
            name,
            owner_id: *owner_id,
            team_id: *team_id,
            archived_at: *archived_at,
        }
    }

    fn changes(&self, after: &Self) -> Changes {
        let told = [
            ("name", json!([self.name, after.name]), self.name != after.name),
            ("owner_id", json!([self.owner_id, after.owner_id]), self.owner_id != after.owner_id),
            ("team_id", json!([self.team_id, after.team_id]), self.team_id != after.team_id),
            (
                "archived_at",
                json!([self.archived_at, after.archived_at]),
                self.archived_at != after.archived_at,
            ),
            ("description", Value::Null, self.description != after.description),
            (
                "archive_done_after_days",
                Value::Null,
                self.archive_done_after_days != after.archive_done_after_days,
            ),
        ];
        let changed = told.into_iter().filter(|(_, _, changed)| *changed);
        changed.map(|(name, values, _)| (name.to_owned(), values)).collect()
    }
}
