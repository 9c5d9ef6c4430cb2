use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery as _, PgExpressionMethods as _, QueryDsl as _,
    dsl::count_star,
    pg::Pg,
    query_builder::QueryFragment,
    sql_types::{Bool, Double, Nullable, Timestamptz},
};
use diesel_async::AsyncPgConnection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Task, TaskFilter, TaskPriority, view::ShownTask, visible_to};
use crate::{
    access::Viewer,
    clock::Now,
    db::{Among, RunQueryDsl as _, sql, sql_condition, sql_expression},
    error::Result,
    ids::TaskId,
    page::{Cursors, Page, PageInfo, PageNumber},
    schema::tasks,
    secrets::Key,
    users::Person,
};

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Sort {
    /// Open before closed, then by due date, by priority, by age.
    #[default]
    #[serde(rename = "due")]
    Due,
    /// As people have put them.
    #[serde(rename = "position")]
    Position,
    /// The newest first.
    #[serde(rename = "-created_at")]
    Newest,
    /// What changed last first.
    #[serde(rename = "-updated_at")]
    Changed,
}

/// Rows per page if the caller does not say.
const DEFAULT_LIMIT: u16 = 50;

sql_expression! {
    /// What is closed comes after what is open.
    pub(super) Closed on tasks: Bool = "(tasks.status IN ('done', 'cancelled'))"
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
    /// The bits of the position: JSON would round it.
    position: u64,
    updated_at: DateTime<Utc>,
    id: TaskId,
}

/// Some tasks.
pub(super) type Rows<'a> = tasks::BoxedQuery<'a, Pg>;

fn sorted<'a, T>(query: tasks::BoxedQuery<'a, Pg, T>, sort: Sort) -> tasks::BoxedQuery<'a, Pg, T> {
    match sort {
        Sort::Due => query.order((Closed.asc(), DueKey.asc(), tasks::priority.desc(), tasks::id.asc())),
        Sort::Position => query.order((tasks::position.asc(), tasks::id.asc())),
        Sort::Newest => query.order(tasks::id.desc()),
        Sort::Changed => query.order((tasks::updated_at.desc(), tasks::id.desc())),
    }
}

/// A page of tasks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskPage {
    /// The tasks, as `fields` and `include` say.
    pub data: Vec<ShownTask>,
    /// Where the page stands in the list.
    pub page: TaskPageInfo,
}

/// Where a page of tasks stands in the list.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TaskPageInfo {
    /// Of a list that goes on from a cursor.
    Cursor(PageInfo),
    /// Of a list whose pages have numbers.
    Number(PageNumber),
}

impl Task {
    /// A page of what `viewer` may see, by default what is open before what is closed, then by due date, so that what is
    /// overdue comes first, then by priority, then by age.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::error::Error::Malformed) if the cursor is not of this list, or the filter asks for a
    /// page in two ways.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        now: Now,
        filter: &TaskFilter,
        cursor_keys: &[Key],
    ) -> Result<TaskPage> {
        let person = match filter.due {
            Some(_) => Some(Person::load(conn, viewer.user_id, now).await?),
            None => None,
        };
        let (tasks, page) = match filter.numbered()? {
            Some((number, per_page)) => {
                let total =
                    filter.narrow(viewer, person.as_ref()).filter(visible_to(viewer)).select(count_star());
                let page = PageNumber::new(number, per_page, total.first(conn).await?);
                let part = Part { after: None, skip: page.skip(), rows: i64::from(per_page) };
                (part.read(conn, viewer, filter, person.as_ref()).await?, TaskPageInfo::Number(page))
            }
            None => {
                let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
                let cursors = Cursors::new(cursor_keys, "tasks", filter)?;
                let after = filter.cursor.as_deref().map(|cursor| cursors.read(cursor)).transpose()?;
                let part = Part { after, skip: 0, rows: i64::from(limit) + 1 };
                let rows = part.read(conn, viewer, filter, person.as_ref()).await?;
                let Page { data, page } = Page::of(rows, limit, &cursors, After::of)?;
                (data, TaskPageInfo::Cursor(page))
            }
        };
        Ok(TaskPage { data: filter.view().show(conn, viewer, tasks).await?, page })
    }
}

