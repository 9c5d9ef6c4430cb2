//! Comments: what people say about a task. A comment can be mended for a while and deleted at any time; what was deleted
//! leaves an empty place, so that the others can still be followed.

use chrono::{DateTime, Duration, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, NullableExpressionMethods as _, OptionalExtension as _, QueryDsl as _,
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access::{Expected, MemberRole, Right, Versioned, Viewer, project_role},
    db::{RunQueryDsl as _, Tx},
    error::{Code, Coded, Error, Result},
    events::{self, Changes, EventType, NewEvent},
    ids::{CommentId, TaskId, UserId},
    page::{Cursors, Page, Paging},
    schema::{comments, tasks},
    secrets::Key,
    tasks::{Task, TaskData, visible_to},
    users::Person,
};

/// For how long its author may change a comment: long enough for a slip, and too short to rewrite what was answered.
pub const EDIT_WINDOW: Duration = Duration::minutes(15);
/// Bytes of a comment at most.
const MAX_BODY: usize = 32_768;
/// Characters of a comment that events tell.
const EXCERPT: usize = 500;

/// A comment as everyone who sees its task sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = comments, check_for_backend(diesel::pg::Pg))]
pub struct Comment {
    /// Its id.
    pub id: CommentId,
    /// What it is about.
    pub task_id: TaskId,
    /// Who said it; null if the account is gone.
    pub author_id: Option<UserId>,
    /// What they said; empty if it was deleted.
    #[schema(example = "The printer is out of paper.")]
    pub body: String,
    /// When it was last changed.
    pub edited_at: Option<DateTime<Utc>>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
    /// When it was said.
    pub created_at: DateTime<Utc>,
}

/// What a client says, at first or in the place of what it said.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"body": "The printer is out of paper."}))]
pub struct CommentBody {
    /// What is said, at most 32 KiB.
    #[garde(custom(is_body))]
    #[schema(min_length = 1, max_length = 32768, example = "The printer is out of paper.")]
    pub body: String,
}

#[expect(clippy::ptr_arg, reason = "garde hands on what the field holds")]
fn is_body(text: &String, (): &()) -> garde::Result {
    if !text.trim().is_empty() && text.len() <= MAX_BODY {
        Ok(())
    } else {
        Err(garde::Error::new(Coded(Code::InvalidLength, "A comment is not empty, and has 32 KiB at most.")))
    }
}

/// What events tell of a comment.
#[derive(Debug, Serialize)]
pub struct CommentData<'a> {
    id: CommentId,
    task_id: TaskId,
    author_id: Option<UserId>,
    version: i32,
    excerpt: &'a str,
}

fn missing() -> Error {
    Error::NotFound("comment")
}

