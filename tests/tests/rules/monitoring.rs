//! Dashboards and alerts cannot rot: what `monitoring/` names is what the processes record (design §4.7).

use common::metrics::{Kind, METRICS};

use crate::workspace::files_below;

/// Whether a process records a series of this name.
fn is_recorded(series: &str) -> bool {
    METRICS.iter().any(|(name, kind, _)| match series.strip_prefix(name) {
        Some("_bucket" | "_count" | "_sum") => matches!(kind, Kind::Histogram(_)),
        rest => rest == Some(""),
    })
}

/// The words of a text that look like series of ours.
fn series(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("tasktracker_") || word.starts_with("http_request"))
}

#[test]
fn monitoring_names_only_metrics_that_exist() {
    let files = files_below("monitoring");
    assert!(files.iter().any(|file| file.path.ends_with("prometheus.yml")));
    for file in files {
        for series in series(&file.text) {
            assert!(is_recorded(series), "{}: {series} is not in common::metrics::METRICS", file.path);
        }
    }
}

#[test]
fn a_renamed_metric_is_noticed() {
    let text = "rate(http_request_duration_seconds_bucket{job=\"api\"}[5m]) / tasktracker_jobs_done_total";
    let unknown: Vec<&str> = series(text).filter(|series| !is_recorded(series)).collect();
    assert_eq!(unknown, ["tasktracker_jobs_done_total"]);
    assert!(!is_recorded("tasktracker_jobs_total_bucket"), "a counter has no buckets");
}

/// Prometheus itself judges, where it is installed; no registry of packages carries it for everybody.
#[test]
fn prometheus_takes_its_configuration() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring/prometheus/prometheus.yml");
    match std::process::Command::new("promtool").args(["check", "config", file]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => println!("promtool is not on this machine ({error}): the configuration is not checked"),
    }
}
