use std::{
    fmt,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Person, Process, Shape, secs, until};
use chrono::TimeDelta;
use common::{clock::Clock, jobs::Act};
use reqwest::Method;
use serde_json::json;

use crate::{figures::say, options::length};

/// R38: under a steady load of requests, jobs and mails, the memory and file handles of every process and the keys of
/// Redis stay as they are. A minute; `SCENARIO_MINUTES` makes it longer.
#[tokio::test]
async fn r38_memory_file_handles_and_redis_stay_flat() {
    let mut cluster = Cluster::start(Shape { own_redis: true, ..Shape::default() }).await;
    let mut people = Vec::new();
    for number in 0..6 {
        people.push(cluster.person(&format!("person-{number}")).await);
    }
    let whole = length(secs(60));
    // Pools and caches fill in the first third.
    let mut jobs = load(&cluster, &people, whole / 3).await;
    let warm = look(&mut cluster).await;
    jobs += load(&cluster, &people, whole * 2 / 3).await;
    let end = look(&mut cluster).await;
    until("everything is drained", secs(30), async || cluster.drained().await).await;
    cluster.assert_all_live();

    let keys = |looks: &Looks| looks.keys;
    for (before, after) in warm.processes.iter().zip(&end.processes) {
        say!("R38: {before} -> {after}");
    }
    say!("R38: {jobs} jobs in {} s; Redis {} -> {} keys", whole.as_secs(), keys(&warm), keys(&end));
    for (before, after) in warm.processes.iter().zip(&end.processes) {
        assert!(after.megabytes <= before.megabytes * 1.15 + 8.0, "memory grows: {before} -> {after}");
        assert!(after.handles <= before.handles + 8.0, "file handles grow: {before} -> {after}");
    }
    assert!(keys(&end) <= keys(&warm) + 10, "the keys of Redis grow");
}

struct Looks {
    processes: Vec<Look>,
    keys: u64,
}

/// What a process uses.
struct Look {
    name: String,
    megabytes: f64,
    handles: f64,
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.1} MB, {} handles", self.name, self.megabytes, self.handles)
    }
}

async fn look(cluster: &mut Cluster) -> Looks {
    let mut processes = Vec::new();
    for process in cluster.processes_mut() {
        processes.push(use_of(process).await);
    }
    let keys = redis::from_redis_value(cluster.redis_server().command(&["DBSIZE"]).await).unwrap();
    Looks { processes, keys }
}

async fn use_of(process: &Process) -> Look {
    let metrics = process.metrics().await;
    Look {
        name: process.name().to_owned(),
        megabytes: metrics.sum("process_resident_memory_bytes", &[]) / 1e6,
        handles: metrics.sum("process_open_fds", &[]),
    }
}

/// 50 jobs, five requests and five mails a second. Answers how many jobs it made.
async fn load(cluster: &Cluster, people: &[Person], length: Duration) -> usize {
    let effects = cluster.effects("effects");
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let end = Instant::now() + length;
    let mut jobs = 0;
    for step in 0.. {
        every.tick().await;
        if Instant::now() > end {
            break;
        }
        jobs += cluster.enqueue_many(&effects, 10, Act::Sleep(20)).await.len();
        let person = &people[step % people.len()];
        let at = Clock::Database.instant();
        let task = json!({ "title": "a task", "reminders": [{ "kind": "absolute", "at": at + TimeDelta::seconds(1) }] });
        let answer = person.request(Method::POST, "/tasks", Some(task)).await.unwrap();
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
    }
    jobs
}
