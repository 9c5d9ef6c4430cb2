use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery as _, QueryDsl as _,
    dsl::{exists, not},
    pg::Pg,
    sql_types::{Bool, Nullable, Timestamptz},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Task, TaskPriority, TaskStatus, due::DueKind, visible_to};
use crate::{
    access::Viewer,
    clock::Now,
    db::{RunQueryDsl as _, sql_condition, sql_expression},
    error::Result,
    ids::TaskId,
    page::{Cursors, Page},
    schema::{tags, task_tags, tasks},
    secrets::Key,
    tags::key,
    users::Person,
    zone,
};

/// One or more values, separated by commas: any of them will do.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(value_type = String)]
pub struct AnyOf<T>(pub Vec<T>);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for AnyOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let values = text.split(',').map(|value| value.trim().parse::<T>().map_err(serde::de::Error::custom));
        values.collect::<Result<_, _>>().map(Self)
    }
}

/// When a task is due, in the caller's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DueFilter {
    /// Open, and the time has passed.
    Overdue,
    /// On the local day.
    Today,
    /// On the next local day.
    Tomorrow,
    /// Today or on one of the six days after it.
    Week,
    /// Not at all.
    None,
}

/// Which tasks a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct TaskFilter {
    /// Any of these, separated by commas.
    #[param(value_type = Option<String>, example = "todo,in_progress")]
    pub status: Option<AnyOf<TaskStatus>>,
    /// Any of these, separated by commas.
    #[param(value_type = Option<String>, example = "high,urgent")]
    pub priority: Option<AnyOf<TaskPriority>>,
    /// Any of these, separated by commas; given again, the task needs one of each.
    #[serde(default)]
    #[param(value_type = Vec<String>)]
    pub tag: Vec<AnyOf<String>>,
    /// Due in the caller's words, in the caller's time zone.
    pub due: Option<DueFilter>,
    /// Due before this instant.
    pub due_before: Option<DateTime<Utc>>,
    /// Due at this instant or later.
    pub due_after: Option<DateTime<Utc>>,
    /// `true`: only what was put away. Otherwise only what was not.
    #[serde(default)]
    pub archived: bool,
    /// `true`: only what lies in the trash. Otherwise only what does not.
    #[serde(default)]
    pub deleted: bool,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing)]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing)]
    #[garde(inner(range(min = 1, max = MAX_LIMIT)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// Rows per page if the caller does not say.
const DEFAULT_LIMIT: u16 = 50;
/// Rows per page at most.
const MAX_LIMIT: u16 = 200;

sql_expression! {
    /// What is closed comes after what is open.
    Closed on tasks: Bool = "(tasks.status IN ('done', 'cancelled'))"
}

sql_expression! {
    /// The due date as a sort key: what has none comes last.
    DueKey on tasks: Timestamptz = "coalesce(tasks.due_at, 'infinity')"
}

/// The sort keys of a row, as a cursor holds them.
#[derive(Serialize, Deserialize)]
struct After {
    closed: bool,
    due_at: Option<DateTime<Utc>>,
    priority: TaskPriority,
    id: TaskId,
}

impl Task {
    /// A page of what `viewer` may see, in the default order: open before closed, then by due date, so that what is
    /// overdue comes first, then by priority, then by age.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        now: Now,
        filter: &TaskFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let cursors = Cursors::new(cursor_keys, "tasks", filter)?;
        let after = filter.cursor.as_deref().map(|cursor| cursors.read::<After>(cursor)).transpose()?;

        let mut query = Self::query().filter(visible_to(viewer.user_id)).into_boxed::<Pg>();
        query = if filter.deleted {
            query.filter(tasks::deleted_at.is_not_null())
        } else if filter.archived {
            query.filter(tasks::deleted_at.is_null()).filter(tasks::archived_at.is_not_null())
        } else {
            query.filter(tasks::deleted_at.is_null()).filter(tasks::archived_at.is_null())
        };
        if let Some(AnyOf(status)) = &filter.status {
            query = query.filter(tasks::status.eq_any(status.clone()));
        }
        if let Some(AnyOf(priority)) = &filter.priority {
            query = query.filter(tasks::priority.eq_any(priority.clone()));
        }
        for AnyOf(names) in &filter.tag {
            let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
            query = query.filter(exists(
                task_tags::table
                    .inner_join(tags::table)
                    .filter(task_tags::task_id.eq(tasks::id))
                    .filter(tags::name_key.eq_any(keys)),
            ));
        }
        if let Some(instant) = filter.due_before {
            query = query.filter(tasks::due_at.lt(instant));
        }
        if let Some(instant) = filter.due_after {
            query = query.filter(tasks::due_at.ge(instant));
        }
        if let Some(due) = filter.due {
            let person = Person::load(conn, viewer.user_id, now).await?;
            let today = zone::local_date(person.now, person.zone);
            let days = match due {
                DueFilter::Today => Some((today, today)),
                DueFilter::Tomorrow => Some((today + Duration::days(1), today + Duration::days(1))),
                DueFilter::Week => Some((today, today + Duration::days(6))),
                DueFilter::Overdue | DueFilter::None => None,
            };
            query = match (due, days) {
                (DueFilter::None, _) => query.filter(tasks::due_kind.is_null()),
                (_, None) => query.filter(tasks::due_at.le(person.now)).filter(not(Closed)),
                (_, Some((first, last))) => {
                    // A zoned time belongs to the local day on which its instant falls; the others name their day.
                    let zoned = tasks::due_kind
                        .eq(DueKind::Zoned)
                        .and(tasks::due_at.ge(zone::start_of_day(first, person.zone)))
                        .and(tasks::due_at.lt(zone::end_of_day(last, person.zone)));
                    let named = tasks::due_kind.ne(DueKind::Zoned).and(tasks::due_date.between(first, last));
                    query.filter(zoned.or(named))
                }
            };
        }
        if let Some(after) = after {
            // The comparison of pairs is what the index can begin at; `priority` falls while the others rise.
            query = query.filter(sql_condition!(
                "((tasks.status IN ('done', 'cancelled')), coalesce(tasks.due_at, 'infinity')) >= ({closed}, coalesce({due_at}, 'infinity'))
                 AND (((tasks.status IN ('done', 'cancelled')), coalesce(tasks.due_at, 'infinity')) > ({closed}, coalesce({due_at}, 'infinity'))
                      OR tasks.priority < {priority} OR (tasks.priority = {priority} AND tasks.id > {id}))",
                closed: Bool = after.closed,
                due_at: Nullable<Timestamptz> = after.due_at,
                priority: crate::schema::sql_types::TaskPriority = after.priority,
                id: diesel::sql_types::Uuid = after.id,
            ));
        }
        let rows = query
            .order((Closed.asc(), DueKey.asc(), tasks::priority.desc(), tasks::id.asc()))
            .limit(i64::from(limit) + 1)
            .load(conn)
            .await?;
        Page::of(rows, limit, &cursors, |task: &Self| After {
            closed: !task.status.is_open(),
            due_at: task.due.at(),
            priority: task.priority,
            id: task.id,
        })
    }
}
