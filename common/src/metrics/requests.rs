//! What is counted at each request. A handle is asked for once: to find one by its labels costs more than to count with it.

use std::{
    collections::HashMap,
    sync::{LazyLock, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Counter, Histogram, counter, histogram};

/// Of the answers of one route: method, status, how many, and how long they took.
type Answers = Vec<(&'static str, u16, Counter, Histogram)>;

static ANSWERS: LazyLock<RwLock<HashMap<String, Answers>>> = LazyLock::new(RwLock::default);

/// A request was answered. Routes are templates and methods few, so there are not many.
pub fn http_request(method: &'static str, route: &str, status: u16, took: Duration) {
    let record = |answers: &Answers| {
        let same = answers.iter().find(|answer| (answer.0, answer.1) == (method, status));
        same.inspect(|(_, _, count, duration)| {
            count.increment(1);
            duration.record(took);
        })
        .is_some()
    };
    if ANSWERS.read().unwrap_or_else(PoisonError::into_inner).get(route).is_some_and(record) {
        return;
    }
    let labels = [("method", method.to_owned()), ("route", route.to_owned())];
    let duration = histogram!("http_request_duration_seconds", &labels);
    let [method_label, route_label] = labels;
    let status_label = ("status", status.to_string());
    let count = counter!("http_requests_total", &[method_label, route_label, status_label]);
    let mut answers = ANSWERS.write().unwrap_or_else(PoisonError::into_inner);
    let answers = answers.entry(route.to_owned()).or_default();
    answers.push((method, status, count, duration));
    record(answers);
}

static HITS: LazyLock<Counter> =
    LazyLock::new(|| counter!("tasktracker_cache_requests_total", "result" => "hit"));
static MISSES: LazyLock<Counter> =
    LazyLock::new(|| counter!("tasktracker_cache_requests_total", "result" => "miss"));

/// Somebody asked for a copy of something, and there was one, or there was none.
pub fn cache_request(is_hit: bool) {
    if is_hit { &HITS } else { &MISSES }.increment(1);
}
