//! `tasktracker-worker jobs` and `tasktracker-worker queues`: the ledger from a shell, for people as tables and for scripts
//! as JSON. Only what is asked and how it looks belongs here; the statements are those of the admin API.

mod table;

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use common::{
    config::Database,
    db::Db,
    dispatcher::Outbox,
    ids::JobId,
    ledger::{self, JobDetails, JobFilter, JobState, JobSummary, QueueStatus},
};
use serde::Serialize;
use serde_json::json;

use table::{Table, age};

/// Looks at jobs in the ledger, and tries again or cancels them.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-worker jobs", version)]
pub struct Jobs {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: Database,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub task: JobsTask,
}

/// What `tasktracker-worker jobs` does.
#[derive(Debug, Subcommand)]
pub enum JobsTask {
    /// List jobs, the newest first
    List {
        /// Which jobs.
        #[command(flatten)]
        which: Which,
        /// Only jobs in this state: ready, running, done, dead or cancelled
        #[arg(long)]
        state: Option<JobState>,
        /// So many at most
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show everything that is known of a job
    Show {
        /// The job
        id: uuid::Uuid,
    },
    /// Make dead or cancelled jobs ready again, with all their attempts
    Retry {
        /// The jobs
        #[arg(required_unless_present = "dead")]
        ids: Vec<uuid::Uuid>,
        /// All dead jobs instead, of a kind or a queue if that is given
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
        /// Which dead jobs.
        #[command(flatten)]
        which: Which,
    },
    /// Cancel jobs: a waiting one does not start, a running one is stopped within seconds
    Cancel {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<uuid::Uuid>,
    },
}

/// Which jobs.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// Only jobs of this kind, such as `send_reminder`
    #[arg(long)]
    pub kind: Option<String>,
    /// Only jobs in this queue, such as `mail`
    #[arg(long)]
    pub queue: Option<String>,
}

/// Shows what stands in the queues, pauses and resumes them. Without a command it lists them.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-worker queues", version)]
pub struct Queues {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: Database,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub task: Option<QueuesTask>,
}

/// What `tasktracker-worker queues` does.
#[derive(Debug, Subcommand)]
pub enum QueuesTask {
    /// Pause a queue: nothing more of it starts within two seconds, what runs goes on
    Pause {
        /// The queue
        queue: String,
        /// Why, for whoever finds it paused
        #[arg(long)]
        reason: Option<String>,
    },
    /// Resume a queue, whoever paused it
    Resume {
        /// The queue
        queue: String,
    },
}

/// How answers look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// JSON, for scripts.
    pub json: bool,
    /// The width of the terminal; without one, lines are as long as they are.
    pub width: Option<usize>,
}

impl Look {
    fn of(json: bool) -> Self {
        let width = std::io::stdout()
            .is_terminal()
            .then(terminal_size::terminal_size)
            .flatten()
            .map(|(width, _)| width.0.into());
        Self { json, width }
    }

    fn show(self, value: &impl Serialize, table: impl FnOnce() -> String) -> anyhow::Result<String> {
        Ok(if self.json { serde_json::to_string_pretty(value)? + "\n" } else { table() })
    }
}

/// Runs `tasktracker-worker jobs`.
///
/// # Errors
/// If the database is away, or a job is not there or in another state.
pub async fn jobs(config: Jobs) -> anyhow::Result<()> {
    let db = config.database.open(Outbox::default())?;
    print(&run_jobs(&db, config.task, Look::of(config.json), &who()).await?)
}

/// Runs `tasktracker-worker queues`.
///
/// # Errors
/// If the database is away, or there is no such queue.
pub async fn queues(config: Queues) -> anyhow::Result<()> {
    let db = config.database.open(Outbox::default())?;
    print(&run_queues(&db, config.task, Look::of(config.json), &who()).await?)
}

/// Prints; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// How the ledger calls who does something from here.
fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let user: String = user.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
    if user.is_empty() { "the shell".to_owned() } else { format!("{user} (shell)") }
}