/// Which part of a list.
struct Part {
    after: Option<After>,
    skip: i64,
    rows: i64,
}

impl Part {
    async fn read(
        &self,
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        filter: &TaskFilter,
        person: Option<&Person>,
    ) -> Result<Vec<Task>> {
        let wanted = || {
            let rows = filter.narrow(viewer, person);
            let rows = match &self.after {
                Some(after) => after.begin(rows, filter.sort),
                None => rows,
            };
            sorted(rows, filter.sort).limit(self.skip + self.rows)
        };
        let rows: Box<dyn QueryFragment<Pg> + Send + '_> = match filter.project_id.or(viewer.project) {
            _ if filter.sort != Sort::Due => Box::new(wanted().filter(visible_to(viewer))),
            Some(project) => {
                Box::new(wanted().filter(tasks::project_id.eq(project)).filter(visible_to(viewer)))
            }
            // The first rows of each of the ways in which one sees a task, each of which is the beginning of an index.
            None => {
                let is_other = || wanted().filter(tasks::owner_id.ne(viewer.user_id));
                let is_others = tasks::assignee_id.is_distinct_from(Some(viewer.user_id));
                Box::new(sql!(
                    "({own}) UNION ALL ({assigned}) UNION ALL
                     (SELECT shared.* FROM unnest(projects_of({viewer})) mine (project_id) CROSS JOIN LATERAL ({shared}) shared)",
                    own = wanted().filter(tasks::owner_id.eq(viewer.user_id)),
                    assigned = is_other().filter(tasks::assignee_id.eq(viewer.user_id)),
                    viewer: diesel::sql_types::Uuid = viewer.user_id,
                    shared = is_other().filter(is_others).filter(sql_condition!("tasks.project_id = mine.project_id")),
                ))
            }
        };
        let query = sorted(Task::query().into_boxed(), filter.sort).offset(self.skip).limit(self.rows);
        let tasks = Among { table: "tasks", rows, query }.load(conn).await?;
        Ok(tasks.into_iter().map(|task: Task| task.seen_by(viewer)).collect())
    }
}

impl After {
    /// The keys of a row.
    fn of(task: &Task) -> Self {
        Self {
            closed: !task.status.is_open(),
            due_at: task.due.at(),
            priority: task.priority,
            position: task.position.to_bits(),
            updated_at: task.updated_at,
            id: task.id,
        }
    }

    /// What comes after it.
    fn begin<'a>(&self, query: Rows<'a>, sort: Sort) -> Rows<'a> {
        match sort {
            // The comparison of pairs is what the index can begin at; `priority` falls while the others rise.
            Sort::Due => query.filter(sql_condition!(
                "((tasks.status IN ('done', 'cancelled')), coalesce(tasks.due_at, 'infinity')) >= ({closed}, coalesce({due_at}, 'infinity'))
                 AND (((tasks.status IN ('done', 'cancelled')), coalesce(tasks.due_at, 'infinity')) > ({closed}, coalesce({due_at}, 'infinity'))
                      OR tasks.priority < {priority} OR (tasks.priority = {priority} AND tasks.id > {id}))",
                closed: Bool = self.closed,
                due_at: Nullable<Timestamptz> = self.due_at,
                priority: crate::schema::sql_types::TaskPriority = self.priority,
                id: diesel::sql_types::Uuid = self.id,
            )),
            Sort::Position => query.filter(sql_condition!(
                "(tasks.position, tasks.id) > ({position}, {id})",
                position: Double = f64::from_bits(self.position),
                id: diesel::sql_types::Uuid = self.id,
            )),
            Sort::Newest => query.filter(tasks::id.lt(self.id)),
            Sort::Changed => query.filter(sql_condition!(
                "(tasks.updated_at, tasks.id) < ({updated_at}, {id})",
                updated_at: Timestamptz = self.updated_at,
                id: diesel::sql_types::Uuid = self.id,
            )),
        }
    }
}
