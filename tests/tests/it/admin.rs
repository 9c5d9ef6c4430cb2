//! The operator's view: who may see it, what it shows, and what can be done with queues, jobs and accounts.

use std::time::{Duration, Instant};

use common::{
    access::Expected,
    config::try_parse,
    db::{RunQueryDsl as _, Tx},
    error::{Code, Error},
    health::Health,
    ids::{JobId, UserId},
    jobs::{Act, Job as _, PROBE, Probe},
    ledger::{JobDetails, JobState},
    shutdown::CancellationToken,
    testing::TestDatabase,
    users::{Account, AccountPatch, InitialAdmin, User, UserRole},
};
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp};

/// Runs a statement with nothing in it that a user wrote.
async fn sql(app: &TestApp, statement: &str) {
    let mut conn = app.db.conn().await.unwrap();
    diesel::sql_query(statement).execute(&mut conn).await.unwrap();
}

/// A person who is an administrator.
async fn admin(app: &TestApp, name: &str) -> Person {
    let person = app.user(name).await;
    sql(app, &format!("UPDATE users SET role = 'admin' WHERE id = '{}'", person.id)).await;
    person
}

async fn enqueue(app: &TestApp, act: Act) -> JobId {
    let mut tx = app.db.begin().await.unwrap();
    let id = Probe { lane: "ann".into(), log: None, act }.enqueue(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn state(app: &TestApp, id: JobId) -> JobState {
    JobDetails::find(&mut app.db.conn().await.unwrap(), id).await.unwrap().summary.state
}

/// Waits until `found` says so, within a time.
async fn until(within: Duration, what: &str, mut found: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !found().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn only_active_administrators_may() {
    let app = TestApp::start().await;
    let (root, ben) = (admin(&app, "root").await, app.user("ben").await);
    let disabled = admin(&app, "disabled").await;
    sql(&app, &format!("UPDATE users SET is_active = false WHERE id = '{}'", disabled.id)).await;
    let document: Value = serde_json::from_str(&api::openapi::json().unwrap()).unwrap();
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(path) = path.strip_prefix("/api/v1").filter(|path| path.starts_with("/admin")) else {
            continue;
        };
        let path = path.replace("{id}", &root.id).replace("{queue}", "nowhere");
        for method in
            ["get", "post", "patch", "delete"].into_iter().filter(|method| operations.get(method).is_some())
        {
            seen += 1;
            let method: Method = method.to_uppercase().parse().unwrap();
            let ask = |client: &tests::app::Client| {
                let (client, method, path) = (client.clone(), method.clone(), path.clone());
                let body = (method != Method::GET).then(|| json!({}));
                async move { client.send(method, &path, &[], body).await }
            };
            ask(&app.anybody).await.assert_problem(401, "unauthenticated");
            ask(&ben).await.assert_problem(403, "forbidden");
            ask(&disabled).await.assert_problem(403, "forbidden");
            // Mails are sent by a worker, which has to be at hand: a test of its own.
            if path == "/admin/mail/test" {
                continue;
            }
            let answer = ask(&root).await;
            let status = answer.status.as_u16();
            assert!(![401, 403, 405].contains(&status) && status < 500, "{method} {path}: {}", answer.text);
        }
    }
    assert!(seen >= 13, "the walk finds the routes: {seen}");
}

#[tokio::test]
async fn a_dead_job_is_explained_and_tried_again() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let (dead, done) = (enqueue(&app, Act::Die).await, enqueue(&app, Act::Nothing).await);
    app.work().await;

    let list = root.get("/admin/jobs?state=dead&kind=probe&queue=probe").await.assert(200).json;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(list["data"][0]["id"], dead.to_string());
    assert_eq!(list["data"][0]["last_error"], "a probe was told to die");
    assert_eq!(list["page"]["has_more"], false);
    let job = root.get(&format!("/admin/jobs/{dead}")).await.assert(200).json;
    assert_eq!((&job["state"], &job["attempt"], &job["fence"]), (&json!("dead"), &json!(1), &json!(1)));
    assert_eq!(job["args"]["act"], "die");

    let queues = root.get("/admin/queues").await.assert(200).json;
    let probe = queues["data"].as_array().unwrap().iter().find(|queue| queue["name"] == PROBE).unwrap();
    assert_eq!((&probe["dead"], &probe["ready"], &probe["paused_at"]), (&json!(1), &json!(0), &Value::Null));
    assert_eq!(probe["workers"].as_array().unwrap().len(), 1);

    let again = root.act(&format!("/admin/jobs/{dead}/retry")).await.assert(202).json;
    assert_eq!((&again["state"], &again["attempt"]), (&json!("ready"), &json!(0)));
    assert_eq!(again["last_error"], "retried by root@example.com");
    for path in [format!("/admin/jobs/{dead}/retry"), format!("/admin/jobs/{done}/retry")] {
        root.act(&path).await.assert_problem(409, "job_in_wrong_state");
    }
    app.work().await;
    let job = root.get(&format!("/admin/jobs/{dead}")).await.json;
    let texts: Vec<&str> =
        job["errors"].as_array().unwrap().iter().map(|error| error["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a probe was told to die", "retried by root@example.com", "a probe was told to die"]);
    assert_eq!(job["fence"], 2, "it ran again");
    root.act(&format!("/admin/jobs/{dead}/cancel")).await.assert_problem(409, "job_in_wrong_state");
}

#[tokio::test]
async fn many_dead_jobs_are_tried_again_at_once() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    for _ in 0..3 {
        enqueue(&app, Act::Die).await;
    }
    app.work().await;
    let none = root.act("/admin/jobs/retry?state=dead&kind=send_reminder").await.assert(202).json;
    assert_eq!(none, json!({"retried": 0, "next": null}));
    let all = root.act("/admin/jobs/retry?state=dead&kind=probe").await.assert(202).json;
    assert_eq!(all, json!({"retried": 3, "next": null}));
    app.work().await;
    let dead = root.get("/admin/jobs?state=dead").await.json;
    assert_eq!(dead["data"].as_array().unwrap().len(), 3, "they ran, and died again");
}