async fn run_jobs(db: &Db, task: JobsTask, look: Look, by: &str) -> anyhow::Result<String> {
    let now = db.clock().instant();
    match task {
        JobsTask::List { which: Which { kind, queue }, state, limit } => {
            let filter = JobFilter { state, kind, queue, ..JobFilter::default() };
            let mut conn = db.conn().await?;
            let (jobs, more) = JobSummary::newest(&mut conn, &filter, limit.into()).await?;
            look.show(&jobs, || list(&jobs, more, now, look.width))
        }
        JobsTask::Show { id } => {
            let job = JobDetails::find(&mut *db.conn().await?, id.into()).await.context(id)?;
            look.show(&job, || show(&job, now))
        }
        JobsTask::Retry { dead: true, which: Which { kind, queue }, .. } => {
            let filter = JobFilter { state: Some(JobState::Dead), kind, queue, ..JobFilter::default() };
            let (mut count, mut before) = (0, None);
            loop {
                let mut tx = db.begin().await?;
                let retried = ledger::retry_all(&mut tx, &filter, before, by).await;
                let retried = tx.finish(retried).await?;
                count += retried.retried;
                before = retried.next;
                if before.is_none() {
                    break;
                }
            }
            look.show(&json!({ "retried": count }), || format!("{count} jobs are ready again.\n"))
        }
        JobsTask::Retry { ids, .. } => {
            let change = async |id| {
                let mut tx = db.begin().await?;
                let retried = ledger::retry(&mut tx, id, by).await;
                tx.finish(retried).await
            };
            each(look, ids, "is ready again", change).await
        }
        JobsTask::Cancel { ids } => {
            let change = async |id| {
                let mut tx = db.begin().await?;
                let cancelled = ledger::cancel(&mut tx, id, by).await;
                tx.finish(cancelled).await
            };
            each(look, ids, "is cancelled", change).await
        }
    }
}

/// Changes one job after the other. The first that cannot be changed ends it, and says which were.
async fn each(
    look: Look,
    ids: Vec<uuid::Uuid>,
    what: &str,
    change: impl AsyncFn(JobId) -> common::error::Result<JobDetails>,
) -> anyhow::Result<String> {
    let mut changed = Vec::new();
    for id in ids {
        let job = change(id.into()).await.with_context(|| match changed.len() {
            0 => id.to_string(),
            before => format!("{before} changed; then {id}"),
        })?;
        changed.push(job.summary);
    }
    look.show(&changed, || changed.iter().map(|job| format!("{} ({}) {what}.\n", job.id, job.kind)).collect())
}

fn list(jobs: &[JobSummary], more: bool, now: DateTime<Utc>, width: Option<usize>) -> String {
    if jobs.is_empty() {
        return "No such jobs.\n".to_owned();
    }
    let mut table = Table::new(&["ID", "KIND", "QUEUE", "STATE", "TRY", "SINCE", "ERROR"]);
    for job in jobs {
        table.row([
            job.id.to_string(),
            job.kind.clone(),
            job.queue.clone(),
            job.state.to_string(),
            format!("{}/{}", job.attempt, job.max_attempts),
            since(job, now),
            job.last_error.clone().unwrap_or_default(),
        ]);
    }
    let rest = if more { "There are more: narrow it down, or raise --limit.\n" } else { "" };
    table.render(width) + rest
}

/// For how long it has been where it is.
fn since(job: &JobSummary, now: DateTime<Utc>) -> String {
    let from = match job.state {
        JobState::Running => job.started_at,
        JobState::Ready => Some(job.run_at),
        _ => job.finished_at,
    };
    match from {
        Some(at) if at > now => format!("in {}", age(at - now)),
        Some(at) => age(now - at),
        None => String::new(),
    }
}

