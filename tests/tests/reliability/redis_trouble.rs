use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Effects, Person, Shape, Signal, secs, until};
use common::{jobs::Act, ledger::JobState};
use reqwest::Method;
use serde_json::json;

use crate::figures::{Figures, say};

/// R13: Redis takes connections and commands and answers none, for longer than any timeout of ours. No worker and no
/// scheduler ends, requests take at most 20 ms more, and what waited goes on.
#[tokio::test]
async fn r13_workers_and_schedulers_outlive_a_black_hole() {
    let mut cluster = start().await;
    let mut load = Load::start(&cluster).await;
    let calm = load.go_on(&cluster, secs(5)).await;
    let pids: Vec<_> = cluster.processes_mut().map(|process| process.pid()).collect();

    cluster.redis_server().signal(Signal::STOP);
    let black = load.go_on(&cluster, secs(20)).await;
    for process in cluster.processes_mut() {
        process.ready().await.unwrap_or_else(|seen| panic!("{} is not ready: {seen}", process.name()));
    }
    cluster.redis_server().signal(Signal::CONT);
    let back = Instant::now();
    until("everything is drained", secs(60), async || cluster.drained().await).await;
    report("R13: black hole", &calm, &black, back.elapsed());
    load.assert_each_ran_once();
    assert_eq!(cluster.processes_mut().map(|process| process.pid()).collect::<Vec<_>>(), pids);
    cluster.assert_all_live();
}

/// R13: Redis stalls for 600 ms, again and again. No worker and no scheduler ends, jobs go on, requests take at most 20 ms
/// more.
#[tokio::test]
async fn r13_workers_and_schedulers_outlive_stalls() {
    let mut cluster = start().await;
    let mut load = Load::start(&cluster).await;
    let calm = load.go_on(&cluster, secs(5)).await;
    let mut stalled = Vec::new();
    for _ in 0..10 {
        cluster.redis_server().command(&["CLIENT", "PAUSE", "600", "ALL"]).await;
        stalled.extend(load.go_on(&cluster, secs(1)).await);
    }
    let started = load.effects.starts().len();
    let back = Instant::now();
    until("everything is drained", secs(20), async || cluster.drained().await).await;
    report("R13: stalls", &calm, &stalled, back.elapsed());
    assert!(started > load.jobs / 2, "jobs go on meanwhile: {started} of {}", load.jobs);
    load.assert_each_ran_once();
    cluster.assert_all_live();
}

/// A cluster whose API asks Redis at each request, and never says no.
async fn start() -> Cluster {
    let settings = vec![("RATE_LIMIT_PER_MINUTE", "1000000".to_owned())];
    Cluster::start(Shape { own_redis: true, settings, ..Shape::default() }).await
}

/// Requests to the API, one after another, and jobs.
struct Load {
    people: Vec<Person>,
    effects: Effects,
    jobs: usize,
    requests: usize,
}

impl Load {
    async fn start(cluster: &Cluster) -> Self {
        let mut people = Vec::new();
        for number in 0..6 {
            people.push(cluster.person(&format!("person-{number}")).await);
        }
        let mut load = Self { people, effects: cluster.effects("effects"), jobs: 0, requests: 0 };
        // What is slow only the first time is not measured.
        load.go_on(cluster, secs(1)).await;
        load
    }

    /// Five jobs and a task every 100 ms. Answers how long each request took.
    async fn go_on(&mut self, cluster: &Cluster, length: Duration) -> Vec<Duration> {
        let mut took = Vec::new();
        let mut every = tokio::time::interval(Duration::from_millis(100));
        let end = Instant::now() + length;
        while Instant::now() < end {
            every.tick().await;
            self.jobs += cluster.enqueue_many(&self.effects, 5, Act::Nothing).await.len();
            let person = &self.people[self.requests % self.people.len()];
            self.requests += 1;
            let asked = Instant::now();
            let answer = person.request(Method::POST, "/tasks", Some(json!({ "title": "a task" }))).await;
            took.push(asked.elapsed());
            let answer = answer.unwrap();
            assert!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
        }
        took
    }

    fn assert_each_ran_once(&self) {
        self.effects.started(self.jobs).unwrap();
        assert_eq!(self.effects.all().len(), self.jobs, "each starts once");
    }
}

fn report(what: &str, calm: &[Duration], trouble: &[Duration], drained: Duration) {
    let (calm, trouble) = (Figures::new(calm.to_vec()), Figures::new(trouble.to_vec()));
    say!(
        "{what}: requests before {calm}\n     during {trouble}\n     drained {:.1} s after",
        drained.as_secs_f64()
    );
    let more = |percent| trouble.percentile(percent).saturating_sub(calm.percentile(percent));
    // The goal is 20 ms, on a machine that does nothing else. A request that waits for Redis waits for its timeout.
    assert!(more(75) <= Duration::from_millis(200), "requests wait for Redis: {:?} more", more(75));
    // One request a second finds out that Redis is away; none may wait for it as a worker does.
    assert!(trouble.percentile(99) < secs(1), "a request waits for Redis");
}

/// R14: Redis has no memory left. Pushes are refused and the ledger keeps them; what Redis holds is fetched and acked as
/// ever; and when there is room again, all goes on.
#[tokio::test]
async fn r14_a_full_redis_can_still_be_drained() {
    const WAITING: usize = 300;
    const REFUSED: usize = 200;
    let mut cluster = Cluster::start(Shape { own_redis: true, apis: 0, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    cluster.enqueue_many(&effects, WAITING, Act::Sleep(1_000)).await;
    let queue = cluster.queue();
    until("all are in Redis", secs(10), async || match queue.sizes().await {
        Ok((waiting, leased)) if waiting > 0 && leased >= 60 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    cluster.redis_server().command(&["CONFIG", "SET", "maxmemory", "1"]).await;

    let late = cluster.effects("late");
    cluster.enqueue_many(&late, REFUSED, Act::Nothing).await;
    until("what Redis holds is fetched, run and acked", secs(40), async || match queue.sizes().await {
        Ok((0, 0)) => effects.started(WAITING),
        other => Err(format!("{other:?}")),
    })
    .await;
    let kept = cluster.jobs("probe").await;
    let kept: Vec<_> = kept.iter().filter(|job| job.state != JobState::Done).collect();
    assert_eq!(kept.len(), REFUSED, "the ledger keeps them");
    assert!(kept.iter().all(|job| job.state == JobState::Ready && job.pushed_at.is_none()), "{:?}", kept[0]);
    assert!(late.all().is_empty(), "nothing was pushed");
    cluster.assert_all_live();

    cluster.redis_server().command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let room = Instant::now();
    until("everything is drained", secs(20), async || cluster.drained().await).await;
    say!(
        "R14: {WAITING} jobs drained from a full Redis; {REFUSED} refused ones {:.1} s after there was room",
        room.elapsed().as_secs_f64()
    );
    late.started(REFUSED).unwrap();
    assert_eq!((effects.all().len(), late.all().len()), (WAITING, REFUSED), "each starts once");
    cluster.assert_all_live();
}
