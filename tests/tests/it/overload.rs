//! More requests than can be answered: what waits is bounded, and the rest is told so at once.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use tests::app::{Answer, TestApp, path};

use crate::cached::warm;

/// Connections of a test's pool (`TestDatabase::open`).
const POOL: usize = 8;
/// Requests that may wait for one of them here.
const QUEUE: usize = 3;

async fn until_waiting(app: &TestApp, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while app.db.waiting() != count {
        assert!(Instant::now() < deadline, "{} wait for a connection, not {count}", app.db.waiting());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn who_would_wait_behind_too_many_is_refused_at_once_and_those_before_are_answered() {
    let app = TestApp::start_http(|http| http.max_waiting_requests = QUEUE.try_into().unwrap()).await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "Read often"})).await;
    warm(&app, &[&ann], &task).await;
    let all_connections = join_all((0..POOL).map(async |_| app.db.conn().await.unwrap())).await;

    let write = || ann.post("/tasks", json!({"title": "Wait"}));
    let waiting = async { tokio::join!(write(), write(), ann.get("/me")) };
    let refused = async {
        until_waiting(&app, QUEUE).await;
        let asked = Instant::now();
        for answer in [ann.get("/tasks").await, write().await, app.anybody.get("/meta").await] {
            let answer = answer.assert_problem(503, "overloaded");
            assert_eq!(answer.header("retry-after"), "1");
        }
        assert!(asked.elapsed() < Duration::from_secs(1), "they waited: {:?}", asked.elapsed());

        // What there is a copy of asks for no connection.
        ann.get(&path(&task)).await.assert(200);
        ann.get(&format!("{}?fields=title", path(&task))).await.assert_problem(503, "overloaded");

        // Who waits for nothing is answered, and whether the API works is known only by trying.
        let problems = format!("{}/problems", app.url);
        app.anybody.send(Method::GET, &problems, &[], None).await.assert(200);
        let free_them = async {
            until_waiting(&app, QUEUE + 1).await;
            drop(all_connections);
        };
        tokio::join!(app.anybody.get("/health"), free_them).0.assert(200);
    };
    let ((first, second, me), ()) = tokio::join!(waiting, refused);
    for made in [first, second] {
        made.assert(201);
    }
    me.assert(200);
    let tasks = ann.get("/tasks").await.assert(200).json;
    assert_eq!(tasks["data"].as_array().unwrap().len(), 3, "what was refused did nothing");
}

#[tokio::test]
async fn passwords_that_would_wait_too_long_to_be_hashed_are_refused() {
    let app = TestApp::start().await;
    app.user("ann").await;
    let log_in = async |number: u8| -> Answer {
        let body = json!({"email": format!("person-{number}@example.com"), "password": "incorrect horse"});
        let headers = [("x-forwarded-for", &*format!("203.0.113.{number}"))];
        app.anybody.send(Method::POST, "/auth/login", &headers, Some(body)).await
    };
    // Many more than two at once and those that may wait for them.
    let answers = join_all((0..200).map(log_in)).await;
    let (refused, checked): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(|answer| answer.status == 503);
    assert!(checked.len() >= 64, "{} were checked", checked.len());
    for answer in checked {
        answer.assert_problem(401, "invalid_credentials");
    }
    assert!(!refused.is_empty(), "everybody waited");
    for answer in refused {
        let answer = answer.assert_problem(503, "overloaded");
        assert_eq!(answer.header("retry-after"), "1");
    }
}