fn show(job: &JobDetails, now: DateTime<Utc>) -> String {
    let instant = |at: Option<DateTime<Utc>>| {
        at.map(|at| {
            let distance =
                if at > now { format!("in {}", age(at - now)) } else { format!("{} ago", age(now - at)) };
            format!("{} ({distance})", at.format("%Y-%m-%d %H:%M:%S UTC"))
        })
    };
    let summary = &job.summary;
    let lines = [
        ("id", Some(summary.id.to_string())),
        ("kind", Some(summary.kind.clone())),
        ("queue", Some(summary.queue.clone())),
        ("lane", Some(summary.lane.clone())),
        ("state", Some(summary.state.to_string())),
        ("args", Some(job.args.to_string())),
        ("result", job.result.as_ref().map(ToString::to_string)),
        ("try", Some(format!("{} of {}", summary.attempt, summary.max_attempts))),
        ("claims", Some(job.fence.to_string())),
        ("crashes", Some(job.crashes.to_string())),
        ("priority", Some(summary.priority.to_string())),
        ("enqueued", instant(Some(summary.created_at))),
        ("due", instant(Some(summary.run_at))),
        ("pushed", instant(job.pushed_at)),
        ("started", instant(summary.started_at)),
        ("finished", instant(summary.finished_at)),
        ("worker", summary.worker.clone()),
        ("unique", job.unique_key.clone()),
        ("request", job.request_id.clone()),
        ("trace", job.traceparent.clone()),
    ];
    let mut text: String = lines
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name:<9} {}\n", one_line(&value?))))
        .collect();
    for error in job.errors.as_array().into_iter().flatten() {
        let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let at = field("at").parse::<DateTime<Utc>>().ok();
        text.push_str(&format!(
            "\n{}, try {}, {}:\n",
            instant(at).unwrap_or_else(|| field("at")),
            error["attempt"],
            field("worker"),
        ));
        text.extend(field("text").lines().map(|line| format!("  {}\n", one_line(line))));
    }
    text
}

/// Without what moves the cursor of a terminal: errors hold what others have written.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

async fn run_queues(db: &Db, task: Option<QueuesTask>, look: Look, by: &str) -> anyhow::Result<String> {
    let now = db.clock().instant();
    let changed = match task {
        None => {
            let queues = QueueStatus::all(&mut *db.conn().await?, db.clock().now()).await?;
            return look.show(&queues, || list_queues(&queues, now, look.width));
        }
        Some(QueuesTask::Pause { queue, reason }) => {
            let mut tx = db.begin().await?;
            let paused = ledger::pause_by_hand(&mut tx, &queue, by, reason.as_deref()).await;
            tx.finish(paused).await.with_context(|| queue)?
        }
        Some(QueuesTask::Resume { queue }) => {
            let mut tx = db.begin().await?;
            let resumed = ledger::resume_by_hand(&mut tx, &queue, by).await;
            tx.finish(resumed).await.with_context(|| queue)?
        }
    };
    look.show(&changed, || list_queues(std::slice::from_ref(&changed), now, look.width))
}

fn list_queues(queues: &[QueueStatus], now: DateTime<Utc>, width: Option<usize>) -> String {
    let mut table =
        Table::new(&["QUEUE", "READY", "RUNNING", "DELAYED", "DEAD", "OLDEST", "WORKERS", "PAUSED"]);
    for queue in queues {
        let paused = queue.paused_at.map(|at| {
            let by = queue.paused_by.as_deref().unwrap_or("somebody");
            let reason = queue.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} by {by}{reason}", age(now - at))
        });
        let oldest = queue.oldest_ready_age.map(|seconds| {
            age(std::time::Duration::try_from_secs_f64(seconds)
                .ok()
                .and_then(|age| chrono::Duration::from_std(age).ok())
                .unwrap_or_default())
        });
        table.row([
            queue.name.clone(),
            queue.ready.to_string(),
            queue.running.to_string(),
            queue.delayed.to_string(),
            queue.dead.to_string(),
            oldest.unwrap_or_default(),
            queue.workers.len().to_string(),
            paused.unwrap_or_default(),
        ]);
    }
    table.render(width)
}

#[cfg(all(test, feature = "testing"))]
mod tests;
