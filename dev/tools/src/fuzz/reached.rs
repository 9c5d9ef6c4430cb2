//! Which operations answered 2xx: the difference of the API's own counters, which count every answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// A method and the template of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    path: String,
    method: String,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {}", self.method, self.path)
    }
}

/// How often each operation has answered 2xx.
pub(super) type Counted = BTreeMap<Operation, f64>;

/// The operations of a document, and the processes that serve them.
pub(super) struct Reached {
    pub(super) operations: BTreeSet<Operation>,
    metrics: Vec<String>,
}

impl Reached {
    /// Reads the document of the API at `api`, whose counters are at some of `metrics`.
    pub(super) async fn new(api: &str, metrics: &[String]) -> anyhow::Result<Self> {
        let document: Value = serde_json::from_str(&get(&format!("{api}/openapi.json")).await?)?;
        let paths = document["paths"].as_object().context("openapi.json has paths")?;
        let mut operations = BTreeSet::new();
        for (path, item) in paths {
            let described = item.as_object().context("a path has operations")?;
            for (method, _) in described.iter().filter(|(_, operation)| operation["operationId"].is_string())
            {
                operations.insert(Operation { path: path.clone(), method: method.to_uppercase() });
            }
        }
        Ok(Self { operations, metrics: metrics.to_vec() })
    }

    /// How often each has answered 2xx by now.
    pub(super) async fn counted(&self) -> anyhow::Result<Counted> {
        let mut counted = Counted::new();
        for url in &self.metrics {
            for (operation, count) in get(url).await?.lines().filter_map(successes) {
                *counted.entry(operation).or_default() += count;
            }
        }
        Ok(counted)
    }

    /// Those that have answered 2xx since then.
    pub(super) async fn since(&self, before: &Counted) -> anyhow::Result<BTreeSet<Operation>> {
        let now = self.counted().await?;
        let rose = now
            .into_iter()
            .filter(|(operation, count)| *count > before.get(operation).copied().unwrap_or(0.0));
        Ok(rose
            .map(|(operation, _)| operation)
            .filter(|operation| self.operations.contains(operation))
            .collect())
    }
}

/// What a line of metrics says of answers with 2xx.
fn successes(line: &str) -> Option<(Operation, f64)> {
    let (labels, count) = line.strip_prefix("http_requests_total{")?.rsplit_once("} ")?;
    let label = |name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\""))?;
        rest.split('"').next()
    };
    if !label("status")?.starts_with('2') {
        return None;
    }
    let operation = Operation { path: label("route")?.to_owned(), method: label("method")?.to_owned() };
    Some((operation, count.trim().parse().ok()?))
}

async fn get(url: &str) -> anyhow::Result<String> {
    let response = crate::client().build()?.get(url).send().await.with_context(|| format!("GET {url}"))?;
    let status = response.status();
    ensure!(status.is_success(), "GET {url} answered {status}");
    Ok(response.text().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successes_are_counted_by_route() {
        let line = r#"http_requests_total{method="GET",route="/api/v1/tasks/{id}",status="200"} 7"#;
        let task = Operation { path: "/api/v1/tasks/{id}".into(), method: "GET".into() };
        assert_eq!(successes(line), Some((task, 7.0)));
        for other in [&line.replace("200", "404"), "# TYPE http_requests_total counter", "up 1", ""] {
            assert_eq!(successes(other), None, "{other}");
        }
    }
}
