//! Dashboards and alerts cannot rot: what `monitoring/` names is what the processes record (design §4.7).

use std::{collections::BTreeSet, path::PathBuf};

use common::metrics::{Kind, METRICS};

use crate::workspace::{files_below, read};

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

/// What no panel has to show.
const NO_PANEL: &[(&str, &str)] = &[];

#[test]
fn every_metric_is_in_a_panel() {
    let dashboards: String =
        files_below("monitoring/grafana/dashboards").into_iter().map(|file| file.text).collect();
    let shown: BTreeSet<&str> = series(&dashboards).collect();
    let is_shown = |name: &str| {
        ["", "_bucket", "_count", "_sum"].iter().any(|end| shown.contains(format!("{name}{end}").as_str()))
    };
    let unseen: Vec<&str> = METRICS
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !is_shown(name) && !NO_PANEL.iter().any(|(excused, _)| excused == name))
        .collect();
    assert_eq!(unseen, [""; 0], "put it into a panel, or say in NO_PANEL why not");
}

#[test]
fn every_alert_has_a_runbook_entry_and_two_tests() {
    let alerts = read("monitoring/prometheus/rules/alerts.yml");
    let alerts: Vec<&str> =
        alerts.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    let (runbook, tests) = (read("monitoring/README.md"), read("monitoring/prometheus/tests/alerts.yml"));
    let has = |text: &str, line: &str| text.lines().any(|found| found.trim() == line);
    for alert in alerts {
        assert!(has(&runbook, &format!("### {alert}")), "{alert} has no entry in monitoring/README.md");
        for case in ["fires", "is silent"] {
            assert!(has(&tests, &format!("- name: {alert} {case}")), "no test in which {alert} {case}");
        }
    }
}

#[test]
fn the_runbook_in_grafana_is_this_one() {
    let dashboard = read("monitoring/grafana/dashboards/tasktracker-runbook.json");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let shown = dashboard["panels"][0]["options"]["content"].as_str().unwrap();
    assert!(
        shown == read("monitoring/README.md"),
        "in monitoring/: jq --rawfile text README.md '.panels[0].options.content = $text' \
         grafana/dashboards/tasktracker-runbook.json >new && mv new grafana/dashboards/tasktracker-runbook.json"
    );
}

/// Prometheus itself judges: `cargo dev test` finds or installs it.
#[test]
fn prometheus_takes_its_configuration_and_the_alerts_pass_their_tests() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring/prometheus");
    let beside =
        std::env::var_os("TEST_PROMETHEUS").map(|path| PathBuf::from(path).with_file_name("promtool"));
    let promtool = beside.filter(|path| path.exists()).unwrap_or_else(|| "promtool".into());
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "config", "compose.yml"],
        ["test", "rules", "tests/alerts.yml"],
    ] {
        match std::process::Command::new(&promtool).args(arguments).current_dir(folder).output() {
            Ok(output) => {
                let said =
                    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
                assert!(output.status.success(), "promtool {arguments:?}: {}", said.concat());
            }
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "in CI no test is skipped: {error}");
                println!("promtool is not on this machine ({error}): nothing was checked");
            }
        }
    }
}
