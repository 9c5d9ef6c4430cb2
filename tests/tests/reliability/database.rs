use std::time::{Duration, Instant};

use chaos::{
    cluster::{Cluster, Person, Shape, secs, until},
    proxy::Mode,
};
use common::{
    db::{AsyncPgConnection, RunQueryDsl as _},
    jobs::Act,
};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::figures::{Figures, say};

/// PostgreSQL throws everybody out and refuses connections for a while. No process ends, the API says 503, and everything
/// goes on by itself.
#[tokio::test]
async fn processes_outlive_an_outage_of_postgresql() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let effects = cluster.effects("effects");
    let ann = cluster.person("ann").await;
    let running = cluster.enqueue_many(&effects, 10, Act::Sleep(3_000)).await;
    until("they run", secs(10), async || effects.started(running.len())).await;

    let mut server = cluster.superuser().await;
    let name = cluster.database_name().to_owned();
    let mut run = async |statement: String| {
        diesel::sql_query(&statement)
            .execute(&mut server)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    };
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    for process in cluster.processes_mut() {
        until(format!("{} is not ready", process.name()), secs(15), async || match process.ready().await {
            Err(_) => Ok(()),
            Ok(()) => Err("it is".to_owned()),
        })
        .await;
    }
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    cluster.assert_all_live();

    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    for process in cluster.processes_mut() {
        process.wait_ready().await;
    }
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let job = cluster.enqueue(&effects, Act::Nothing).await;
    until("jobs run again", secs(10), async || effects.of(job).pop().ok_or("none".into())).await;
    until("everything is drained", secs(30), async || cluster.drained().await).await;
    assert_eq!(effects.all().len(), running.len() + 1, "each starts once");
    cluster.assert_all_live();
}

