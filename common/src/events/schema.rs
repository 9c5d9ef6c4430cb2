use serde_json::{Value, json};

use super::EventType;
use crate::tasks::{DueKind, TaskPriority, TaskStatus};

impl EventType {
    /// The JSON Schema (2020-12) of what receivers get.
    pub fn schema(self) -> Value {
        let data = match self {
            Self::TaskCreated
            | Self::TaskUpdated
            | Self::TaskCompleted
            | Self::TaskReopened
            | Self::TaskDeleted
            | Self::TaskRestored
            | Self::TaskArchived
            | Self::TaskAssigned => task(),
            Self::ReminderFired => {
                let mut data = task();
                data["properties"]["reminder"] = json!({
                    "type": "object",
                    "description": "What was sent",
                    "properties": {"id": uuid(), "fire_at": instant()},
                    "required": ["id", "fire_at"],
                });
                data
            }
            Self::CommentCreated | Self::CommentUpdated | Self::CommentDeleted => comment(),
            Self::ProjectCreated | Self::ProjectUpdated | Self::ProjectArchived | Self::ProjectDeleted => {
                project()
            }
            Self::DigestSent => digest(),
        };
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.as_str(),
            "description": self.about(),
            "type": "object",
            "properties": {
                "type": {"const": self.as_str()},
                "timestamp": instant(),
                "id": {"type": "string", "format": "uuid", "description": "The same as the header webhook-id"},
                "seq": {"type": "integer", "description": "Rises, with gaps: what has a lower one happened earlier"},
                "version": {"const": super::FORM, "description": "The version of this form"},
                "data": data,
                "changes": {
                    "type": ["object", "null"],
                    "description": "For each field that changed its old and its new value, or null where the values are not told",
                    "additionalProperties": {"type": ["array", "null"], "minItems": 2, "maxItems": 2},
                },
                "actor": {
                    "type": ["object", "null"],
                    "description": "Who did it; null if it was the system",
                    "properties": {"id": uuid()},
                    "required": ["id"],
                },
            },
            "required": ["type", "timestamp", "id", "seq", "version", "data", "changes", "actor"],
        })
    }
}

fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

fn instant() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn optional() -> Value {
    json!({"type": ["string", "null"], "format": "uuid"})
}

/// An object that has all of these.
fn object(properties: &Value) -> Value {
    let required: Vec<&String> =
        properties.as_object().into_iter().flat_map(|fields| fields.keys()).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn version() -> Value {
    json!({"type": "integer", "description": "Of two states the one with the higher version is newer"})
}

fn url() -> Value {
    json!({"type": "string", "format": "uri"})
}

fn names(values: impl Iterator<Item = &'static str>) -> Value {
    json!({"type": "string", "enum": values.collect::<Vec<_>>()})
}

/// [`TaskData`](crate::tasks::TaskData), with the URL that the payload adds.
fn task() -> Value {
    let due = json!({
        "type": ["object", "null"],
        "properties": {
            "kind": names(DueKind::ALL.iter().map(|kind| kind.as_str())),
            "date": {"type": "string", "format": "date"},
            "time": {"type": ["string", "null"]},
            "zone": {"type": ["string", "null"]},
            "at": instant(),
            "all_day": {"type": "boolean"},
        },
        "required": ["kind", "date", "time", "zone", "at", "all_day"],
    });
    object(&json!({
        "id": uuid(),
        "version": version(),
        "title": {"type": "string", "maxLength": 500},
        "status": names(TaskStatus::ALL.iter().map(|status| status.as_str())),
        "priority": names(TaskPriority::ALL.iter().map(|priority| priority.as_str())),
        "due": due,
        "project_id": optional(),
        "assignee_id": optional(),
        "url": url(),
    }))
}

/// [`CommentData`](crate::comments::CommentData), with the URL of its task.
fn comment() -> Value {
    object(&json!({
        "id": uuid(),
        "task_id": uuid(),
        "author_id": optional(),
        "version": version(),
        "excerpt": {"type": "string", "maxLength": 500, "description": "How it begins; empty when it was deleted"},
        "url": url(),
    }))
}

/// [`ProjectData`](crate::projects::ProjectData), with the URL that the payload adds.
fn project() -> Value {
    object(&json!({
        "id": uuid(),
        "version": version(),
        "name": {"type": "string", "maxLength": 200},
        "owner_id": uuid(),
        "team_id": optional(),
        "archived_at": {"type": ["string", "null"], "format": "date-time"},
        "url": url(),
    }))
}

/// What the daily summary of a day was.
fn digest() -> Value {
    object(&json!({
        "id": uuid(),
        "date": {"type": "string", "format": "date"},
        "items": {"type": ["integer", "null"], "description": "How many tasks it listed or counted as open"},
    }))
}
