//! Teams: people who work together, and have their roles in every project of the team. What the roles allow is in
//! [`access`](crate::access).

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    access::{Expected, MemberRole, Versioned, Viewer, refuse_stranger, team_role},
    audit::{self, Act},
    db::{Condition, RunQueryDsl as _, Tx, sql, sql_condition},
    error::{Code, Error, Result, one_line},
    ids::{TeamId, UserId},
    page::{Cursors, Page, Paging},
    projects,
    schema::{projects as project_rows, sql_types, team_members, teams},
    secrets::Key,
};

/// A team as everyone in it sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = teams, check_for_backend(diesel::pg::Pg))]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// What it is called.
    #[schema(example = "Marketing")]
    pub name: String,
    /// Rises with every change, also of who is in it; the `ETag` is made of it.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a client may set when it makes a team.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Marketing"}))]
pub struct NewTeam {
    /// What it is called.
    #[garde(custom(one_line(1, 200)))]
    #[schema(min_length = 1, max_length = 200, example = "Marketing")]
    pub name: String,
}

/// What its owners may change (RFC 7396): a field that is absent stays.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Marketing and sales"}))]
pub struct TeamPatch {
    /// What it is called.
    #[serde(default)]
    #[garde(inner(custom(one_line(1, 200))))]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
}

/// Somebody in a team.
#[derive(Debug, Clone, QueryableByName, Serialize, ToSchema)]
pub struct TeamMember {
    /// Who.
    #[diesel(sql_type = Uuid)]
    pub user_id: UserId,
    /// What they are called.
    #[diesel(sql_type = Text)]
    #[schema(example = "Ann")]
    pub full_name: String,
    /// What they may do, in the team and in its projects.
    #[diesel(sql_type = sql_types::MemberRole)]
    pub role: MemberRole,
}

