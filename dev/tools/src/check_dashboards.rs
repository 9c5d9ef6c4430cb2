//! Proof that the dashboards show something: people use a running system for a while, and then every query and template
//! variable of Grafana's dashboards is asked to the Prometheus that watched. An error or an empty answer fails, and so
//! does a counter that differs from the ledger. That Grafana draws the answers is not proven.
//!
//! - `dashboards`: the queries, as the files have them.
//! - `load`: what people do.
//! - `prometheus`: asking it.
//! - `books`: counters and the database.

mod books;
mod dashboards;
mod load;
mod prometheus;

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use common::clock::Clock;
use serde::Deserialize;

use dashboards::Query;
use load::Load;
use prometheus::Prometheus;

/// What stays empty when nothing is wrong and nobody waits for days, and why.
const LEGITIMATELY_EMPTY: &[(&str, &str, &str)] = &[(
    "TaskTracker: System",
    "max(tasktracker_redis_memory_limit_bytes) > 0",
    "the Redis of `cargo dev` has no maxmemory",
)];

/// How long the last events may take to reach Prometheus: a scrape, the rules (30 s), and the scheduler's slow gauges (30 s).
const SEEN: Duration = Duration::from_secs(75);

/// Arguments of `tasktracker-dev check-dashboards`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder with the dashboards
    #[arg(long, value_name = "FOLDER", default_value = "monitoring/grafana/dashboards")]
    pub dashboards: PathBuf,
    /// What `cargo dev --monitor` wrote about the running system
    #[arg(long, value_name = "FILE", default_value = ".data/run/dev.json")]
    pub dev_json: PathBuf,
    /// A port that the system lets webhooks reach on this machine (`WEBHOOK_PORTS`, `WEBHOOK_ALLOW_CIDRS`)
    #[arg(long, value_name = "PORT")]
    pub webhook_port: u16,
    /// For how long people use the system
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub seconds: u64,
}

/// The part of `.data/run/dev.json` that is needed here.
#[derive(Debug, Deserialize)]
struct Dev {
    api_url: Option<String>,
    prometheus_url: Option<String>,
    database_url: Option<String>,
}

/// Uses the system that `dev_json` describes, and asks its Prometheus what the dashboards ask.
///
/// # Errors
/// If a query fails or finds nothing, a rule cannot be evaluated, an alert fires, or a counter differs from the ledger.
/// All of them are in the table that is printed.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let dev = std::fs::read_to_string(&args.dev_json)
        .with_context(|| format!("cannot read {}", args.dev_json.display()))?;
    let dev: Dev = serde_json::from_str(&dev)
        .with_context(|| format!("{} is not what `cargo dev` writes", args.dev_json.display()))?;
    let needed = |url: Option<String>, what: &str| {
        url.with_context(|| {
            format!("{} names no {what}: start `cargo dev --monitor`", args.dev_json.display())
        })
    };
    let prometheus = Prometheus::new(&needed(dev.prometheus_url, "prometheus_url")?)?;
    let database = needed(dev.database_url, "database_url")?;
    let api = needed(dev.api_url, "api_url")?;
    let dashboards = dashboards::read(&args.dashboards)?;

    let start = Clock::Database.instant();
    // Counters are seen to rise only by whoever has seen them before.
    prometheus.wait_until(r#"min(up{job=~"api|worker|scheduler"})"#, 1.0, Duration::from_secs(60)).await?;
    say(format_args!("people use {api} for {} s", args.seconds))?;
    let load = Load::start(&api, &database, args.webhook_port).await?;
    load.run(Duration::from_secs(args.seconds)).await?;
    let books = books::when_settled(&database, Duration::from_secs(60)).await?;
    let settled = Instant::now();
    let mut wrong = books.compare(&prometheus, SEEN).await?;
    tokio::time::sleep_until((settled + SEEN).into()).await;

    let mut asked = 0;
    for dashboard in &dashboards {
        let variables = dashboard.values(&prometheus).await?;
        for (name, values) in &variables {
            asked += 1;
            report(&dashboard.title, &format!("${name}"), &format!("{} values", values.len()))?;
            if values.is_empty() {
                wrong.push(format!("{}: the variable ${name} has no value", dashboard.title));
            }
        }
        for Query { panel, expression } in &dashboard.queries {
            asked += 1;
            let query = dashboards::fill(expression, &variables);
            let answer = prometheus.series_since(&query, start).await;
            let excuse = LEGITIMATELY_EMPTY
                .iter()
                .find(|(title, excused, _)| *title == dashboard.title && excused == expression);
            let said = match (answer, excuse) {
                (Ok(0), Some((_, _, reason))) => format!("nothing, for {reason}"),
                (Ok(0), None) => {
                    wrong.push(format!("{}, {panel}: nothing for {query}", dashboard.title));
                    "NOTHING".to_owned()
                }
                (Ok(series), _) => format!("{series} series"),
                (Err(error), _) => {
                    wrong.push(format!("{}, {panel}: {error:#} for {query}", dashboard.title));
                    "ERROR".to_owned()
                }
            };
            report(&dashboard.title, panel, &said)?;
        }
    }
    wrong.extend(prometheus.broken_rules().await?);
    wrong.extend(prometheus.firing().await?);
    ensure!(wrong.is_empty(), "{} things are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
    say(format_args!(
        "{asked} queries of {} dashboards found something; counters equal the ledger",
        dashboards.len()
    ))
}

fn report(dashboard: &str, what: &str, said: &str) -> anyhow::Result<()> {
    say(format_args!("  {:<32} {what:<48} {said}", dashboard.trim_start_matches("TaskTracker: ")))
}

fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
