use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Person, Shape, secs, until};
use chrono::TimeDelta;
use common::{clock::Clock, jobs::Act};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    figures::{Figures, say},
    options::length,
};

/// How long Redis is away; five minutes in the goals, `SCENARIO_MINUTES=5`.
const OUTAGE: Duration = secs(20);

/// R11: Redis dies under load and comes back empty. Every request is answered with 2xx, all that was owed is drained
/// within a minute, and no process ends.
#[tokio::test]
async fn r11_redis_may_die_and_come_back_empty() {
    // The API asks Redis at each request, and never says no.
    let settings = vec![("RATE_LIMIT_PER_MINUTE", "1000000".to_owned())];
    let mut cluster = Cluster::start(Shape { own_redis: true, apis: 2, settings, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let people = [cluster.person("ann").await, cluster.person("ben").await];
    let mut running = cluster.enqueue_many(&effects, 10, Act::Sleep(4_000)).await;
    until("they run", secs(10), async || effects.started(running.len())).await;

    let calm = load(&cluster, &people, secs(2)).await;
    cluster.redis_server().kill9().await;
    let down = load(&cluster, &people, length(OUTAGE)).await;
    cluster.assert_all_live();
    running.extend(cluster.enqueue_many(&effects, 200, Act::Nothing).await);
    cluster.redis_server().start_again().await;
    let back = Instant::now();

    let owed = calm.len() + down.len();
    let reminded = || cluster.mail().messages().iter().map(|mail| reminders(&mail.text)).sum::<usize>();
    until("everything is drained", secs(60), async || {
        cluster.drained().await?;
        if reminded() >= owed { Ok(()) } else { Err(format!("{} of {owed} reminders are sent", reminded())) }
    })
    .await;
    let mails = reminded();
    say!(
        "R11: calm {}\n     down {}\n     drained {:.1} s after",
        Figures::new(calm),
        Figures::new(down),
        back.elapsed().as_secs_f64()
    );
    cluster.assert_all_live();
    assert_eq!(mails, owed, "each reminder is sent once");
    assert_eq!(effects.all().len(), running.len(), "each probe starts once");
}

/// Creates tasks with a reminder that is due at once, and reads them, for a while. Answers how long each creation took.
async fn load(cluster: &Cluster, people: &[Person], length: Duration) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let end = Instant::now() + length;
    while Instant::now() < end {
        every.tick().await;
        let api = cluster.apis[took.len() % cluster.apis.len()].public();
        let person = people[took.len() % people.len()].through(api);
        let at = Clock::Database.instant() + TimeDelta::seconds(1);
        let asked = Instant::now();
        let answer = person
            .create_task(json!({ "title": "remind me", "reminders": [{ "kind": "absolute", "at": at }] }))
            .await;
        took.push(asked.elapsed());
        let path = format!("/tasks/{}", answer.body["id"].as_str().unwrap());
        let answer = person.request(Method::GET, &path, None).await.unwrap();
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
    }
    took
}

/// How many reminders a mail holds: those that are due together are one mail, which names the first and counts the rest.
fn reminders(text: &str) -> usize {
    let rest = text.split_once("… and ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    text.matches("remind me").count() + rest.unwrap_or(0)
}

/// R12: FLUSHALL and SCRIPT FLUSH in mid-run. What waited continues within a minute, what runs is not started again, and
/// who had logged out stays so.
#[tokio::test]
async fn r12_a_flush_loses_nothing_and_starts_nothing_twice() {
    let mut cluster = Cluster::start(Shape { own_redis: true, apis: 2, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    assert_eq!(ann.request(Method::POST, "/auth/logout", None).await.unwrap().status, StatusCode::NO_CONTENT);
    let effects = cluster.effects("effects");
    cluster.enqueue_many(&effects, 30, Act::Sleep(8_000)).await;
    until("the long ones run", secs(10), async || effects.started(30)).await;
    cluster.enqueue_many(&effects, 2_000, Act::Sleep(400)).await;
    until("some of the short ones run", secs(20), async || {
        let started = effects.starts().len();
        if started > 100 { Ok(()) } else { Err(format!("{started}")) }
    })
    .await;

    cluster.redis_server().command(&["FLUSHALL"]).await;
    cluster.redis_server().command(&["SCRIPT", "FLUSH"]).await;
    let flushed = Instant::now();
    for api in &cluster.apis {
        let answer = ann.through(api.public()).request(Method::GET, "/tasks", None).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}: {}", api.name(), answer.body);
    }
    let started = effects.starts().len();
    assert!(started < 2_000, "there was nothing left to lose: {started}");

    until("everything is drained", secs(60), async || cluster.drained().await).await;
    say!("R12: {} jobs continued within {:.1} s", 2_030 - started, flushed.elapsed().as_secs_f64());
    cluster.assert_all_live();
    effects.started(2_030).unwrap();
    assert_eq!(effects.all().len(), 2_030, "each starts once");
}
