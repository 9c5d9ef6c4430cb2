//! Every metric, once: its name, help and buckets in [`METRICS`], and a function that records it. Dashboards and
//! alerts may name no other, and a test compares. Middleware, the runner and the loops call these; handlers and jobs
//! do not.

mod requests;

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use self::requests::{cache_request, http_request};

use crate::jobs::QUEUE_OF_KIND;

/// What kind of series a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// A value now.
    Gauge,
    /// A distribution over these upper bounds (seconds).
    Histogram(&'static [f64]),
}

use Kind::{Counter, Gauge, Histogram};

/// From half a millisecond to ten seconds: what happens while somebody waits.
const FAST: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a millisecond to an hour: what happens later.
const SLOW: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// From a tenth of a millisecond to ten seconds: a statement.
const FASTEST: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All metrics: name, kind, help.
pub const METRICS: &[(&str, Kind, &str)] = &[
    ("http_requests_total", Counter, "Requests by method, route template and status"),
    ("http_request_duration_seconds", Histogram(FAST), "Time from a request's head to its answer's head"),
    ("tasktracker_jobs_total", Counter, "Attempts that ended, by queue, kind and outcome"),
    ("tasktracker_job_duration_seconds", Histogram(SLOW), "Time that a handler ran"),
    ("tasktracker_job_wait_seconds", Histogram(SLOW), "Time from due to started"),
    ("tasktracker_queue_jobs", Gauge, "Unfinished jobs in the ledger by queue and state"),
    (
        "tasktracker_queue_oldest_ready_age_seconds",
        Gauge,
        "Age of the oldest job that is due and not started",
    ),
    ("tasktracker_worker_last_fetch_timestamp_seconds", Gauge, "When the fetch loop last completed a round"),
    ("tasktracker_relay_pushed_total", Counter, "Jobs that the relay pushed because no dispatcher had"),
    ("tasktracker_reconcile_repushed_total", Counter, "Jobs that Redis had lost and that were pushed again"),
    (
        "tasktracker_dispatcher_overflow_total",
        Counter,
        "Committed jobs left to the relay because the outbox was full",
    ),
    ("tasktracker_scheduler_ticks_total", Counter, "Cron slots by schedule and result"),
    (
        "tasktracker_scheduler_last_slot_timestamp_seconds",
        Gauge,
        "The last cron slot that was dealt with, by schedule",
    ),
    (
        "tasktracker_scheduler_last_round_timestamp_seconds",
        Gauge,
        "When a loop of the scheduler last completed a round without an error",
    ),
    (
        "tasktracker_reminder_lateness_seconds",
        Histogram(SLOW),
        "Time from a fire's instant to its mail's acceptance",
    ),
    ("tasktracker_reminders_due_unsent", Gauge, "Fires that are due and neither sent nor settled"),
    ("tasktracker_reminder_fires_total", Counter, "Fires that were settled, by state and reason"),
    ("tasktracker_digests_total", Counter, "Daily summaries that were settled, by state"),
    ("tasktracker_audit_events_total", Counter, "Rows of the audit trail, by type of event"),
    ("tasktracker_smtp_send_seconds", Histogram(FAST), "Time of an SMTP transaction"),
    ("tasktracker_smtp_errors_total", Counter, "SMTP failures by class"),
    (
        "tasktracker_webhook_deliveries_total",
        Counter,
        "Attempts of webhook deliveries and their cancellations, by result",
    ),
    (
        "tasktracker_webhook_oldest_pending_age_seconds",
        Gauge,
        "Age of the oldest webhook delivery that was not tried yet",
    ),
    ("tasktracker_task_operations_total", Counter, "Changes of tasks by operation"),
    ("tasktracker_users_active", Gauge, "People who were there within a day or a week"),
    (
        "tasktracker_task_completion_seconds",
        Gauge,
        "Time from making a task to finishing it, of those finished within a day: quantiles",
    ),
    ("tasktracker_auth_events_total", Counter, "Registrations, logins, refreshes and logouts by result"),
    ("tasktracker_rate_limited_total", Counter, "Requests refused by a limiter, by bucket"),
    (
        "tasktracker_rate_limiter_fallback_total",
        Counter,
        "Decisions of the local limiter because Redis was away",
    ),
    ("tasktracker_cache_requests_total", Counter, "Questions for a copy in Redis, by result"),
    (
        "tasktracker_requests_shed_total",
        Counter,
        "Requests refused because too many were waiting already, by what they wait for",
    ),
    (
        "tasktracker_db_pool_connections",
        Gauge,
        "Pooled connections in use and idle, and who is waiting for one",
    ),
    (
        "tasktracker_db_query_duration_seconds",
        Histogram(FASTEST),
        "Time from sending a statement to the first of its answer, commits among them",
    ),
    (
        "tasktracker_tx_dropped_total",
        Counter,
        "Transactions dropped without a commit; their connection was closed",
    ),
    (
        "tasktracker_backup_last_success_timestamp_seconds",
        Gauge,
        "When the newest backup was finished; 0 if there is none",
    ),
    ("tasktracker_backup_size_bytes", Gauge, "Size of the newest backup; 0 if there is none"),
    ("tasktracker_redis_up", Gauge, "1 if the last command to Redis succeeded"),
    ("tasktracker_redis_memory_bytes", Gauge, "Memory that Redis uses for data"),
    ("tasktracker_redis_memory_limit_bytes", Gauge, "maxmemory of Redis; 0 if it has no limit"),
    ("tasktracker_pg_database_size_bytes", Gauge, "Size of the database on disk"),
    ("tasktracker_pg_connections", Gauge, "Connections to the PostgreSQL server, of everybody"),
    ("tasktracker_pg_connections_limit", Gauge, "max_connections of the PostgreSQL server"),
    (
        "tasktracker_invalid_zone_total",
        Counter,
        "Unknown zone names in the database that were read as the default zone",
    ),
    (
        "tasktracker_best_effort_failures_total",
        Counter,
        "Failures that were tolerated, by what was attempted",
    ),
];

