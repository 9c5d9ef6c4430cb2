//! What a process says about itself: logs, and where a piece of work came from. JSON lines for machines, pretty ones
//! on a terminal. Identifiers are fields with dotted names (`job.id`); an error is logged once, at the boundary.
//! Never logged: tokens, passwords, keys, bodies, mail texts, paths that carry a token.

mod lines;

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::lines::{JsonLines, JsonMembers};
use crate::config::{LogFormat, Telemetry};

/// Starts logging. The first thing that a process does after reading its configuration.
///
/// # Errors
/// If `LOG` cannot be read, or logging has been started before.
pub fn init(process: &'static str, config: &Telemetry) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)?;
    let registry = tracing_subscriber::registry().with(filter);
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    if json {
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonMembers)
            .event_format(JsonLines)
            .with_writer(std::io::stderr);
        registry.with(layer).try_init()?;
    } else {
        let layer =
            tracing_subscriber::fmt::layer().compact().with_target(false).with_writer(std::io::stderr);
        registry.with(layer).try_init()?;
    }
    tracing::info!(process, version = env!("CARGO_PKG_VERSION"), "starting");
    Ok(())
}

/// Where a piece of work came from: the request that asked for it, also when a worker does it hours later. Stored
/// with jobs and fires, and sent with mails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// `X-Request-Id` of the request.
    pub request_id: Option<String>,
    /// W3C Trace Context, <https://www.w3.org/TR/trace-context/#traceparent-header>.
    pub traceparent: Option<String>,
}

tokio::task_local! {
    static ORIGIN: Origin;
}

impl Origin {
    /// The origin of what runs now; empty outside [`Origin::scope`].
    pub fn current() -> Self {
        ORIGIN.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs `work` as coming from here.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        ORIGIN.scope(self, work).await
    }

    /// The origin that a request's headers tell: a request id of at most 64 safe characters, or a new one; the same
    /// trace with a span of ours, or a new trace.
    pub fn of_headers(request_id: Option<&str>, traceparent: Option<&str>) -> Self {
        let request_id = request_id.filter(|id| is_safe_id(id)).map_or_else(new_request_id, str::to_owned);
        let span: u64 = rand::random::<u64>().max(1);
        let traceparent = match traceparent.and_then(trace_of) {
            Some((trace, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
            None => format!("00-{:032x}-{span:016x}-00", rand::random::<u128>().max(1)),
        };
        Self { request_id: Some(request_id), traceparent: Some(traceparent) }
    }
}

fn new_request_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

fn is_safe_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The trace id and flags of a valid `traceparent`.
fn trace_of(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let valid = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    valid.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_goes_on_and_an_invalid_one_is_replaced() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let origin = Origin::of_headers(Some("abc-1"), Some(&format!("00-{trace}-00f067aa0ba902b7-01")));
        assert_eq!(origin.request_id.as_deref(), Some("abc-1"));
        let traceparent = origin.traceparent.unwrap();
        assert!(traceparent.starts_with(&format!("00-{trace}-")) && traceparent.ends_with("-01"));
        assert!(!traceparent.contains("00f067aa0ba902b7"), "the span is ours");
        for bad in ["", "00-x", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            let other = Origin::of_headers(None, Some(bad)).traceparent.unwrap();
            assert!(trace_of(&other).is_some() && !other.contains(trace));
        }
    }

    #[test]
    fn an_unsafe_request_id_is_replaced() {
        for bad in ["", "a b", "a\r\nb", &"x".repeat(65)] {
            let id = Origin::of_headers(Some(bad), None).request_id.unwrap();
            assert!(is_safe_id(&id) && id != bad);
        }
    }
}