#[tokio::test]
async fn a_list_of_jobs_has_pages() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(enqueue(&app, Act::Nothing).await.to_string());
    }
    jobs.reverse();
    for filter in ["", "&state=ready"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = root.get(&format!("/admin/jobs?limit=2{filter}{cursor}")).await.assert(200).json;
            let ids =
                page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned());
            seen.extend(ids);
            let Some(next) = page["page"]["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, jobs, "newest first, each once");
    }
    app.work().await;
}

#[tokio::test]
async fn a_cancelled_job_does_not_start_and_its_result_is_refused() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let waiting = enqueue(&app, Act::Nothing).await;
    root.act(&format!("/admin/jobs/{waiting}/cancel")).await.assert(202);
    app.work().await;
    let job = root.get(&format!("/admin/jobs/{waiting}")).await.json;
    assert_eq!((&job["state"], &job["fence"]), (&json!("cancelled"), &json!(0)), "no worker ever had it");

    // One that runs: its worker ends it, and the ledger does not listen.
    let running = enqueue(&app, Act::Sleep(60_000)).await;
    app.dispatch().await;
    let stop = CancellationToken::new();
    let options = worker::Options { queues: vec![(PROBE.to_owned(), 5)], grace: Duration::from_secs(1) };
    let worker = tokio::spawn(worker::run(app.context.clone(), options, Health::default(), stop.clone()));
    let second = Duration::from_secs(1);
    until(10 * second, "it runs", async || state(&app, running).await == JobState::Running).await;
    let cancelled = root.act(&format!("/admin/jobs/{running}/cancel")).await.assert(202).json;
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["last_error"], "cancelled by root@example.com");
    // Its slot is free again within a renewal: a worker that has stopped it can hand nothing back.
    stop.cancel();
    worker.await.unwrap().unwrap();
    let job = root.get(&format!("/admin/jobs/{running}")).await.json;
    assert_eq!((&job["state"], &job["fence"]), (&json!("cancelled"), &json!(1)));
    root.act(&format!("/admin/jobs/{running}/retry")).await.assert(202);
    assert_eq!(state(&app, running).await, JobState::Ready);
    sql(&app, &format!("DELETE FROM jobs WHERE id = '{running}'")).await;
    app.work().await;
}