/// What the viewer may see. A token for one project has nothing to do with teams.
fn visible_to(viewer: Viewer) -> Condition<'static, impl Sized + 'static> {
    sql_condition!(
        "(teams.id IN (SELECT m.team_id FROM team_members m WHERE m.user_id = {viewer}) AND {project}::uuid IS NULL)",
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
}

fn missing() -> Error {
    Error::NotFound("team")
}

impl Versioned for Team {
    const TAG: &str = "team";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Team {
    /// Makes a team, whose owner the viewer is.
    ///
    /// # Errors
    /// [`Error::Forbidden`] with a token for one project.
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewTeam) -> Result<Self> {
        viewer.refuse_restricted()?;
        let (id, now) = (TeamId::new(), tx.clock().now());
        diesel::insert_into(teams::table)
            .values((
                (teams::id.eq(id), teams::name.eq(new.name.trim())),
                (teams::created_at.eq(now), teams::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        write_member(tx, id, viewer.user_id, MemberRole::Owner).await?;
        let team = Self::find(tx.conn(), viewer, id).await?;
        record(tx, viewer, id, "team.created", None).await?;
        Ok(team)
    }

    /// A page of the viewer's teams, the oldest first.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        paging: &Paging,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let cursors = Cursors::new(cursor_keys, "teams", &())?;
        let mut query = Self::query().filter(visible_to(viewer)).into_boxed::<diesel::pg::Pg>();
        if let Some(cursor) = &paging.cursor {
            query = query.filter(teams::id.gt(cursors.read::<TeamId>(cursor)?));
        }
        let rows = query.order(teams::id).limit(i64::from(paging.limit()) + 1).load(conn).await?;
        Page::of(rows, paging.limit(), &cursors, |team: &Self| team.id)
    }

    /// The team, if `viewer` is in it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none that this viewer is in.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: TeamId) -> Result<Self> {
        let found = Self::query().filter(teams::id.eq(id)).filter(visible_to(viewer));
        found.first(conn).await.optional()?.ok_or_else(missing)
    }

    /// Changes what the patch names.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] unless the viewer is an owner, [`Error::Stale`] if it is not the
    /// version that the caller saw.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: TeamId,
        expected: &Expected,
        patch: &TeamPatch,
    ) -> Result<Self> {
        let before = Self::lock(tx, viewer, id, expected, MemberRole::Owner).await?;
        before.touch(tx, patch.name.as_deref().map(str::trim)).await?;
        let after = Self::find(tx.conn(), viewer, id).await?;
        record(tx, viewer, id, "team.updated", Some(json!({"name": null}))).await?;
        Ok(after)
    }

    /// Deletes the team. Its projects stay with those who are in them by themselves.
    ///
    /// # Errors
    /// As [`Team::patch`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: TeamId, expected: &Expected) -> Result<()> {
        Self::lock(tx, viewer, id, expected, MemberRole::Owner).await?;
        let shared = projects::lock_of_team(tx, id).await?;
        let people: Vec<UserId> = team_members::table
            .filter(team_members::team_id.eq(id))
            .select(team_members::user_id)
            .load(tx.conn())
            .await?;
        let now = tx.clock().now();
        diesel::update(project_rows::table.filter(project_rows::team_id.eq(id)))
            .set((
                project_rows::team_id.eq(None::<TeamId>),
                project_rows::version.eq(project_rows::version + 1),
                project_rows::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        diesel::delete(teams::table.find(id)).execute(tx.conn()).await?;
        record(tx, viewer, id, "team.deleted", None).await?;
        projects::release(tx, viewer, &shared, &people).await
    }

    /// The team as it stands, locked until the end of the transaction, if the viewer has the role `needed`.
    async fn lock(
        tx: &mut Tx,
        viewer: Viewer,
        id: TeamId,
        expected: &Expected,
        needed: MemberRole,
    ) -> Result<Self> {
        let team: Option<Self> =
            Self::query().filter(teams::id.eq(id)).for_update().first(tx.conn()).await.optional()?;
        let role = team_role(tx.conn(), viewer, id).await?.ok_or_else(missing)?;
        let team = team.ok_or_else(missing)?;
        role.allow(needed)?;
        expected.check(&team)?;
        Ok(team)
    }

    /// What every change leaves behind, with a new name if there is one.
    async fn touch(&self, tx: &mut Tx, name: Option<&str>) -> Result<()> {
        let now = tx.clock().now();
        diesel::update(teams::table.find(self.id))
            .set((
                name.map(|name| teams::name.eq(name)),
                (teams::version.eq(self.version + 1), teams::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        Ok(())
    }
}

impl TeamMember {
    /// Everybody in a team, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer is not in it.
    pub async fn list(conn: &mut AsyncPgConnection, viewer: Viewer, team: TeamId) -> Result<Vec<Self>> {
        team_role(conn, viewer, team).await?.ok_or_else(missing)?;
        let members = sql!(
            "SELECT m.user_id, u.full_name, m.role FROM team_members m JOIN users u ON u.id = m.user_id
             WHERE m.team_id = {team} ORDER BY u.full_name, m.user_id",
            team: Uuid = team,
        )
        .load(conn)
        .await?;
        Ok(members)
    }

    /// Somebody in a team.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer is not in it, or they are not.
    pub async fn find(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        team: TeamId,
        user: UserId,
    ) -> Result<Self> {
        let all = Self::list(conn, viewer, team).await?;
        all.into_iter().find(|member| member.user_id == user).ok_or(Error::NotFound("member"))
    }

    /// Takes somebody in, or gives them another role.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer is not in the team or there is no such account, [`Error::Forbidden`] unless they
    /// are an owner, [`Error::Conflict`] if there would be no owner.
    pub async fn put(
        tx: &mut Tx,
        viewer: Viewer,
        team: TeamId,
        user: UserId,
        role: MemberRole,
    ) -> Result<Self> {
        let before = Team::lock(tx, viewer, team, &Expected::Any, MemberRole::Owner).await?;
        refuse_stranger(tx, user).await?;
        write_member(tx, team, user, role).await?;
        refuse_ownerless(tx, team).await?;
        before.touch(tx, None).await?;
        record(tx, viewer, team, "team.member_set", Some(json!({"user_id": user, "role": role}))).await?;
        Self::find(tx.conn(), viewer, team, user).await
    }

    /// Takes somebody out, and of the team's projects; everybody may leave.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer is not in the team or there is nobody like that in it, [`Error::Forbidden`] if it
    /// is somebody else and the viewer is no owner, [`Error::Conflict`] if there would be no owner.
    pub async fn remove(tx: &mut Tx, viewer: Viewer, team: TeamId, user: UserId) -> Result<()> {
        let needed = if user == viewer.user_id { MemberRole::Viewer } else { MemberRole::Owner };
        let before = Team::lock(tx, viewer, team, &Expected::Any, needed).await?;
        let shared = projects::lock_of_team(tx, team).await?;
        let removed = diesel::delete(team_members::table.find((team, user))).execute(tx.conn()).await?;
        if removed == 0 {
            return Err(Error::NotFound("member"));
        }
        refuse_ownerless(tx, team).await?;
        projects::release(tx, viewer, &shared, &[user]).await?;
        before.touch(tx, None).await?;
        record(tx, viewer, team, "team.member_removed", Some(json!({"user_id": user}))).await
    }
}

/// Writes down what was done to a team, and not how it is called. Webhooks hear nothing of teams, so there is no event.
async fn record(
    tx: &mut Tx,
    viewer: Viewer,
    team: TeamId,
    event_type: &'static str,
    details: Option<Value>,
) -> Result<()> {
    let act = Act { details, ..Act::new(viewer.user_id, event_type, "team", team.uuid()) };
    audit::record(tx, act).await
}

async fn write_member(tx: &mut Tx, team: TeamId, user: UserId, role: MemberRole) -> Result<()> {
    let now = tx.clock().now();
    diesel::insert_into(team_members::table)
        .values((
            team_members::team_id.eq(team),
            team_members::user_id.eq(user),
            team_members::role.eq(role),
            team_members::created_at.eq(now),
        ))
        .on_conflict((team_members::team_id, team_members::user_id))
        .do_update()
        .set(team_members::role.eq(role))
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The team is locked, so that of two owners who leave at the same time one stays.
async fn refuse_ownerless(tx: &mut Tx, team: TeamId) -> Result<()> {
    let owners: i64 = team_members::table
        .filter(team_members::team_id.eq(team))
        .filter(team_members::role.eq(MemberRole::Owner))
        .count()
        .get_result(tx.conn())
        .await?;
    match owners {
        0 => Err(Error::conflict(Code::LastOwner, Code::LastOwner.help())),
        _ => Ok(()),
    }
}
