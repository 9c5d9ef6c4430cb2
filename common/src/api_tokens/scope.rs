use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{PartialSchema, ToSchema};

/// A part of the API that a token can be let into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// Tasks with their tags, recurrence, saved filters and batches.
    Tasks,
    /// Projects and teams.
    Projects,
    /// Reminders and what came of them.
    Reminders,
    /// Comments.
    Comments,
    /// Attachments.
    Attachments,
    /// Webhooks and their deliveries.
    Webhooks,
    /// The account's own settings, except what guards it.
    Profile,
    /// Statistics and reports; to be read only.
    Reports,
}

/// What of an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// GET.
    Read,
    /// The rest.
    Write,
}

/// What a token may do: `tasks:read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Where.
    pub area: Area,
    /// How.
    pub access: Access,
}

impl Area {
    const ALL: [Self; 8] = [
        Self::Tasks,
        Self::Projects,
        Self::Reminders,
        Self::Comments,
        Self::Attachments,
        Self::Webhooks,
        Self::Profile,
        Self::Reports,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Projects => "projects",
            Self::Reminders => "reminders",
            Self::Comments => "comments",
            Self::Attachments => "attachments",
            Self::Webhooks => "webhooks",
            Self::Profile => "profile",
            Self::Reports => "reports",
        }
    }

    /// Whether everything in it belongs to a project or to none, so that a token can be restricted to one.
    pub fn is_of_projects(self) -> bool {
        match self {
            Self::Tasks | Self::Projects | Self::Reminders | Self::Comments | Self::Attachments => true,
            Self::Webhooks | Self::Profile | Self::Reports => false,
        }
    }
}

impl Scope {
    /// Every scope there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let both = |area| [Access::Read, Access::Write].map(|access| Self { area, access });
        let write_reports = Self { area: Area::Reports, access: Access::Write };
        Area::ALL.into_iter().flat_map(both).filter(move |scope| *scope != write_reports)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        write!(f, "{}:{access}", self.area.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::all().find(|scope| scope.to_string() == text).ok_or_else(|| {
            let all: Vec<String> = Self::all().map(|scope| scope.to_string()).collect();
            format!("`{text}` is not one of {}", all.join(", "))
        })
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl PartialSchema for Scope {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::all().map(|scope| scope.to_string())))
            .description(Some("What an API token may do: `read` is for GET, `write` for everything else."))
            .into()
    }
}

impl ToSchema for Scope {
    fn name() -> std::borrow::Cow<'static, str> {
        "Scope".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_is_read_as_it_is_written() {
        let all: Vec<String> = Scope::all().map(|scope| scope.to_string()).collect();
        assert_eq!(all.len(), 15);
        assert!(all.contains(&"tasks:write".to_owned()) && all.contains(&"reports:read".to_owned()));
        for scope in Scope::all() {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        for unknown in ["", "tasks", "tasks:", "tasks:admin", "reports:write", "Tasks:read"] {
            assert!(unknown.parse::<Scope>().unwrap_err().contains("tasks:read"), "{unknown}");
        }
    }
}
