//! Bad surroundings, at the start and in operation: each process says what is wrong, where, and what to do, in its log and on its
//! readiness page. Where waiting can help it waits, and goes on by itself; what is wrong with its settings ends it.

mod mail;
mod postgres;
mod redis;
mod settings;

use chaos::cluster::{Cluster, Person, Process, Shape, secs, until};
use reqwest::{Method, StatusCode};
use serde_json::json;

/// One process of each kind, and servers of their own.
fn one_of_each() -> Shape {
    Shape { workers: 1, schedulers: 1, own_postgres: true, ..Shape::default() }
}

/// Starts every process again, with this setting.
async fn restart_with(cluster: &mut Cluster, name: &'static str, value: &str) {
    for process in cluster.processes_mut() {
        process.kill9().await;
        process.wait_exit(secs(5)).await;
        process.set(name, value.to_owned());
        process.restart();
    }
}

/// Waits until every process is not ready and says all of these, on the readiness page and in the log; none has ended.
async fn each_says(cluster: &mut Cluster, parts: &[&str]) {
    for process in cluster.processes_mut() {
        until(format!("{} says what is wrong: {parts:?}", process.name()), secs(15), async || {
            let said = process.ready().await.err().ok_or("it is ready")?;
            missing(parts, &said)
        })
        .await;
        logs(process, parts).await;
    }
    cluster.assert_all_live();
}

/// Waits until a line of a process's log has all of these.
async fn logs(process: &Process, parts: &[&str]) {
    until(format!("{} logs {parts:?}", process.name()), secs(15), async || {
        let log = process.log();
        // JSON in a line of JSON.
        let found = log.lines().any(|line| missing(parts, &line.replace(r#"\""#, "\"")).is_ok());
        if found { Ok(()) } else { Err(log.lines().rev().take(3).collect::<Vec<_>>().join("\n")) }
    })
    .await;
}

fn missing(parts: &[&str], text: &str) -> Result<(), String> {
    if parts.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text.to_owned()) }
}

async fn all_ready(cluster: &mut Cluster) {
    for process in cluster.processes_mut() {
        process.wait_ready().await;
    }
}

/// 503, and when to come back.
async fn is_unavailable(person: &Person, method: Method, path: &str) {
    let body = (method == Method::POST).then(|| json!({ "title": "a task" }));
    let answer = person.request(method, path, body).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
}
