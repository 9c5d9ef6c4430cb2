use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Process, Shape, secs};
use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    figures::{Figures, say},
    options::length,
    traffic::{Outcome, People},
};

/// What a process may hold.
const MEMORY: f64 = 256.0 * MEBIBYTE;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The API alone, as an installation has it.
async fn start() -> Cluster {
    let settings = vec![("DATABASE_POOL_SIZE", "10".to_owned())];
    Cluster::start(Shape { workers: 0, schedulers: 0, settings, ..Shape::default() }).await
}

/// R37: five times as many requests as can be answered. Most of what could be answered still is, the rest is refused at once, the
/// process stays ready and small, and afterwards everything is as before.
#[tokio::test]
async fn r37_five_times_too_many_requests_are_refused_or_answered() {
    let mut cluster = start().await;
    let people = People::new(&cluster, 50).await;
    people.one_after_the_other(32, secs(1)).await;
    let peak = people.one_after_the_other(32, secs(3)).await;
    assert_eq!(peak.others, [""; 0]);

    let before = most_memory(&cluster.apis[0]).await;
    let over = CancellationToken::new();
    let load = async {
        let outcome = people.at_a_rate(5.0 * peak.goodput(), 512, length(secs(6))).await;
        over.cancel();
        outcome
    };
    let (outcome, (looks, unready)) = tokio::join!(load, stays_ready(&cluster.apis[0], &over));
    let Outcome { done, refused, made, others, .. } = &outcome;
    let memory = most_memory(&cluster.apis[0]).await;
    let share = 100.0 * outcome.goodput() / peak.goodput();
    say!(
        "R37: peak {:.0}/s; asked {:.0}/s, answered {:.0}/s: {share:.0} % of the peak",
        peak.goodput(),
        outcome.rate(),
        outcome.goodput()
    );
    say!("     answered {}", Figures::new(done.clone()));
    assert!(!refused.is_empty(), "it was not too much");
    say!("     refused {}", Figures::new(refused.clone()));
    say!(
        "     {:.1} MiB at most before, {:.1} MiB then; asked {looks} times whether it is ready, {unready} times without a yes within a second",
        before / MEBIBYTE,
        memory / MEBIBYTE
    );

    assert_eq!(others, &[""; 0], "nothing but answers and refusals");
    for (whose, id) in made {
        let path = format!("/tasks/{id}");
        let answer = people.person(*whose).request(Method::GET, &path, None).await.unwrap();
        assert_eq!(answer.status, 200, "{id} was acknowledged and is gone: {}", answer.body);
    }
    let after = people.one_after_the_other(8, secs(1)).await;
    assert_eq!((after.refused.len(), &after.others), (0, &Vec::new()), "it is over");
    // Half of the goal, as something else may run beside it. In a debug build a refusal costs nearly as much as an answer.
    assert!(cfg!(debug_assertions) || share >= 40.0, "{share:.0} % of the peak");
    assert!(memory <= MEMORY, "{memory} bytes");
    cluster.assert_all_live();
}

/// Asks the API whether it is ready, and answers how often that was, and how often it did not say yes within a second. It
/// should; on a machine that is busy with something else it may not.
async fn stays_ready(api: &Process, over: &CancellationToken) -> (usize, usize) {
    let (mut asked, mut unready) = (0, 0);
    while over.run_until_cancelled(tokio::time::sleep(Duration::from_millis(200))).await.is_some() {
        asked += 1;
        unready += usize::from(api.ready().await.is_err());
    }
    (asked, unready)
}

/// The most memory that a process ever held, where the system tells (proc_pid_status(5)), or what it holds now; in bytes.
async fn most_memory(api: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", api.pid().unwrap_or_default()));
    let most = status.ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<f64>().ok()
    });
    match most {
        Some(kilobytes) => kilobytes * 1024.0,
        None => api.metrics().await.sum("process_resident_memory_bytes", &[]),
    }
}

/// R37 with as many people as use it at once: a hundred, each with a connection of their own, who work with tasks. First with moments
/// between their requests, then without, so that a hundred are always under way. Every request is answered within half a
/// second (a debug build on a busy machine says nothing about that).
#[tokio::test]
async fn r37_a_hundred_people_at_once_are_answered_soon() {
    let mut cluster = start().await;
    let people = People::new(&cluster, 100).await;
    work(&people, secs(1), secs(0)).await;
    for (what, pause) in
        [("with up to a second between their requests", secs(1)), ("without a pause", secs(0))]
    {
        let took = work(&people, length(secs(5)), pause).await;
        let figures = Figures::new(took);
        say!("R37: {} people {what}: {figures}", people.len());
        assert!(cfg!(debug_assertions) || figures.percentile(100) < Duration::from_millis(500), "{figures}");
    }
    cluster.assert_all_live();
}

/// Each makes a task, looks at it, changes it, comments on it and completes it, again and again. Answers how long each request
/// took; none fails.
async fn work(people: &People, length: Duration, pause: Duration) -> Vec<Duration> {
    let end = Instant::now() + length;
    let all = (0..people.len()).map(async |whose| {
        let (person, mut line) = (people.person(whose), people.line());
        let mut chance = StdRng::seed_from_u64(whose as u64);
        let (mut took, mut task) = (Vec::new(), String::new());
        for step in (0..6).cycle() {
            let (method, path, body) = match step {
                0 => (Method::GET, "/tasks?limit=20".to_owned(), None),
                1 => (Method::POST, "/tasks".to_owned(), Some(json!({ "title": "Ship it" }))),
                2 => (Method::GET, task.clone(), None),
                3 => (Method::PATCH, task.clone(), Some(json!({ "priority": "high" }))),
                4 => (Method::POST, format!("{task}/comments"), Some(json!({ "body": "Nearly done." }))),
                _ => (Method::POST, format!("{task}/complete"), None),
            };
            if !pause.is_zero() {
                tokio::time::sleep(pause.mul_f64(chance.random())).await;
            }
            if Instant::now() > end {
                return took;
            }
            let request = person.bytes_of(&method, &path, body.as_ref());
            let asked = Instant::now();
            let came = line.send(&request).await.unwrap();
            took.push(asked.elapsed());
            assert!((200..300).contains(&came.status), "{method} {path}: {} {}", came.status, came.json());
            if step == 1 {
                task = format!("/tasks/{}", came.json()["id"].as_str().unwrap());
            }
        }
        took
    });
    join_all(all).await.concat()
}
