use serde_json::{Value, json};

use super::EventType;
use crate::tasks::{DueKind, TaskPriority, TaskStatus};

impl EventType {
    /// The JSON Schema (2020-12) of what receivers get.
    pub fn schema(self) -> Value {
        let mut data = task();
        if self == Self::ReminderFired {
            data["properties"]["reminder"] = json!({
                "type": "object",
                "description": "What was sent",
                "properties": {"id": uuid(), "fire_at": instant()},
                "required": ["id", "fire_at"],
            });
        }
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
    let optional = json!({"type": ["string", "null"], "format": "uuid"});
    let properties = json!({
        "id": uuid(),
        "version": {"type": "integer", "description": "Of two states of a task the one with the higher version is newer"},
        "title": {"type": "string", "maxLength": 500},
        "status": names(TaskStatus::ALL.iter().map(|status| status.as_str())),
        "priority": names(TaskPriority::ALL.iter().map(|priority| priority.as_str())),
        "due": due,
        "project_id": optional,
        "assignee_id": optional,
        "url": {"type": "string", "format": "uri"},
    });
    let required: Vec<&String> =
        properties.as_object().into_iter().flat_map(|fields| fields.keys()).collect();
    json!({"type": "object", "properties": properties, "required": required})
}
