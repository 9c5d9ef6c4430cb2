use diesel::{
    ExpressionMethods as _, QueryDsl as _, QueryableByName,
    sql_types::{Bool, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Project, missing, release};
use crate::{
    access::{Expected, MemberRole, Viewer, project_role, refuse_stranger},
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, Result},
    events::{self, About, Changes, EventType, NewEvent},
    ids::{ProjectId, UserId},
    schema::{project_members, projects, sql_types},
};

/// Somebody who sees a project.
#[derive(Debug, Clone, QueryableByName, Serialize, ToSchema)]
pub struct Member {
    /// Who.
    #[diesel(sql_type = Uuid)]
    pub user_id: UserId,
    /// What they are called.
    #[diesel(sql_type = Text)]
    #[schema(example = "Ann")]
    pub full_name: String,
    /// What they may do.
    #[diesel(sql_type = sql_types::MemberRole)]
    pub role: MemberRole,
    /// Whether they are there by the project's team alone: then the team says who they are.
    #[diesel(sql_type = Bool)]
    pub through_team: bool,
}

/// As what somebody is taken in.
#[derive(Debug, Clone, Copy, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"role": "editor"}))]
pub struct Membership {
    /// What they may do.
    pub role: MemberRole,
}

impl Member {
    /// Everybody who sees a project, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see it.
    pub async fn list(conn: &mut AsyncPgConnection, viewer: Viewer, project: ProjectId) -> Result<Vec<Self>> {
        project_role(conn, viewer, project).await?.ok_or_else(missing)?;
        let members = sql!(
            "SELECT a.user_id, u.full_name, max(a.role) AS role, bool_and(a.team_id IS NOT NULL) AS through_team
             FROM project_access a JOIN users u ON u.id = a.user_id WHERE a.project_id = {project}
             GROUP BY a.user_id, u.full_name ORDER BY u.full_name, a.user_id",
            project: Uuid = project,
        )
        .load(conn)
        .await?;
        Ok(members)
    }

    /// Somebody who sees a project.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see it, or there is nobody like that in it.
    pub async fn find(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        project: ProjectId,
        user: UserId,
    ) -> Result<Self> {
        let all = Self::list(conn, viewer, project).await?;
        all.into_iter().find(|member| member.user_id == user).ok_or(Error::NotFound("member"))
    }

    /// Takes somebody in, or gives them another role.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see the project or there is no such account, [`Error::Forbidden`] unless
    /// they are an owner, [`Error::Conflict`] if there would be no owner.
    pub async fn put(
        tx: &mut Tx,
        viewer: Viewer,
        project: ProjectId,
        user: UserId,
        role: MemberRole,
    ) -> Result<Self> {
        let before = Project::lock(tx, viewer, project, &Expected::Any, MemberRole::Owner).await?;
        refuse_stranger(tx, user).await?;
        if before.owner_id == user {
            if role == MemberRole::Owner {
                return Self::find(tx.conn(), viewer, project, user).await;
            }
            before.hand_over(tx).await?;
        }
        let now = tx.clock().now();
        diesel::insert_into(project_members::table)
            .values((
                project_members::project_id.eq(project),
                project_members::user_id.eq(user),
                project_members::role.eq(role),
                project_members::created_at.eq(now),
            ))
            .on_conflict((project_members::project_id, project_members::user_id))
            .do_update()
            .set(project_members::role.eq(role))
            .execute(tx.conn())
            .await?;
        before.members_changed(tx, viewer).await?;
        Self::find(tx.conn(), viewer, project, user).await
    }

    /// Takes somebody out; everybody may leave. Who is in the project's team stays by that.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see the project or there is nobody like that in it,
    /// [`Error::Forbidden`] if it is somebody else and the viewer is no owner, [`Error::Conflict`] if there would be no
    /// owner.
    pub async fn remove(tx: &mut Tx, viewer: Viewer, project: ProjectId, user: UserId) -> Result<()> {
        let needed = if user == viewer.user_id { MemberRole::Viewer } else { MemberRole::Owner };
        let before = Project::lock(tx, viewer, project, &Expected::Any, needed).await?;
        if before.owner_id == user {
            before.hand_over(tx).await?;
        } else {
            let removed =
                diesel::delete(project_members::table.find((project, user))).execute(tx.conn()).await?;
            if removed == 0 {
                return Err(Error::NotFound("member"));
            }
        }
        release(tx, viewer, &[project], &[user]).await?;
        before.members_changed(tx, viewer).await
    }
}

impl Project {
    /// Makes it the project of the one who has been an owner of it for longest.
    async fn hand_over(&self, tx: &mut Tx) -> Result<()> {
        let handed = sql!(
            "WITH heir AS (DELETE FROM project_members WHERE (project_id, user_id) =
                 (SELECT project_id, user_id FROM project_members WHERE project_id = {id} AND role = 'owner'
                  ORDER BY created_at, user_id LIMIT 1)
                 RETURNING user_id)
             UPDATE projects SET owner_id = heir.user_id FROM heir WHERE id = {id}",
            id: Uuid = self.id,
        )
        .execute(tx.conn())
        .await?;
        match handed {
            0 => Err(Error::conflict(Code::LastOwner, Code::LastOwner.help())),
            _ => Ok(()),
        }
    }

    /// Raises the version and writes down that it is others' now.
    async fn members_changed(&self, tx: &mut Tx, viewer: Viewer) -> Result<()> {
        let now = tx.clock().now();
        diesel::update(projects::table.find(self.id))
            .set((projects::version.eq(self.version + 1), projects::updated_at.eq(now)))
            .execute(tx.conn())
            .await?;
        let after = Self::load(tx, self.id).await?;
        let mut changes: Changes = self.changes(&after);
        changes.insert("members".to_owned(), Value::Null);
        let about = About { owner: after.owner_id, assignee: None, project: Some(after.id), task: None };
        let event = NewEvent::new(EventType::ProjectUpdated, about, &after.data())?.by(viewer);
        events::record(tx, event.changing(changes)).await
    }
}
