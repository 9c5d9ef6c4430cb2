//! What is asked of Prometheus (<https://prometheus.io/docs/prometheus/latest/querying/api/>).

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use common::clock::Clock;
use serde_json::Value;
use url::Url;

/// Grafana draws a point so often.
const STEP: &str = "5";

pub(super) struct Prometheus {
    base: Url,
    http: reqwest::Client,
}

impl Prometheus {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let http = crate::client().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { base: url.parse().with_context(|| format!("{url} is not a URL"))?, http })
    }

    /// The `data` of an answer.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut url = self.base.join(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut answer: Value = self.http.get(url).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{}", answer["error"].as_str().unwrap_or("no success"));
        Ok(answer["data"].take())
    }

    /// How many series a query has since `start` with at least one number in them.
    pub(super) async fn series_since(&self, query: &str, start: DateTime<Utc>) -> anyhow::Result<usize> {
        let (start, end) = (start.timestamp().to_string(), Clock::Database.instant().timestamp().to_string());
        let range = [("query", query), ("start", &start), ("end", &end), ("step", STEP)];
        let data = self.get("/api/v1/query_range", &range).await?;
        let series = data["result"].as_array().context("no result in the answer")?;
        let has_number = |series: &&Value| {
            let points = series["values"].as_array().into_iter().flatten();
            points.filter_map(|point| number(&point[1])).any(f64::is_finite)
        };
        Ok(series.iter().filter(has_number).count())
    }

    /// The series of a query now: their labels and values.
    pub(super) async fn now(&self, query: &str) -> anyhow::Result<Vec<(Value, f64)>> {
        let data = self.get("/api/v1/query", &[("query", query)]).await?;
        let series = data["result"].as_array().context("no result in the answer")?;
        Ok(series
            .iter()
            .filter_map(|series| Some((series["metric"].clone(), number(&series["value"][1])?)))
            .collect())
    }

    /// The values of a label among the series that match.
    pub(super) async fn label_values(&self, label: &str, matching: &str) -> anyhow::Result<Vec<String>> {
        let data = self.get(&format!("/api/v1/label/{label}/values"), &[("match[]", matching)]).await?;
        Ok(data
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| Some(value.as_str()?.to_owned()))
            .collect())
    }

    /// Waits until a query has one value, which is this.
    pub(super) async fn wait_until(&self, query: &str, value: f64, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let found = self.now(query).await?;
            if found.iter().map(|(_, value)| *value).eq([value]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{query} is not {value} after {} s, but {found:?}", within.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The rules that could not be evaluated.
    pub(super) async fn broken_rules(&self) -> anyhow::Result<Vec<String>> {
        let data = self.get("/api/v1/rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups in the answer")?;
        let rules: Vec<&Value> =
            groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        ensure!(!rules.is_empty(), "Prometheus has no rules");
        Ok(rules
            .iter()
            .filter(|rule| rule["health"] != "ok")
            .map(|rule| format!("the rule {} is {}: {}", rule["name"], rule["health"], rule["lastError"]))
            .collect())
    }

    /// The alerts that fire.
    pub(super) async fn firing(&self) -> anyhow::Result<Vec<String>> {
        let firing = self.now(r#"ALERTS{alertstate="firing"}"#).await?;
        Ok(firing
            .iter()
            .map(|(labels, _)| format!("an alert fires though nothing is wrong: {labels}"))
            .collect())
    }
}

/// Prometheus writes numbers as strings, for JSON has no NaN.
fn number(value: &Value) -> Option<f64> {
    value.as_str()?.parse().ok()
}
