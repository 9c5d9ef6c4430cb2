//! What Grafana's files ask of Prometheus.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::prometheus::Prometheus;

/// What `$__rate_interval` is: four scrapes or more, as Grafana has it.
const RATE_INTERVAL: &str = "20s";

/// A dashboard's questions.
#[derive(Debug, PartialEq)]
pub(super) struct Dashboard {
    pub(super) title: String,
    pub(super) queries: Vec<Query>,
    /// By name: the series, and the label whose values are offered.
    variables: BTreeMap<String, (String, String)>,
}

/// One query of a panel.
#[derive(Debug, PartialEq)]
pub(super) struct Query {
    pub(super) panel: String,
    pub(super) expression: String,
}

/// The dashboards of a folder, in the order of their names.
///
/// # Errors
/// If a file cannot be read, is no dashboard, or there is none.
pub(super) fn read(folder: &Path) -> anyhow::Result<Vec<Dashboard>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no dashboard", folder.display());
    let read = |file: &Path| parse(&serde_json::from_str(&fs::read_to_string(file)?)?);
    files.iter().map(|file| read(file).with_context(|| file.display().to_string())).collect()
}

fn parse(json: &Value) -> anyhow::Result<Dashboard> {
    let text = |value: &Value, what: &str| {
        value.as_str().map(str::to_owned).with_context(|| format!("{what} is missing: {value}"))
    };
    let mut queries = Vec::new();
    // The panels of a collapsed row are inside of it.
    let panels = json["panels"].as_array().context("a dashboard has panels")?;
    let inner = panels.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    for panel in panels.iter().chain(inner) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(Query {
                panel: text(&panel["title"], "the title of a panel")?,
                expression: text(&target["expr"], "the query of a target")?,
            });
        }
    }
    let mut variables = BTreeMap::new();
    for variable in json["templating"]["list"].as_array().into_iter().flatten() {
        let query = text(&variable["query"]["query"], "the query of a variable")?;
        let parts = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(','))
            .with_context(|| format!("only label_values(series, label) is understood: {query}"))?;
        let name = text(&variable["name"], "the name of a variable")?;
        variables.insert(name, (parts.0.trim().to_owned(), parts.1.trim().to_owned()));
    }
    Ok(Dashboard { title: text(&json["title"], "the title")?, queries, variables })
}

impl Dashboard {
    /// The values that each variable offers.
    pub(super) async fn values(
        &self,
        prometheus: &Prometheus,
    ) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let mut values = BTreeMap::new();
        for (name, (series, label)) in &self.variables {
            values.insert(name.clone(), prometheus.label_values(label, series).await?);
        }
        Ok(values)
    }
}

/// A query with "All" for each variable.
pub(super) fn fill(expression: &str, variables: &BTreeMap<String, Vec<String>>) -> String {
    let mut query = expression.replace("$__rate_interval", RATE_INTERVAL);
    for (name, values) in variables {
        let values: Vec<String> = values.iter().map(|value| value.replace('.', "\\\\.")).collect();
        query = query.replace(&format!("${name}"), &format!("({})", values.join("|")));
    }
    query
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn queries_of_panels_and_rows_are_found_with_their_variables() {
        let target = |query: &str| json!({ "targets": [{ "expr": query }], "title": query });
        let dashboard = parse(&json!({
            "title": "T",
            "panels": [target("a"), { "type": "row", "title": "r", "panels": [target("b")] }, { "type": "text" }],
            "templating": { "list": [{ "name": "q", "query": { "query": "label_values(up{job=~\"a,b\"}, queue)" } }] },
        }))
        .unwrap();
        let found: Vec<&str> = dashboard.queries.iter().map(|query| query.expression.as_str()).collect();
        assert_eq!(found, ["a", "b"]);
        assert_eq!(dashboard.variables["q"], ("up{job=~\"a,b\"}".to_owned(), "queue".to_owned()));
        assert!(parse(&json!({ "title": "T", "panels": [{ "title": "p", "targets": [{}] }] })).is_err());
    }

    #[test]
    fn variables_become_alternatives() {
        let variables = BTreeMap::from([("i".to_owned(), vec!["127.0.0.1:9464".to_owned(), "b".to_owned()])]);
        assert_eq!(
            fill(r#"rate(x{instance=~"$i"}[$__rate_interval])"#, &variables),
            r#"rate(x{instance=~"(127\\.0\\.0\\.1:9464|b)"}[20s])"#
        );
    }
}
