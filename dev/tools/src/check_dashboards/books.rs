//! Counters equal the ledger (goals R46): what the processes have counted is what the database holds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::bail;
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};

use super::prometheus::Prometheus;

/// What is counted twice: a name, the query of the counter, and the statement, each with one label and a number. A counter
/// that stands at 0 and a label that no row has are the same.
const BOOKS: &[(&str, &str, &str)] = &[
    (
        "jobs by kind and outcome",
        r#"sum by (label) (label_join(tasktracker_jobs_total{outcome=~"done|dead|cancelled"}, "label", " ", "kind", "outcome"))"#,
        "SELECT kind || ' ' || state::text AS label, count(*) AS count FROM jobs WHERE finished_at IS NOT NULL GROUP BY 1",
    ),
    (
        "retries by kind",
        r#"sum by (label) (label_replace(tasktracker_jobs_total{outcome="retry"}, "label", "$1", "kind", "(.*)"))"#,
        "SELECT kind AS label, sum(jsonb_array_length(errors))::bigint AS count FROM jobs
         WHERE state IN ('ready', 'running', 'done') GROUP BY 1",
    ),
    (
        "tasks created",
        r#"sum by (label) (label_replace(tasktracker_task_operations_total{op="create"}, "label", "create", "", ""))"#,
        "SELECT 'create' AS label, count(*) AS count FROM tasks",
    ),
    (
        "fires by state",
        r#"sum by (label) (label_replace(tasktracker_reminder_fires_total{state=~"sent|dead"}, "label", "$1", "state", "(.*)"))"#,
        "SELECT state::text AS label, count(*) AS count FROM reminder_fires WHERE state IN ('sent', 'dead') GROUP BY 1",
    ),
    (
        "daily summaries by state",
        r#"sum by (label) (label_replace(tasktracker_digests_total{state="sent"}, "label", "$1", "state", "(.*)"))"#,
        "SELECT state::text AS label, count(*) AS count FROM digest_runs WHERE state = 'sent' GROUP BY 1",
    ),
    (
        "webhooks that succeeded",
        r#"sum by (label) (label_replace(tasktracker_webhook_deliveries_total{result="succeeded"}, "label", "$1", "result", "(.*)"))"#,
        "SELECT state::text AS label, count(*) AS count FROM webhook_deliveries WHERE state = 'succeeded' GROUP BY 1",
    ),
];

#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    label: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
}

type Figures = BTreeMap<String, i64>;

/// The database's half.
pub(super) struct Books(AsyncPgConnection);

/// Waits until nothing runs and everything was tried that may be.
///
/// # Errors
/// If the database is away, or something still runs when the time is over.
pub(super) async fn when_settled(database: &str, within: Duration) -> anyhow::Result<Books> {
    let mut conn = AsyncPgConnection::establish(database).await?;
    let deadline = Instant::now() + within;
    loop {
        let open = "SELECT kind AS label, count(*) AS count FROM jobs
                    WHERE finished_at IS NULL AND (state = 'running' OR fence = 0) GROUP BY 1";
        let open = read(&mut conn, open).await?;
        if open.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("after {} s there still are jobs that were not tried: {open:?}", within.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(Books(conn))
}

async fn read(conn: &mut AsyncPgConnection, statement: &str) -> anyhow::Result<Figures> {
    let rows: Vec<Row> = diesel::sql_query(statement).load(conn).await?;
    Ok(rows.into_iter().filter(|row| row.count > 0).map(|row| (row.label, row.count)).collect())
}

impl Books {
    /// Where counters and database differ, and still do when the time is over. Both are read anew each time: schedules go on, and a
    /// counter is seen when it is scraped.
    ///
    /// # Errors
    /// If the database or Prometheus cannot be asked.
    pub(super) async fn compare(
        mut self,
        prometheus: &Prometheus,
        within: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + within;
        loop {
            let mut wrong = Vec::new();
            for (name, query, statement) in BOOKS {
                let stored = read(&mut self.0, statement).await?;
                let counted: Figures = prometheus
                    .now(query)
                    .await?
                    .into_iter()
                    .filter(|(_, count)| *count > 0.0)
                    .map(|(labels, count)| {
                        (labels["label"].as_str().unwrap_or_default().to_owned(), whole(count))
                    })
                    .collect();
                if counted != stored {
                    wrong.push(format!("{name}: counters say {counted:?}, the database {stored:?}"));
                }
            }
            if wrong.is_empty() || Instant::now() > deadline {
                return Ok(wrong);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A counter's value, which is whole.
fn whole(count: f64) -> i64 {
    format!("{count:.0}").parse().unwrap_or_default()
}
