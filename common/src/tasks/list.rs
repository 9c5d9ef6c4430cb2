use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery as _, QueryDsl as _,
    dsl::{exists, not},
    pg::Pg,
    sql_types::{Bool, Double, Nullable, Timestamptz},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::{Task, TaskPriority, TaskStatus, due::DueKind, visible_to};
use crate::{
    access::Viewer,
    clock::Now,
    db::{RunQueryDsl as _, sql_condition, sql_expression},
    error::{Code, Error, FieldError, Result},
    ids::{ProjectId, TaskId, UserId},
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

/// Who does a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssigneeFilter {
    /// The viewer.
    Me,
    /// Nobody in particular.
    None,
    /// This person.
    Person(UserId),
}

impl FromStr for AssigneeFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "me" => Ok(Self::Me),
            "none" => Ok(Self::None),
            id => id
                .parse()
                .map(Self::Person)
                .map_err(|_| "it is `me`, `none` or the id of a person".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for AssigneeFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for AssigneeFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Me => serializer.serialize_str("me"),
            Self::None => serializer.serialize_str("none"),
            Self::Person(id) => id.serialize(serializer),
        }
    }
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
    /// Words that its title or description has, `"some words"` next to each other; `-word` for one that it has not.
    #[garde(inner(length(chars, min = 1, max = 200)))]
    #[param(min_length = 1, max_length = 200, example = "printer -toner")]
    pub q: Option<String>,
    /// Only what is in this project. A project that is archived shows its tasks in no other way.
    pub project_id: Option<ProjectId>,
    /// Who does it: `me`, `none`, or a person's id.
    #[param(value_type = Option<String>, example = "me")]
    pub assignee: Option<AssigneeFilter>,
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
    /// Only what is part of this task, one level below it.
    pub parent_id: Option<TaskId>,
    /// The order: `due` if absent.
    #[serde(default)]
    #[param(inline)]
    pub sort: Sort,
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
    /// The bits of the position: JSON would round it.
    position: u64,
    updated_at: DateTime<Utc>,
    id: TaskId,
}

/// Some tasks, by their ids.
type Ids<'a> = tasks::BoxedQuery<'a, Pg, diesel::sql_types::Uuid>;

impl Task {
    /// A page of what `viewer` may see, by default what is open before what is closed, then by due date, so that what is
    /// overdue comes first, then by priority, then by age.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        viewer: Viewer,
        now: Now,
        filter: &TaskFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let rows = i64::from(limit) + 1;
        let cursors = Cursors::new(cursor_keys, "tasks", filter)?;
        let after = filter.cursor.as_deref().map(|cursor| cursors.read::<After>(cursor)).transpose()?;
        let person = match filter.due {
            Some(_) => Some(Person::load(conn, viewer.user_id, now).await?),
            None => None,
        };
        let wanted = || {
            let ids = filter.narrow(viewer, person.as_ref(), after.as_ref());
            match filter.sort {
                Sort::Due => ids.order((Closed.asc(), DueKey.asc(), tasks::priority.desc(), tasks::id.asc())),
                Sort::Position => ids.order((tasks::position.asc(), tasks::id.asc())),
                Sort::Newest => ids.order(tasks::id.desc()),
                Sort::Changed => ids.order((tasks::updated_at.desc(), tasks::id.desc())),
            }
            .limit(rows)
        };
        let query = Self::query().into_boxed::<Pg>();
        let query = match filter.project_id.or(viewer.project) {
            _ if filter.sort != Sort::Due => {
                query.filter(sql_condition!("tasks.id IN ({wanted})", wanted = wanted().filter(visible_to(viewer))))
            }
            Some(project) => query.filter(sql_condition!(
                "tasks.id IN ({wanted})",
                wanted = wanted().filter(tasks::project_id.eq(project)).filter(visible_to(viewer)),
            )),
            // The first rows of each of the ways in which one sees a task, each of which is the beginning of an index.
            None => query.filter(sql_condition!(
                "tasks.id IN (({own}) UNION ALL ({assigned}) UNION ALL
                     (SELECT shared.id FROM (SELECT DISTINCT a.project_id FROM project_access a WHERE a.user_id = {viewer}) mine
                      CROSS JOIN LATERAL ({shared}) shared))",
                own = wanted().filter(tasks::owner_id.eq(viewer.user_id)),
                assigned = wanted().filter(tasks::assignee_id.eq(viewer.user_id)),
                viewer: diesel::sql_types::Uuid = viewer.user_id,
                shared = wanted().filter(sql_condition!("tasks.project_id = mine.project_id")),
            )),
        };
        let query = match filter.sort {
            Sort::Due => query.order((Closed.asc(), DueKey.asc(), tasks::priority.desc(), tasks::id.asc())),
            Sort::Position => query.order((tasks::position.asc(), tasks::id.asc())),
            Sort::Newest => query.order(tasks::id.desc()),
            Sort::Changed => query.order((tasks::updated_at.desc(), tasks::id.desc())),
        };
        let tasks = query.limit(rows).load(conn).await?;
        let tasks = tasks.into_iter().map(|task: Self| task.seen_by(viewer)).collect();
        Page::of(tasks, limit, &cursors, |task: &Self| After {
            closed: !task.status.is_open(),
            due_at: task.due.at(),
            priority: task.priority,
            position: task.position.to_bits(),
            updated_at: task.updated_at,
            id: task.id,
        })
    }
}

