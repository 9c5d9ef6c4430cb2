//! Log lines as JSON, an object a line: the members of an event, and those of the span that it happened in under `span`.
//! `docs/operations.md` has the schema. The formatter of `tracing-subscriber` writes the same, but for each line it reads the
//! span's members back from text; here they are text that becomes a part of the line.

use std::{fmt, io};

use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// Writes an event as a line.
#[derive(Debug)]
pub(super) struct JsonLines;

/// Writes fields as members of an object, a comma before each.
#[derive(Debug)]
pub(super) struct JsonMembers;

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonMembers> for JsonLines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonMembers>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", metadata.level())?;
        JsonMembers.format_fields(writer.by_ref(), event)?;
        writer.write_str(",\"target\":")?;
        json(&mut writer, metadata.target())?;
        let span = event.parent().and_then(|id| context.span(id)).or_else(|| context.lookup_current());
        if let Some(span) = span {
            writer.write_str(",\"span\":{\"name\":")?;
            json(&mut writer, span.name())?;
            if let Some(members) = span.extensions().get::<FormattedFields<JsonMembers>>() {
                writer.write_str(members)?;
            }
            writer.write_char('}')?;
        }
        writer.write_str("}\n")
    }
}

impl<'w> FormatFields<'w> for JsonMembers {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut members = Members { writer, result: Ok(()) };
        fields.record(&mut members);
        members.result
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

struct Members<'w> {
    writer: Writer<'w>,
    result: fmt::Result,
}

impl Members<'_> {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        // What the `log` crate says of itself is in the metadata.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }

    fn write(&mut self, name: &str, value: impl Serialize) -> fmt::Result {
        self.writer.write_char(',')?;
        json(&mut self.writer, name)?;
        self.writer.write_char(':')?;
        json(&mut self.writer, value)
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Shown(value));
    }
}

/// What a value shows of itself, as a string.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

fn json(writer: &mut Writer<'_>, value: impl Serialize) -> fmt::Result {
    value.serialize(&mut serde_json::Serializer::new(Bytes(writer))).map_err(|_| fmt::Error)
}

/// Serde writes bytes, and `tracing` text.
struct Bytes<'a, 'w>(&'a mut Writer<'w>);

impl io::Write for Bytes<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text =
            std::str::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.0.write_str(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `work` runs, each line as an object.
    fn logged(work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonMembers)
            .event_format(JsonLines)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_event_is_a_line_with_its_members_and_those_of_its_span() {
        let lines = logged(|| {
            let span = tracing::info_span!("request", http.route = "/a\"b", later = tracing::field::Empty);
            span.record("later", true);
            span.in_scope(|| {
                tracing::info!(count = 3, took = 0.5, error = ?"line\nbreak", "said \"so\" \u{7}");
            });
            tracing::warn!(none = f64::NAN, minus = -1_i64);
        });
        let [first, second] = &lines[..] else { panic!("{lines:?}") };
        let mut first = first.clone();
        let timestamp = first["timestamp"].take();
        assert!(chrono::DateTime::parse_from_rfc3339(timestamp.as_str().unwrap()).is_ok(), "{timestamp}");
        assert_eq!(
            first,
            json!({
                "timestamp": null, "level": "INFO", "message": "said \"so\" \u{7}", "count": 3, "took": 0.5,
                "error": "\"line\\nbreak\"", "target": "common::telemetry::lines::tests",
                "span": {"name": "request", "http.route": "/a\"b", "later": true},
            })
        );
        assert_eq!(
            (&second["level"], &second["none"], &second["minus"]),
            (&json!("WARN"), &json!(null), &json!(-1))
        );
        assert!(second.get("span").is_none());
    }
}