/// How often what was recorded is summed up, also if nobody asks: until then each single value is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder; each process calls it once, in its runtime. The handle renders the page.
///
/// # Errors
/// If a recorder is installed already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for (name, kind, _) in METRICS {
        if let Histogram(buckets) = kind {
            builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    for (name, kind, help) in METRICS {
        match kind {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Histogram(_) => describe_histogram!(*name, *help),
        }
    }
    metrics_process::Collector::default().describe();
    let kept = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

/// The Prometheus text format, with the process's own figures read now.
pub fn render(handle: &PrometheusHandle) -> String {
    metrics_process::Collector::default().collect();
    handle.run_upkeep();
    handle.render()
}

/// What the counters of a worker are labelled with, from the beginning: see [`start_worker`].
const OUTCOMES: &[&str] = &["done", "retry", "dead", "cancelled"];

/// Puts a worker's counters at 0. A series that begins with its first event shows no increase for it, and an alert on
/// that increase would be silent: the first dead job, the first refused login.
pub fn start_worker() {
    for (kind, queue) in QUEUE_OF_KIND {
        for outcome in OUTCOMES {
            counter!("tasktracker_jobs_total", "queue" => *queue, "kind" => *kind, "outcome" => *outcome)
                .absolute(0);
        }
    }
    for class in ["temporary", "ambiguous", "rejected", "auth"] {
        counter!("tasktracker_smtp_errors_total", "class" => class).absolute(0);
    }
    for result in ["succeeded", "failed", "exhausted", "cancelled"] {
        counter!("tasktracker_webhook_deliveries_total", "result" => result).absolute(0);
    }
}

/// Puts a scheduler's counters at 0, as [`start_worker`] does.
pub fn start_scheduler() {
    counter!("tasktracker_relay_pushed_total").absolute(0);
    counter!("tasktracker_reconcile_repushed_total").absolute(0);
}

/// An attempt ended.
pub fn job_finished(queue: &str, kind: &str, outcome: &'static str, took: Duration) {
    counter!("tasktracker_jobs_total", "queue" => queue.to_owned(), "kind" => kind.to_owned(), "outcome" => outcome)
        .increment(1);
    histogram!("tasktracker_job_duration_seconds", "kind" => kind.to_owned()).record(took);
}

/// A job was given up because the workers that held it died.
pub fn job_died_with_its_worker(queue: &str, kind: &str) {
    counter!("tasktracker_jobs_total", "queue" => queue.to_owned(), "kind" => kind.to_owned(), "outcome" => "dead")
        .increment(1);
}

/// A job started `waited` after it was due.
pub fn job_started(queue: &str, waited: Duration) {
    histogram!("tasktracker_job_wait_seconds", "queue" => queue.to_owned()).record(waited);
}

/// How many unfinished jobs of a queue are in a state.
pub fn queue_jobs(queue: &str, state: &'static str, count: f64) {
    gauge!("tasktracker_queue_jobs", "queue" => queue.to_owned(), "state" => state).set(count);
}

/// How long the oldest due job of a queue waits.
pub fn queue_oldest_ready_age(queue: &str, age: f64) {
    gauge!("tasktracker_queue_oldest_ready_age_seconds", "queue" => queue.to_owned()).set(age);
}

/// A fetch loop completed a round at this Unix time.
pub fn worker_fetched(queue: &str, unix_seconds: f64) {
    gauge!("tasktracker_worker_last_fetch_timestamp_seconds", "queue" => queue.to_owned()).set(unix_seconds);
}

/// The relay pushed jobs.
pub fn relay_pushed(count: usize) {
    counter!("tasktracker_relay_pushed_total").increment(count as u64);
}

/// Reconcile pushed jobs again.
pub fn reconcile_repushed(count: usize) {
    counter!("tasktracker_reconcile_repushed_total").increment(count as u64);
}

/// Committed jobs did not fit into the outbox.
pub fn dispatcher_overflowed(count: usize) {
    counter!("tasktracker_dispatcher_overflow_total").increment(count as u64);
}

/// Cron slots were handled: `enqueued`, `duplicate` or `skipped`.
pub fn scheduler_tick(schedule: &str, result: &'static str, count: usize) {
    counter!("tasktracker_scheduler_ticks_total", "schedule" => schedule.to_owned(), "result" => result)
        .increment(count as u64);
}

/// All cron slots of a schedule up to this Unix time have been dealt with.
pub fn schedule_reached(schedule: &str, unix_seconds: f64) {
    gauge!("tasktracker_scheduler_last_slot_timestamp_seconds", "schedule" => schedule.to_owned())
        .set(unix_seconds);
}

/// A loop of the scheduler completed a round at this Unix time.
pub fn round_completed(name: &'static str, unix_seconds: f64) {
    gauge!("tasktracker_scheduler_last_round_timestamp_seconds", "loop" => name).set(unix_seconds);
}

/// A fire was settled; `late` if it was sent.
pub fn fire_settled(state: &'static str, reason: &str, late: Option<Duration>) {
    counter!("tasktracker_reminder_fires_total", "state" => state, "reason" => reason.to_owned())
        .increment(1);
    if let Some(late) = late {
        histogram!("tasktracker_reminder_lateness_seconds").record(late);
    }
}

/// Something was written into the audit trail.
pub fn audited(event_type: &'static str) {
    counter!("tasktracker_audit_events_total", "type" => event_type).increment(1);
}

/// A daily summary was settled.
pub fn digest_settled(state: &'static str) {
    counter!("tasktracker_digests_total", "state" => state).increment(1);
}

/// How many fires are due and unsent.
pub fn reminders_due_unsent(count: f64) {
    gauge!("tasktracker_reminders_due_unsent").set(count);
}

/// An SMTP transaction ended; `error` is its class if it failed.
pub fn smtp_sent(took: Duration, error: Option<&'static str>) {
    histogram!("tasktracker_smtp_send_seconds").record(took);
    if let Some(class) = error {
        counter!("tasktracker_smtp_errors_total", "class" => class).increment(1);
    }
}

/// An attempt of a webhook delivery ended (`succeeded`, `failed`, `exhausted`), or it was `cancelled`.
pub fn webhook_delivery(result: &'static str) {
    counter!("tasktracker_webhook_deliveries_total", "result" => result).increment(1);
}

/// For how long the oldest webhook delivery waits that was not tried yet.
pub fn webhook_oldest_pending_age(age: f64) {
    gauge!("tasktracker_webhook_oldest_pending_age_seconds").set(age);
}

/// A task was changed.
pub fn task_operation(operation: &'static str) {
    counter!("tasktracker_task_operations_total", "op" => operation).increment(1);
}

/// Somebody registered, logged in, refreshed or logged out, or failed to.
pub fn auth_event(event: &'static str, result: &'static str) {
    counter!("tasktracker_auth_events_total", "event" => event, "result" => result).increment(1);
}

/// A limiter refused a request.
pub fn rate_limited(bucket: &'static str) {
    counter!("tasktracker_rate_limited_total", "bucket" => bucket).increment(1);
}

/// The local limiter decided because Redis was away.
pub fn rate_limiter_fell_back() {
    counter!("tasktracker_rate_limiter_fallback_total").increment(1);
}

/// A request was refused because as many as may were waiting already: for a connection of the `database`, until
/// `passwords` are hashed, or for an `answer` whatever it waits for.
pub fn request_shed(waiting_for: &'static str) {
    counter!("tasktracker_requests_shed_total", "waiting_for" => waiting_for).increment(1);
}

/// Puts an API's counters at 0, as [`start_worker`] does.
pub fn start_api() {
    for waiting_for in ["answer", "database", "passwords"] {
        counter!("tasktracker_requests_shed_total", "waiting_for" => waiting_for).absolute(0);
    }
    for result in ["hit", "miss"] {
        counter!("tasktracker_cache_requests_total", "result" => result).absolute(0);
    }
}

/// The pool's connections, and who waits for one.
pub fn db_pool(in_use: usize, idle: usize, waiting: usize) {
    gauge!("tasktracker_db_pool_connections", "state" => "waiting").set(waiting as f64);
    gauge!("tasktracker_db_pool_connections", "state" => "in_use").set(in_use as f64);
    gauge!("tasktracker_db_pool_connections", "state" => "idle").set(idle as f64);
}

/// Where the time of a statement goes. A connection keeps it: to look it up takes longer than to record.
pub fn db_query_duration() -> metrics::Histogram {
    histogram!("tasktracker_db_query_duration_seconds")
}

/// A transaction was dropped without a commit.
pub fn transaction_dropped() {
    counter!("tasktracker_tx_dropped_total").increment(1);
}

/// Whether the last command to Redis succeeded.
pub fn redis_up(up: bool) {
    gauge!("tasktracker_redis_up").set(if up { 1.0 } else { 0.0 });
}

/// How much memory Redis uses, and may use.
pub fn redis_memory(used: f64, limit: f64) {
    gauge!("tasktracker_redis_memory_bytes").set(used);
    gauge!("tasktracker_redis_memory_limit_bytes").set(limit);
}

/// When the newest backup was finished, in Unix time, and how large it is.
pub fn backup(unix_seconds: f64, size: f64) {
    gauge!("tasktracker_backup_last_success_timestamp_seconds").set(unix_seconds);
    gauge!("tasktracker_backup_size_bytes").set(size);
}

/// How large the database is, and how many connections its server has of how many.
pub fn postgres(size: f64, connections: f64, limit: f64) {
    gauge!("tasktracker_pg_database_size_bytes").set(size);
    gauge!("tasktracker_pg_connections").set(connections);
    gauge!("tasktracker_pg_connections_limit").set(limit);
}

/// How many people were there within a `day` or a `week`.
pub fn users_active(within: &'static str, count: f64) {
    gauge!("tasktracker_users_active", "within" => within).set(count);
}

/// How long tasks took that were finished within a day, in seconds; 0 if there are none.
pub fn task_completion(median: f64, p90: f64) {
    gauge!("tasktracker_task_completion_seconds", "quantile" => "0.5").set(median);
    gauge!("tasktracker_task_completion_seconds", "quantile" => "0.9").set(p90);
}

/// A zone name from the database was unknown.
pub fn invalid_zone() {
    counter!("tasktracker_invalid_zone_total").increment(1);
}

/// Something that may fail did fail; each call says why that is tolerable.
pub fn best_effort_failed(what: &'static str) {
    counter!("tasktracker_best_effort_failures_total", "what" => what).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_name_is_declared_and_every_declared_name_is_recorded() {
        let source = concat!(include_str!("metrics.rs"), include_str!("metrics/requests.rs"));
        let recorded: std::collections::BTreeSet<&str> = source
            .split("counter!(\"")
            .skip(1)
            .chain(source.split("gauge!(\"").skip(1))
            .chain(source.split("histogram!(\"").skip(1))
            .filter_map(|rest| rest.split('"').next())
            .filter(|name| name.ends_with(|c: char| c.is_ascii_alphabetic()) && name.contains('_'))
            .collect();
        let declared: std::collections::BTreeSet<&str> = METRICS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(recorded, declared);
    }
}