impl TaskFilter {
    /// The same list of one project.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the filter names another one.
    pub fn within(self, project: ProjectId) -> Result<Self> {
        match self.project_id {
            Some(other) if other != project => {
                let detail = "The path names another project.";
                Err(Error::Malformed(FieldError::parameter("project_id", Code::MalformedParameter, detail)))
            }
            _ => Ok(Self { project_id: Some(project), ..self }),
        }
    }

    /// All that the filter says, but not who may see it.
    fn narrow<'a>(&self, viewer: Viewer, person: Option<&Person>, after: Option<&After>) -> Ids<'a> {
        let mut query = tasks::table.select(tasks::id).into_boxed::<Pg>();
        query = if self.deleted {
            query.filter(tasks::deleted_at.is_not_null())
        } else if self.archived {
            query.filter(tasks::deleted_at.is_null()).filter(tasks::archived_at.is_not_null())
        } else {
            query.filter(tasks::deleted_at.is_null()).filter(tasks::archived_at.is_null())
        };
        if let Some(project) = self.project_id {
            query = query.filter(tasks::project_id.eq(project));
        } else if !self.deleted {
            query = query.filter(sql_condition!(
                "(tasks.project_id IS NULL OR NOT EXISTS
                     (SELECT FROM projects p WHERE p.id = tasks.project_id AND p.archived_at IS NOT NULL))"
            ));
        }
        if let Some(AnyOf(status)) = &self.status {
            query = query.filter(tasks::status.eq_any(status.clone()));
        }
        if let Some(AnyOf(priority)) = &self.priority {
            query = query.filter(tasks::priority.eq_any(priority.clone()));
        }
        for AnyOf(names) in &self.tag {
            let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
            query = query.filter(exists(
                task_tags::table
                    .inner_join(tags::table)
                    .filter(task_tags::task_id.eq(tasks::id))
                    .filter(tags::name_key.eq_any(keys)),
            ));
        }
        query = match self.assignee {
            None => query,
            Some(AssigneeFilter::None) => query.filter(tasks::assignee_id.is_null()),
            Some(AssigneeFilter::Me) => query.filter(tasks::assignee_id.eq(viewer.user_id)),
            Some(AssigneeFilter::Person(person)) => query.filter(tasks::assignee_id.eq(person)),
        };
        if let Some(words) = &self.q {
            query = query.filter(sql_condition!(
                "tasks.search @@ websearch_to_tsquery('simple', {words})",
                words: diesel::sql_types::Text = words.clone(),
            ));
        }
        if let Some(parent) = self.parent_id {
            query = query.filter(tasks::parent_id.eq(parent));
        }
        if let Some(instant) = self.due_before {
            query = query.filter(tasks::due_at.lt(instant));
        }
        if let Some(instant) = self.due_after {
            query = query.filter(tasks::due_at.ge(instant));
        }
        if let Some((due, person)) = self.due.zip(person) {
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
        match (after, self.sort) {
            (Some(after), sort) => after.begin(query, sort),
            (None, _) => query,
        }
    }
}

impl After {
    /// What comes after it.
    fn begin<'a>(&self, query: Ids<'a>, sort: Sort) -> Ids<'a> {
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
