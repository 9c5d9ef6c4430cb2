use chaos::cluster::{Cluster, Program, Shape, secs, until};
use chrono::TimeDelta;
use common::{
    clock::Clock,
    metrics::{Kind, METRICS},
};
use serde_json::json;

/// Prometheus can scrape all three processes: the text is in its format, every name is one of the list or of the process,
/// each with its type and help, and histograms have buckets.
#[tokio::test]
async fn all_three_processes_can_be_scraped() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    let at = Clock::Database.instant();
    ann.create_task(json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
    cluster.mail().wait_for_count(1, secs(20)).await.unwrap();
    until("the job is done", secs(5), async || cluster.drained().await).await;

    for process in cluster.processes_mut() {
        let exposition = process.metrics().await;
        for (name, family) in &exposition.0 {
            let whose = format!("{} of {}", name, process.name());
            let expected = METRICS.iter().find(|(known, ..)| known == name);
            assert!(expected.is_some() || name.starts_with("process_"), "{whose} is not in the list");
            if let Some((_, kind, help)) = expected {
                let kind = match kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                    Kind::Histogram(_) => "histogram",
                };
                assert_eq!((family.kind.as_str(), family.help.as_str()), (kind, *help), "{whose}");
            }
            assert!(!family.samples.is_empty(), "{whose} has no sample");
            if family.kind == "histogram" {
                family.check_histogram().unwrap_or_else(|wrong| panic!("{whose}: {wrong}"));
            }
        }
        let wanted: &[&str] = match process.program() {
            Program::Api => &[
                "http_requests_total",
                "http_request_duration_seconds",
                "tasktracker_auth_events_total",
                "tasktracker_db_pool_connections",
            ],
            Program::Worker => &[
                "tasktracker_jobs_total",
                "tasktracker_job_wait_seconds",
                "tasktracker_reminder_lateness_seconds",
                "tasktracker_worker_last_fetch_timestamp_seconds",
            ],
            Program::Scheduler => {
                &["tasktracker_queue_jobs", "tasktracker_reminders_due_unsent", "tasktracker_redis_up"]
            }
        };
        for name in wanted.iter().chain(&["process_resident_memory_bytes"]) {
            assert!(exposition.0.contains_key(*name), "{} has no {name}", process.name());
        }
    }
    let sent = cluster.workers[0].metrics().await;
    let done = sent.sum("tasktracker_jobs_total", &[("kind", "send_reminder"), ("outcome", "done")]);
    assert_eq!(done, 1.0);
}

/// One request can be followed: the id that the API answers is in its log, on the job, in the worker's log and in the mail.
#[tokio::test]
async fn one_request_id_is_found_everywhere() {
    let cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    let at = Clock::Database.instant() + TimeDelta::seconds(1);
    let answer =
        ann.create_task(json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
    let id = answer.request_id;
    assert!(!id.is_empty());

    let mails = cluster.mail().wait_for_count(1, secs(20)).await.unwrap();
    let header = mails[0].headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
    assert_eq!(header.map(|(_, value)| value.trim()), Some(id.as_str()));
    until("the job is done", secs(5), async || cluster.drained().await).await;
    let jobs = cluster.jobs("send_reminder").await;
    assert_eq!(jobs.iter().map(|job| job.request_id.as_deref()).collect::<Vec<_>>(), [Some(id.as_str())]);
    for process in [&cluster.apis[0], &cluster.workers[0]] {
        assert!(
            process.log().lines().any(|line| line.contains(&id)),
            "no line of {} names {id}",
            process.name()
        );
    }
}
