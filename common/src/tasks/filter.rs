use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _,
    dsl::{exists, not},
};
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::{
    TaskPriority, TaskStatus,
    due::DueKind,
    list::{Closed, Rows, Sort},
    view::{Include, TaskField, TaskView},
};
use crate::{
    access::Viewer,
    db::sql_condition,
    error::{Code, Error, FieldError, Result},
    ids::{ProjectId, TaskId, UserId},
    schema::{tags, task_tags, tasks},
    tags::key,
    users::Person,
    zone::{self, Zone},
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
    /// Due in the caller's words, in the caller's time zone or that of `tz`.
    #[param(inline)]
    pub due: Option<DueFilter>,
    /// The time zone in which `due` is meant, such as `Europe/Berlin`.
    #[param(value_type = Option<String>, example = "Europe/Berlin")]
    pub tz: Option<Zone>,
    /// Due before this instant.
    pub due_before: Option<DateTime<Utc>>,
    /// Due at this instant or later.
    pub due_after: Option<DateTime<Utc>>,
    /// Finished at this instant or later.
    pub completed_after: Option<DateTime<Utc>>,
    /// Changed at this instant or later.
    pub updated_since: Option<DateTime<Utc>>,
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
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = MAX_LIMIT)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
    /// Instead of `cursor` and `limit`: the number of a page, from 1. The answer counts all tasks, which takes time with
    /// many; a cursor is never slow.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = MAX_NUMBER)))]
    #[param(minimum = 1, maximum = 10000)]
    pub page: Option<u32>,
    /// Rows per page with `page`, 1 to 100.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = MAX_PER_PAGE)))]
    #[param(minimum = 1, maximum = 100, default = 50)]
    pub per_page: Option<u16>,
    /// As of a single task.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[param(value_type = Option<String>, example = "title,due")]
    pub fields: Option<AnyOf<TaskField>>,
    /// As of a single task.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[param(value_type = Option<String>, example = "project,assignee")]
    pub include: Option<AnyOf<Include>>,
}

/// Rows per page at most.
const MAX_LIMIT: u16 = 200;
/// Rows per numbered page at most.
const MAX_PER_PAGE: u16 = 100;
/// What lies behind so many pages is found by other means.
const MAX_NUMBER: u32 = 10_000;

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

    /// The number of the page and its size, if it is asked for by number.
    pub(super) fn numbered(&self) -> Result<Option<(u32, u16)>> {
        if self.page.is_none() && self.per_page.is_none() {
            return Ok(None);
        }
        if self.cursor.is_some() || self.limit.is_some() {
            let detail = "`page` and `per_page` go without `cursor` and `limit`.";
            return Err(Error::Malformed(FieldError::parameter("page", Code::MalformedParameter, detail)));
        }
        Ok(Some((self.page.unwrap_or(1), self.per_page.unwrap_or(50))))
    }

    /// How much of each task is wanted.
    pub(super) fn view(&self) -> TaskView {
        TaskView { fields: self.fields.clone(), include: self.include.clone() }
    }

    /// All that the filter says, but not who may see it.
    pub(super) fn narrow<'a>(&self, viewer: Viewer, person: Option<&Person>) -> Rows<'a> {
        let mut query = tasks::table.into_boxed();
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
        if let Some(instant) = self.completed_after {
            query = query.filter(tasks::completed_at.ge(instant));
        }
        if let Some(instant) = self.updated_since {
            query = query.filter(tasks::updated_at.ge(instant));
        }
        if let Some((due, person)) = self.due.zip(person) {
            let tz = self.tz.as_ref().map_or(person.zone, Zone::tz);
            let today = zone::local_date(person.now, tz);
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
                        .and(tasks::due_at.ge(zone::start_of_day(first, tz)))
                        .and(tasks::due_at.lt(zone::end_of_day(last, tz)));
                    let named = tasks::due_kind.ne(DueKind::Zoned).and(tasks::due_date.between(first, last));
                    query.filter(zoned.or(named))
                }
            };
        }
        query
    }
}