/// R29: PostgreSQL crashes (immediate shutdown) again and again under load. Every acknowledged write is there afterwards,
/// errors are 503 with `Retry-After`, requests go on within 3 s of its return, and no process ends.
#[tokio::test]
async fn r29_every_acknowledged_write_survives_crashes_of_postgresql() {
    const CRASHES: usize = 3;
    let mut cluster = Cluster::start(Shape { own_postgres: true, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let mut writer = Writer::new(&cluster).await;
    let (mut jobs, mut refused, mut recoveries) = (0, 0, Vec::new());
    for _ in 0..CRASHES {
        let calm = Instant::now() + secs(2);
        while Instant::now() < calm {
            writer.write().await.unwrap();
        }
        // They run through the crash, and end after it.
        jobs += cluster.enqueue_many(&effects, 50, Act::Sleep(5_000)).await.len();
        until("they run", secs(10), async || effects.started(jobs)).await;
        cluster.postgres_server().crash().await;
        let down = Instant::now() + secs(3);
        while Instant::now() < down {
            refused += usize::from(writer.write().await.is_err());
        }
        cluster.postgres_server().start_again().await;
        let accepts = Instant::now();
        until("requests go on", secs(3), async || writer.write().await).await;
        recoveries.push(accepts.elapsed());
        until("everything is drained", secs(60), async || cluster.drained().await).await;
        for process in cluster.processes_mut() {
            process.wait_ready().await;
        }
        cluster.assert_all_live();
    }

    writer.assert_all_there().await;
    effects.started(jobs).unwrap();
    let again = effects.all().len() - jobs;
    say!(
        "R29: {CRASHES} crashes; {} acknowledged writes are there, {refused} refused; {jobs} jobs, {again} started again; \
         recovered after {}",
        writer.written.len(),
        Figures::new(recoveries)
    );
    assert!(refused > 0, "nobody noticed the crashes");
    assert_eq!(again, 0, "a claim outlives so short an outage");
}

/// R31: PostgreSQL takes what is sent and answers nothing. Every request gets 503 within 3 s, reads and writes alike, and at once
/// when that is known; the API lives and is not ready. Afterwards everything goes on, over no more connections than before.
#[tokio::test]
async fn r31_what_a_black_hole_swallows_is_answered_and_starts_no_storm() {
    let settings = vec![("RATE_LIMIT_PER_MINUTE", "0".to_owned())];
    let shape = Shape { own_postgres: true, own_redis: true, proxied: true, settings, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let ann = cluster.person("ann").await;
    let mut owner = cluster.owner().await;
    let name = cluster.database_name().to_owned();
    let before = connections(&mut owner, &name).await;

    cluster.proxies().postgres.set(Mode::BlackHole);
    let begun = Instant::now();
    let (mut asked, mut slowest, mut late) = (0, Duration::ZERO, Duration::ZERO);
    while begun.elapsed() < secs(10) {
        // More than the pool has connections, and than may wait for one.
        let answers = join_all((0..200).map(async |number| {
            let sent = Instant::now();
            let answer = match number % 2 {
                0 => ann.request(Method::GET, "/tasks", None).await,
                _ => ann.request(Method::POST, "/tasks", Some(json!({ "title": "swallowed" }))).await,
            };
            (answer.unwrap(), sent.elapsed())
        }))
        .await;
        for (answer, took) in answers {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
            assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
            assert!(took < secs(3), "{took:?}");
            asked += 1;
            slowest = slowest.max(took);
            if begun.elapsed() > secs(4) {
                late = late.max(took);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the API is not ready", secs(15), async || match cluster.apis[0].ready().await {
        Err(_) => Ok(()),
        Ok(()) => Err("it is".to_owned()),
    })
    .await;
    cluster.assert_all_live();

    cluster.proxies().postgres.set(Mode::Pass);
    for process in cluster.processes_mut() {
        process.wait_ready().await;
    }
    until("requests go on", secs(3), async || {
        let answer = ann.request(Method::POST, "/tasks", Some(json!({ "title": "kept" }))).await.unwrap();
        if answer.status == StatusCode::CREATED { Ok(()) } else { Err(answer.body.to_string()) }
    })
    .await;
    let after = connections(&mut owner, &name).await;
    say!(
        "R31: {asked} requests answered 503 after {slowest:.1?} at most, and {late:.1?} once it was known; {before} connections \
         before, {after} after"
    );
    assert!(late < secs(1), "what is known is not waited for: {late:?}");
    assert!(after <= before + 20, "{before} connections before, {after} after");
}

/// Connections to a database.
async fn connections(owner: &mut AsyncPgConnection, name: &str) -> i64 {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        count: i64,
    }
    let statement = format!("SELECT count(*) AS count FROM pg_stat_activity WHERE datname = '{name}'");
    let row: Row = diesel::sql_query(statement).get_result(owner).await.unwrap();
    row.count
}

/// Somebody who makes tasks, and knows which were acknowledged.
struct Writer {
    people: Vec<Person>,
    attempts: usize,
    /// Whose, and its id.
    written: Vec<(usize, String)>,
}

impl Writer {
    async fn new(cluster: &Cluster) -> Self {
        let mut people = Vec::new();
        for number in 0..8 {
            people.push(cluster.person(&format!("person-{number}")).await);
        }
        Self { people, attempts: 0, written: Vec::new() }
    }

    /// Makes a task; an error says that PostgreSQL is away. There is no other.
    async fn write(&mut self) -> Result<(), String> {
        // Within what one person may ask in a minute.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let whose = self.attempts % self.people.len();
        self.attempts += 1;
        let task = json!({ "title": format!("task {}", self.attempts) });
        let answer = self.people[whose].request(Method::POST, "/tasks", Some(task)).await.unwrap();
        if answer.status == StatusCode::CREATED {
            self.written.push((whose, answer.body["id"].as_str().unwrap().to_owned()));
            return Ok(());
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
        assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        Err(answer.body.to_string())
    }

    async fn assert_all_there(&self) {
        for (whose, id) in &self.written {
            let answer =
                self.people[*whose].request(Method::GET, &format!("/tasks/{id}"), None).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{id} was acknowledged and is gone: {}", answer.body);
        }
    }
}