#[tokio::test]
async fn a_pause_stops_a_worker_within_two_seconds_and_it_goes_on_afterwards() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let stop = CancellationToken::new();
    let options = worker::Options { queues: vec![(PROBE.to_owned(), 5)], grace: Duration::from_secs(1) };
    let worker = tokio::spawn(worker::run(app.context.clone(), options, Health::default(), stop.clone()));
    let second = Duration::from_secs(1);
    let first = enqueue(&app, Act::Nothing).await;
    app.dispatch().await;
    until(10 * second, "it works", async || state(&app, first).await == JobState::Done).await;

    let pause = json!({"reason": "The mail server moves house"});
    let paused = root.post("/admin/queues/probe/pause", pause).await.assert(200).json;
    assert_eq!(paused["paused_by"], "root@example.com");
    assert_eq!(paused["reason"], "The mail server moves house");
    // Jobs come all the time; one that is not started for a whole second shows that the worker knows.
    let asked = Instant::now();
    let held = loop {
        let job = enqueue(&app, Act::Nothing).await;
        app.dispatch().await;
        let enqueued = Instant::now();
        while state(&app, job).await != JobState::Done && enqueued.elapsed() < second {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if state(&app, job).await == JobState::Ready {
            assert!(enqueued - asked <= 2 * second, "paused {:?} after it was asked for", enqueued - asked);
            break job;
        }
    };
    let resumed = root.act("/admin/queues/probe/resume").await.assert(200).json;
    assert_eq!((&resumed["paused_at"], &resumed["paused_by"]), (&Value::Null, &Value::Null));
    until(3 * second, "it goes on", async || state(&app, held).await == JobState::Done).await;
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_due_and_unsent_is_listed_without_its_words() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let ann = app.user("ann").await;
    let reminder = json!([{"kind": "absolute", "at": "2030-01-01T00:10:00Z"}]);
    for _ in 0..3 {
        ann.create_task(json!({"title": "A secret", "reminders": reminder})).await;
    }
    app.db.clock().set(common::testing::at("2030-01-01T00:11:00Z"));
    let page = root.get("/admin/reminders/late?limit=2").await.assert(200);
    assert!(!page.text.contains("secret"));
    assert_eq!(
        (&page.json["data"][0]["state"], &page.json["data"][0]["late_by_s"]),
        (&json!("planned"), &json!(60.0))
    );
    let cursor = page.json["page"]["next_cursor"].as_str().unwrap();
    let rest = root.get(&format!("/admin/reminders/late?limit=2&cursor={cursor}")).await.assert(200).json;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["page"]["has_more"]), (1, &json!(false)));

    while scheduler::due::queue_due(&app.db, common::reminders::CATCH_UP_PER_SECOND).await.unwrap().is_full()
    {
    }
    let outbox = root.get("/admin/mail/outbox").await.assert(200).json;
    assert_eq!(outbox["data"].as_array().unwrap().len(), 1, "one mail for the three");
    assert_eq!(outbox["data"][0]["lane"], ann.id);
    app.work().await;
    assert_eq!(app.mail().await.len(), 1);
    for path in ["/admin/reminders/late", "/admin/mail/outbox"] {
        assert_eq!(root.get(path).await.json["data"], json!([]));
    }
}

#[tokio::test]
async fn a_disabled_person_is_out_at_once() {
    let app = TestApp::start().await;
    let (root, ben) = (admin(&app, "root").await, app.user("ben").await);
    let path = format!("/admin/users/{}", ben.id);
    let before = root.get(&path).await.assert(200);
    assert_eq!((&before.json["is_active"], &before.json["has_password"]), (&json!(true), &json!(true)));
    let change = json!({"is_active": false});
    let stale = [("if-match", "\"u-7\"")];
    root.send(Method::PATCH, &path, &stale, Some(change.clone())).await.assert_problem(412, "stale_version");
    let seen = [("if-match", before.header("etag"))];
    let after = root.send(Method::PATCH, &path, &seen, Some(change)).await.assert(200);
    assert_eq!((&after.json["is_active"], after.header("etag")), (&json!(false), "\"u-2\""));
    ben.get("/me").await.assert_problem(401, "invalid_token");
    let login = json!({"email": ben.email, "password": tests::app::PASSWORD});
    app.anybody.post("/auth/login", login.clone()).await.assert_problem(401, "invalid_credentials");
    let list = root.get("/admin/users?is_active=false").await.assert(200).json;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    root.patch(&path, json!({"is_active": true, "role": "admin"})).await.assert(200);
    app.anybody.post("/auth/login", login).await.assert(200);
    let found = root.get("/admin/users?email=BEN@example.com&role=admin").await.assert(200).json;
    assert_eq!(found["data"][0]["id"], ben.id);
}

