use chrono::{DateTime, Utc};
use diesel::{ExpressionMethods as _, HasQuery, QueryDsl as _, pg::Pg};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{
    db::RunQueryDsl as _,
    error::Result,
    events::EventType,
    ids::{AuditEventId, TaskId, UserId},
    page::{Cursors, Page, Paging},
    schema::audit_events,
    secrets::Key,
};

/// Rows per page if the caller does not say.
const DEFAULT_LIMIT: u16 = 50;

/// Something that was done.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = audit_events, check_for_backend(Pg))]
pub struct AuditEvent {
    /// Its id.
    pub id: AuditEventId,
    /// Rises, with gaps.
    pub seq: i64,
    /// When.
    #[diesel(select_expression = audit_events::happened_at)]
    pub at: DateTime<Utc>,
    /// Who did it; null if it was the system.
    pub actor_id: Option<UserId>,
    /// What they were called then.
    #[schema(example = "ann@example.com")]
    pub actor_label: String,
    /// What happened.
    #[schema(example = "task.updated")]
    pub event_type: String,
    /// What it happened to.
    #[schema(example = "task")]
    pub entity_type: String,
    /// Which one.
    pub entity_id: Option<uuid::Uuid>,
    /// The task that it belongs to.
    pub task_id: Option<TaskId>,
    /// The request that did it.
    pub request_id: Option<String>,
    /// What changed: for each field its old and its new value, or null where values are not told.
    #[schema(value_type = Option<Object>, example = json!({"title": ["Ship it", "Ship it today"]}))]
    pub details: Option<Value>,
}

/// Which acts to list.
#[derive(Debug, Clone, Default, Deserialize, Serialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct AuditFilter {
    /// Only what this person did.
    pub actor_id: Option<UserId>,
    /// Only what happened so.
    #[param(example = "task.updated")]
    pub event_type: Option<String>,
    /// Only what happened to things of this kind.
    #[param(example = "task")]
    pub entity_type: Option<String>,
    /// Only what happened to this one. Of what belongs to a task, ask for the task.
    pub entity_id: Option<uuid::Uuid>,
    /// Only what belongs to this task.
    pub task_id: Option<TaskId>,
    /// Only what happened at this instant or later.
    pub from: Option<DateTime<Utc>>,
    /// Only what happened before this instant.
    pub to: Option<DateTime<Utc>>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = 200)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

impl AuditEvent {
    /// For administrators: without what people wrote. The newest first.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not one of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        filter: &AuditFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let mut page = Self::page(conn, filter, cursor_keys).await?;
        page.data.iter_mut().for_each(Self::hide_contents);
        Ok(page)
    }

    /// For administrators, as [`AuditEvent::list`]: up to `limit` rows with a lower `seq` than `before`.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn before(
        conn: &mut AsyncPgConnection,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Self>> {
        let mut rows = Self::rows(conn, filter, before, limit).await?;
        rows.iter_mut().for_each(Self::hide_contents);
        Ok(rows)
    }

    /// What events tell is its people's own: there, who operates the installation learns which fields changed, and of the
    /// values only whose it is and where.
    fn hide_contents(&mut self) {
        if !EventType::ALL.iter().any(|kind| kind.as_str() == self.event_type) {
            return;
        }
        let fields = self.details.as_mut().and_then(Value::as_object_mut).into_iter().flatten();
        for (_, values) in fields.filter(|(name, _)| !name.ends_with("_id")) {
            *values = Value::Null;
        }
    }

    async fn page(
        conn: &mut AsyncPgConnection,
        filter: &AuditFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let cursors = Cursors::new(cursor_keys, "audit", filter)?;
        let before = filter.cursor.as_deref().map(|cursor| cursors.read::<i64>(cursor)).transpose()?;
        let rows = Self::rows(conn, filter, before, i64::from(limit) + 1).await?;
        Page::of(rows, limit, &cursors, |row: &Self| row.seq)
    }

    async fn rows(
        conn: &mut AsyncPgConnection,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Self>> {
        let mut query = Self::query().into_boxed();
        if let Some(actor) = filter.actor_id {
            query = query.filter(audit_events::actor_id.eq(actor));
        }
        if let Some(name) = &filter.event_type {
            query = query.filter(audit_events::event_type.eq(name));
        }
        if let Some(name) = &filter.entity_type {
            query = query.filter(audit_events::entity_type.eq(name));
        }
        if let Some(id) = filter.entity_id {
            query = query.filter(audit_events::entity_id.eq(id));
        }
        if let Some(id) = filter.task_id {
            query = query.filter(audit_events::task_id.eq(id));
        }
        if let Some(from) = filter.from {
            query = query.filter(audit_events::happened_at.ge(from));
        }
        if let Some(to) = filter.to {
            query = query.filter(audit_events::happened_at.lt(to));
        }
        if let Some(before) = before {
            query = query.filter(audit_events::seq.lt(before));
        }
        Ok(query.order(audit_events::seq.desc()).limit(limit).load(conn).await?)
    }

    /// What happened to a task and to what belongs to it, for those who see it, which is the caller's question. The newest
    /// first.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not one of this list.
    pub async fn of_task(
        conn: &mut AsyncPgConnection,
        task: TaskId,
        paging: &Paging,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let filter = AuditFilter {
            task_id: Some(task),
            cursor: paging.cursor.clone(),
            limit: paging.limit,
            ..AuditFilter::default()
        };
        Self::page(conn, &filter, cursor_keys).await
    }
}
