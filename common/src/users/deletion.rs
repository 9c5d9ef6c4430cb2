use chrono::{DateTime, Duration, Utc};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};

use super::{User, UserRole, admin};
use crate::{
    access::Viewer,
    db::{RunQueryDsl as _, Tx},
    error::{Error, Result},
    ids::UserId,
    jobs::{Job as _, Letter, SendMail},
    schema::users,
};

/// For so long the deletion of an account can be taken back.
pub const DELETION_GRACE: Duration = Duration::days(7);

impl User {
    /// Asks for the deletion of the viewer's account, and answers when it will happen. Asking again changes nothing. The
    /// owner is told by mail, for whoever asks need not be them.
    ///
    /// # Errors
    /// [`Error::Conflict`] if nobody would be an administrator any more.
    pub async fn request_deletion(tx: &mut Tx, viewer: Viewer) -> Result<DateTime<Utc>> {
        let admins = admin::lock_admins(tx).await?;
        let now: DateTime<Utc> = diesel::select(tx.clock().now()).get_result(tx.conn()).await?;
        let (role, requested_at): (UserRole, Option<DateTime<Utc>>) = users::table
            .find(viewer.user_id)
            .select((users::role, users::deletion_requested_at))
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))?;
        if let Some(requested_at) = requested_at {
            return Ok(requested_at + DELETION_GRACE);
        }
        if role == UserRole::Admin && admins == [viewer.user_id] {
            return Err(admin::last_admin());
        }
        diesel::update(users::table.find(viewer.user_id))
            .set((
                users::deletion_requested_at.eq(now),
                users::version.eq(users::version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        SendMail { user_id: viewer.user_id, letter: Letter::DeletionRequested {} }.enqueue(tx).await?;
        tracing::info!(user.id = %viewer.user_id, "the deletion of an account was asked for");
        Ok(now + DELETION_GRACE)
    }

    /// Takes the deletion of an account back, if it was asked for.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn keep(tx: &mut Tx, id: UserId) -> Result<()> {
        let now = tx.clock().now();
        let kept = diesel::update(users::table.find(id))
            .filter(users::deletion_requested_at.is_not_null())
            .filter(users::is_active)
            .set((
                users::deletion_requested_at.eq(None::<DateTime<Utc>>),
                users::version.eq(users::version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        if kept > 0 {
            tracing::info!(user.id = %id, "the deletion of an account was taken back");
        }
        Ok(())
    }
}

/// Begins the deletion of at most `limit` accounts whose grace is over: they are switched off, so that nobody logs in to
/// half an account, and stay so until they are gone. Answers which are to be deleted, those begun earlier included.
///
/// # Errors
/// If the database is away.
pub async fn due_for_deletion(tx: &mut Tx, limit: i64) -> Result<Vec<UserId>> {
    let now: DateTime<Utc> = diesel::select(tx.clock().now()).get_result(tx.conn()).await?;
    let due: Vec<UserId> = users::table
        .filter(users::deletion_requested_at.le(now - DELETION_GRACE))
        .order(users::id)
        .limit(limit)
        .select(users::id)
        .for_no_key_update()
        .skip_locked()
        .load(tx.conn())
        .await?;
    diesel::update(users::table.filter(users::id.eq_any(&due)).filter(users::is_active))
        .set((users::is_active.eq(false), users::version.eq(users::version + 1), users::updated_at.eq(now)))
        .execute(tx.conn())
        .await?;
    Ok(due)
}