impl Versioned for Comment {
    const TAG: &str = "c";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Comment {
    /// Says something about a task.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see the task, [`Error::Forbidden`] if they only see it,
    /// [`Error::Conflict`] if it lies in the trash.
    pub async fn create(tx: &mut Tx, viewer: Viewer, task: TaskId, new: &CommentBody) -> Result<Self> {
        let task = Task::lock(tx, viewer, task, &Expected::Any, Right::Work).await?;
        task.refuse_in_trash()?;
        let (id, now) = (CommentId::new(), tx.clock().now());
        diesel::insert_into(comments::table)
            .values((
                (comments::id.eq(id), comments::task_id.eq(task.id), comments::author_id.eq(viewer.user_id)),
                (comments::body.eq(&new.body), comments::created_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        let comment = Self::load(tx, id).await?;
        comment.record(tx, viewer, &task, EventType::CommentCreated, None).await?;
        Ok(comment)
    }

    /// A page of what was said about a task, the oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer does not see the task, [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        task: TaskId,
        paging: &Paging,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let cursors = Cursors::new(cursor_keys, "comments", &task)?;
        let seen = tasks::table.filter(tasks::id.eq(task)).filter(visible_to(viewer)).select(tasks::id);
        seen.first::<TaskId>(conn).await.optional()?.ok_or(Error::NotFound("task"))?;
        let mut query = Self::query().filter(comments::task_id.eq(task)).into_boxed::<diesel::pg::Pg>();
        if let Some(cursor) = &paging.cursor {
            query = query.filter(comments::id.gt(cursors.read::<CommentId>(cursor)?));
        }
        let rows = query.order(comments::id).limit(i64::from(paging.limit()) + 1).load(conn).await?;
        Page::of(rows, paging.limit(), &cursors, |comment: &Self| comment.id)
    }

    /// One comment.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none on a task that the viewer sees.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: CommentId) -> Result<Self> {
        let seen = tasks::table.filter(visible_to(viewer)).filter(tasks::id.eq(comments::task_id));
        let found = Self::query().filter(comments::id.eq(id)).filter(diesel::dsl::exists(seen));
        found.first(conn).await.optional()?.ok_or_else(missing)
    }

    /// Says it in other words; only its author may, for [`EDIT_WINDOW`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] if it is somebody else's, [`Error::Stale`], [`Error::Conflict`] if it is too
    /// old or was deleted.
    pub async fn change(
        tx: &mut Tx,
        viewer: Viewer,
        id: CommentId,
        expected: &Expected,
        new: &CommentBody,
    ) -> Result<Self> {
        let (task, before) = Self::lock(tx, viewer, id).await?;
        if before.author_id != Some(viewer.user_id) {
            return Err(Error::Forbidden(Code::Forbidden));
        }
        expected.check(&before)?;
        let now = tx.clock().now();
        let person = Person::load(tx.conn(), viewer.user_id, now).await?;
        if before.deleted_at.is_some() || person.now > before.created_at + EDIT_WINDOW {
            return Err(Error::conflict(Code::CommentSettled, Code::CommentSettled.help()));
        }
        diesel::update(comments::table.find(id))
            .set((
                comments::body.eq(&new.body),
                comments::edited_at.eq(now.nullable()),
                comments::version.eq(before.version + 1),
            ))
            .execute(tx.conn())
            .await?;
        let after = Self::load(tx, id).await?;
        after.record(tx, viewer, &task, EventType::CommentUpdated, Some("body")).await?;
        Ok(after)
    }

    /// Deletes it: what it said is gone, that something was said is not. Its author may, whose task it is, and the owners
    /// of the task's project. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`], [`Error::Stale`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: CommentId, expected: &Expected) -> Result<()> {
        let (task, before) = Self::lock(tx, viewer, id).await?;
        if ![before.author_id, Some(task.owner_id)].contains(&Some(viewer.user_id)) {
            let role = match task.project_id {
                Some(project) => project_role(tx.conn(), viewer, project).await?,
                None => None,
            };
            role.ok_or(Error::Forbidden(Code::Forbidden))?.allow(MemberRole::Owner)?;
        }
        expected.check(&before)?;
        if before.deleted_at.is_some() {
            return Ok(());
        }
        let now = tx.clock().now();
        diesel::update(comments::table.find(id))
            .set((
                comments::body.eq(""),
                comments::deleted_at.eq(now.nullable()),
                comments::version.eq(before.version + 1),
            ))
            .execute(tx.conn())
            .await?;
        let after = Self::load(tx, id).await?;
        after.record(tx, viewer, &task, EventType::CommentDeleted, None).await
    }

    /// The comment as it stands, locked, and its task.
    async fn lock(tx: &mut Tx, viewer: Viewer, id: CommentId) -> Result<(Task, Self)> {
        let task = Self::find(tx.conn(), viewer, id).await?.task_id;
        // The task first, as everywhere: then nobody takes the viewer's right away meanwhile.
        let task = Task::lock(tx, viewer, task, &Expected::Any, Right::See).await?;
        let comment = Self::query().filter(comments::id.eq(id)).for_no_key_update();
        Ok((task, comment.first(tx.conn()).await.optional()?.ok_or_else(missing)?))
    }

    async fn load(tx: &mut Tx, id: CommentId) -> Result<Self> {
        Ok(Self::query().filter(comments::id.eq(id)).first(tx.conn()).await?)
    }

    async fn record(
        &self,
        tx: &mut Tx,
        viewer: Viewer,
        task: &Task,
        kind: EventType,
        changed: Option<&str>,
    ) -> Result<()> {
        let end = self.body.char_indices().nth(EXCERPT).map_or(self.body.len(), |(at, _)| at);
        let data = CommentData {
            id: self.id,
            task_id: self.task_id,
            author_id: self.author_id,
            version: self.version,
            excerpt: self.body.get(..end).unwrap_or_default(),
        };
        let mut event = NewEvent::new(kind, TaskData::from(task).about(), &data)?.by(viewer);
        if let Some(field) = changed {
            event = event.changing(Changes::from_iter([(field.to_owned(), serde_json::Value::Null)]));
        }
        events::record(tx, event).await
    }
}
