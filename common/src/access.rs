//! Who may see and change what, in one place. Every finder takes a [`Viewer`], so that what a person may not see is not
//! found (404, design §4.3); what they see and may not change is 403. The predicates over tasks that follow from the
//! table stand beside the finders of `tasks`.
//!
//! What a person may do with a **task**, by the strongest of what they are:
//!
//! | Who | sees it, is reminded of it | completes it, changes its status, comments | changes, moves, deletes it |
//! |---|---|---|---|
//! | its owner | yes | yes | yes |
//! | its assignee | yes | yes | |
//! | `viewer` of its project | yes | | |
//! | `editor`, `owner` of its project | yes | yes | yes |
//! | everybody else | | | |
//!
//! and with a **project** or a **team**:
//!
//! | Role | sees it, its members and its tasks | makes and changes tasks | changes, archives and deletes it, says who is in it |
//! |---|---|---|---|
//! | `viewer` | yes | | |
//! | `editor` | yes | yes | |
//! | `owner` | yes | yes | yes |
//!
//! A role in a project is one's own or that of the team which the project belongs to, whichever is higher (the view
//! `project_access`). Everybody may leave. Who loses a project loses its tasks: what they were to do there is nobody's,
//! and what they owned there is the project's owner's; their reminders of it end (`no_access`), their webhooks hear
//! nothing of it any more, and the links in their mails are dead.
//!
//! Reminders are each person's own: nobody else sees or changes them. Tags belong to where the task is.

use diesel::{
    QueryDsl as _, QueryableByName,
    dsl::exists,
    sql_types::{Nullable, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    db::{RunQueryDsl as _, Tx, pg_enum, sql},
    error::{Code, Error, Result},
    ids::{ProjectId, TeamId, UserId},
    schema::{sql_types, users},
};

/// The person on whose behalf a row is read or changed.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// Who.
    pub user_id: UserId,
    /// The only project in which they may see or change anything, if their token says so.
    pub project: Option<ProjectId>,
}

impl Viewer {
    /// Refuses a viewer whose token is for one project: this is about more.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn refuse_restricted(self) -> Result<()> {
        match self.project {
            None => Ok(()),
            Some(_) => Err(Error::Forbidden(Code::Forbidden)),
        }
    }
}

pg_enum! {
    /// What a person may do in a project or a team; each role may do what the ones before it may.
    MemberRole: MemberRole {
        /// See.
        Viewer = "viewer",
        /// Make and change tasks.
        Editor = "editor",
        /// Say who is in it, and end it.
        Owner = "owner",
    }
}

/// What a person may do with a task that they see; each right holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// See it, and be reminded of it.
    See,
    /// Say how far it is, and comment on it.
    Work,
    /// Everything else.
    Edit,
}

impl Right {
    /// Of somebody who sees the task, by what they are to it.
    pub fn of(is_owner: bool, is_assignee: bool, role: Option<MemberRole>) -> Self {
        match role {
            _ if is_owner => Self::Edit,
            Some(MemberRole::Editor | MemberRole::Owner) => Self::Edit,
            _ if is_assignee => Self::Work,
            Some(MemberRole::Viewer) | None => Self::See,
        }
    }

    /// Refuses who has less than `needed`.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn allow(self, needed: Self) -> Result<()> {
        if self >= needed { Ok(()) } else { Err(Error::Forbidden(Code::Forbidden)) }
    }
}

impl MemberRole {
    /// Refuses who has less than `needed`.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn allow(self, needed: Self) -> Result<()> {
        if self >= needed { Ok(()) } else { Err(Error::Forbidden(Code::Forbidden)) }
    }
}

#[derive(QueryableByName)]
struct Role {
    #[diesel(sql_type = Nullable<sql_types::MemberRole>)]
    role: Option<MemberRole>,
}

/// The viewer's role in a project; `None` if they do not see it, or there is none.
///
/// # Errors
/// If the database is away.
pub async fn project_role(
    conn: &mut AsyncPgConnection,
    viewer: Viewer,
    project: ProjectId,
) -> Result<Option<MemberRole>> {
    if viewer.project.is_some_and(|only| only != project) {
        return Ok(None);
    }
    let row: Role = sql!(
        "SELECT max(role) AS role FROM project_access WHERE project_id = {project} AND user_id = {user}",
        project: Uuid = project,
        user: Uuid = viewer.user_id,
    )
    .get_result(conn)
    .await?;
    Ok(row.role)
}

/// The viewer's role in a team; `None` if they are not in it, or there is none.
///
/// # Errors
/// If the database is away.
pub async fn team_role(
    conn: &mut AsyncPgConnection,
    viewer: Viewer,
    team: TeamId,
) -> Result<Option<MemberRole>> {
    if viewer.project.is_some() {
        return Ok(None);
    }
    let row: Role = sql!(
        "SELECT max(role) AS role FROM team_members WHERE team_id = {team} AND user_id = {user}",
        team: Uuid = team,
        user: Uuid = viewer.user_id,
    )
    .get_result(conn)
    .await?;
    Ok(row.role)
}

/// Refuses an account that does not exist or is switched off: nobody like that is taken in anywhere.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn refuse_stranger(tx: &mut Tx, user: UserId) -> Result<()> {
    let known = users::table.find(user).filter(users::is_active);
    match diesel::select(exists(known)).get_result(tx.conn()).await? {
        true => Ok(()),
        false => Err(Error::NotFound("account")),
    }
}

/// Which versions a change is meant for (`If-Match`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Whichever is current.
    Any,
    /// One of these: the caller has seen it, and would not overwrite another.
    OneOf(Vec<i32>),
}

/// What has a version, which every change of it raises.
pub trait Versioned {
    /// How its entity tags begin: each resource has another word.
    const TAG: &'static str;

    /// Which version it is.
    fn version(&self) -> i32;

    /// Its entity tag: a strong one (RFC 9110 §8.8.3).
    fn etag(&self) -> String {
        format!("\"{}-{}\"", Self::TAG, self.version())
    }
}

impl Expected {
    /// Refuses a change of `found` that was meant for another version.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub(crate) fn check(&self, found: &impl Versioned) -> Result<()> {
        match self {
            Self::OneOf(versions) if !versions.contains(&found.version()) => {
                Err(Error::Stale { etag: found.etag() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_of_what_a_person_is_decides() {
        let role = |role: Option<MemberRole>| move |owner, assignee| Right::of(owner, assignee, role);
        let (none, viewer) = (role(None), role(Some(MemberRole::Viewer)));
        let (editor, owner) = (role(Some(MemberRole::Editor)), role(Some(MemberRole::Owner)));
        for of in [&none as &dyn Fn(bool, bool) -> Right, &viewer] {
            assert_eq!(
                [of(false, false), of(false, true), of(true, false)],
                [Right::See, Right::Work, Right::Edit]
            );
        }
        for of in [&editor as &dyn Fn(bool, bool) -> Right, &owner] {
            assert_eq!([of(false, false), of(false, true), of(true, true)], [Right::Edit; 3]);
        }
        assert!(Right::Work.allow(Right::Edit).is_err() && Right::Work.allow(Right::See).is_ok());
        assert!(MemberRole::Editor.allow(MemberRole::Owner).is_err());
    }
}