async fn demote(tx: &mut Tx, person: &Person) -> common::error::Result<Account> {
    let id: UserId = person.id.parse::<uuid::Uuid>().unwrap().into();
    let patch = AccountPatch { role: Some(UserRole::User), ..AccountPatch::default() };
    Ok(Account::change(tx, id, &Expected::Any, &patch, "test").await?.0)
}

#[tokio::test]
async fn the_last_administrator_stays_one_also_when_two_are_removed_at_once() {
    let app = TestApp::start().await;
    let (ann, ben) = (admin(&app, "ann").await, admin(&app, "ben").await);
    let mut first = app.db.begin().await.unwrap();
    demote(&mut first, &ann).await.unwrap();
    let (db, id) = (app.db.clone(), ben);
    let second = tokio::spawn(async move {
        let mut tx = db.begin().await.unwrap();
        let demoted = demote(&mut tx, &id).await;
        (tx.finish(demoted).await, id)
    });
    until(Duration::from_secs(5), "the second waits for the first", async || {
        #[derive(diesel::QueryableByName)]
        struct Waiting {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            count: i64,
        }
        let waiting: Waiting = diesel::sql_query(
            "SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .get_result(&mut app.db.conn().await.unwrap())
        .await
        .unwrap();
        waiting.count == 1
    })
    .await;
    first.commit().await.unwrap();
    let (refused, ben) = second.await.unwrap();
    assert!(matches!(refused, Err(Error::Conflict { code: Code::LastAdmin, .. })), "{refused:?}");

    let path = format!("/admin/users/{}", ben.id);
    for change in [json!({"role": "user"}), json!({"is_active": false})] {
        ben.patch(&path, change).await.assert_problem(409, "last_admin");
    }
    ann.get("/admin/users").await.assert_problem(403, "forbidden");
}

#[tokio::test]
async fn the_initial_administrator_is_made_once_and_nobody_is_promoted_by_registering() {
    let app = TestApp::start().await;
    let make = async |email: &str| {
        let mut tx = app.db.begin().await.unwrap();
        let made = User::make_initial_admin(&mut tx, email).await;
        tx.finish(made).await.unwrap()
    };
    let mallory = app.user("mallory").await;
    assert_eq!(make(&mallory.email).await, InitialAdmin::AddressTaken);
    mallory.get("/admin/queues").await.assert_problem(403, "forbidden");
    let InitialAdmin::Made(id) = make("root@example.com").await else { panic!("nobody is an administrator") };
    let account = Account::find(&mut app.db.conn().await.unwrap(), id).await.unwrap();
    assert_eq!((account.role, account.is_active, account.has_password), (UserRole::Admin, true, false));
    assert_eq!(account.email_verified_at, None);
    assert_eq!(make("other@example.com").await, InitialAdmin::NotNeeded);
    let login = json!({"email": "root@example.com", "password": tests::app::PASSWORD});
    app.anybody.post("/auth/login", login).await.assert_problem(401, "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_makes_administrators_and_links_that_set_a_password() {
    let database = TestDatabase::create().await;
    let run = async |words: &[&str]| {
        let database_url = format!("--database-url={}", database.app_url);
        let settings = [
            "admin",
            &database_url,
            "--public-url=https://tasks.example.com",
            "--secret-keys=test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ];
        let words = settings.iter().chain(words).map(Into::into).collect();
        match try_parse::<api::config::AdminCommand>(words, &|_| None) {
            Ok(config) => api::admin(config).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        }
    };
    let made = run(&["create", "root@example.com", "--name=Root"]).await.unwrap();
    assert!(made.starts_with("root@example.com has an account now, and is an administrator.\n"), "{made}");
    assert!(made.contains("https://tasks.example.com/account/reset?token=tto_"), "{made}");
    let again = run(&["create", "ROOT@example.com"]).await.unwrap();
    assert!(again.starts_with("ROOT@example.com is an administrator now.\n"), "{again}");
    let link = run(&["link", "root@example.com"]).await.unwrap();
    assert!(link.contains("?token=tto_") && !made.contains(link.lines().last().unwrap()), "another link");
    for (words, what) in [
        (&["link", "nobody@example.com"][..], "nobody@example.com has no account"),
        (&["create", "root"], "An address has the form name@example.com."),
        (&["create", "a@example.com", "--name= "], "1 to 200"),
        (&["create"], "<EMAIL>"),
    ] {
        let error = run(words).await.unwrap_err();
        assert!(error.contains(what) && !error.contains("AAAA"), "{words:?}: {error}");
    }
    let (db, _) = database.open(common::clock::Clock::Database);
    let mut conn = db.conn().await.unwrap();
    let filter = common::users::AccountFilter::default();
    let accounts = Account::list(&mut conn, &filter, &[]).await.unwrap().data;
    assert_eq!(accounts.len(), 1, "what was refused has made none");
    assert_eq!((accounts[0].full_name.as_str(), accounts[0].role), ("Root", UserRole::Admin));
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place_and_changes_nothing() {
    let app = TestApp::start().await;
    let root = admin(&app, "root").await;
    let nothing = Value::Null;
    let me = format!("/admin/users/{}", root.id);
    // method, path, body, status, code, part of the detail
    for (method, path, body, status, code, detail) in [
        (
            "POST",
            "/admin/queues/post/pause",
            json!({}),
            422,
            "validation_failed",
            "the queues are mail, maintenance",
        ),
        (
            "POST",
            "/admin/queues/post/resume",
            nothing.clone(),
            422,
            "validation_failed",
            "the queues are mail",
        ),
        ("POST", "/admin/queues/mail/pause", json!({"why": "x"}), 422, "validation_failed", "why"),
        (
            "POST",
            "/admin/queues/mail/pause",
            json!({"reason": "a\nb"}),
            422,
            "validation_failed",
            "Line breaks",
        ),
        ("POST", "/admin/queues/mail/pause", json!({"reason": ""}), 422, "validation_failed", "1 to 200"),
        ("GET", "/admin/jobs?state=lost", nothing.clone(), 400, "malformed_parameter", "ready"),
        ("GET", "/admin/jobs?status=dead", nothing.clone(), 400, "malformed_parameter", "status"),
        ("GET", "/admin/jobs?limit=201", nothing.clone(), 400, "malformed_parameter", "200"),
        ("GET", "/admin/jobs?cursor=x", nothing.clone(), 400, "invalid_cursor", "cursor"),
        ("GET", "/admin/jobs/17", nothing.clone(), 404, "not_found", ""),
        ("GET", "/admin/jobs/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978", nothing.clone(), 404, "not_found", "job"),
        (
            "POST",
            "/admin/jobs/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978/retry",
            nothing.clone(),
            404,
            "not_found",
            "job",
        ),
        (
            "POST",
            "/admin/jobs/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978/cancel",
            nothing.clone(),
            404,
            "not_found",
            "job",
        ),
        ("POST", "/admin/jobs/retry", nothing.clone(), 400, "malformed_parameter", "state"),
        ("POST", "/admin/jobs/retry?state=done", nothing.clone(), 400, "malformed_parameter", "state=dead"),
        ("GET", "/admin/users?role=root", nothing.clone(), 400, "malformed_parameter", "admin"),
        (
            "GET",
            "/admin/users/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978",
            nothing.clone(),
            404,
            "not_found",
            "account",
        ),
        ("PATCH", &me, json!({"role": "root"}), 422, "validation_failed", "admin"),
        ("PATCH", &me, json!({"email": "x@example.com"}), 422, "validation_failed", "email"),
        ("GET", "/admin/reminders/late?limit=0", nothing.clone(), 400, "malformed_parameter", "1"),
        ("GET", "/admin/mail/outbox?queue=x", nothing.clone(), 400, "malformed_parameter", "queue"),
    ] {
        let body = (!body.is_null()).then_some(body);
        let answer = root.send(method.parse().unwrap(), path, &[], body).await.assert_problem(status, code);
        let text = &answer.text;
        assert!(text.contains(detail), "{method} {path}: {text}");
        if status == 422 || status == 400 {
            let place = &answer.json["errors"][0];
            assert!(
                place["pointer"].is_string() || place["parameter"].is_string(),
                "{method} {path}: {text}"
            );
        }
    }
    let queues = root.get("/admin/queues").await.assert(200).json;
    assert!(queues["data"].as_array().unwrap().iter().all(|queue| queue["paused_at"].is_null()));
    assert_eq!(root.get(&me).await.json["version"], 1);
}
