use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{TestApp, path};

#[tokio::test]
async fn a_task_is_made_read_changed_and_put_away() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let made = ann
        .post(
            "/tasks",
            json!({"title": " Ship it ", "description": "All of it", "priority": "high", "tags": ["Release", "release"],
                   "due": {"date": "2030-12-01", "time": "17:00"}}),
        )
        .await
        .assert(201);
    let task = &made.json;
    assert_eq!(made.header("location"), format!("/api/v1{}", path(task)));
    assert_eq!(made.header("etag"), "\"t-1\"");
    assert_eq!(
        (&task["title"], &task["tags"], &task["completed"]),
        (&json!("Ship it"), &json!(["Release"]), &json!(false))
    );
    assert_eq!(
        task["due"],
        json!({"kind": "floating", "date": "2030-12-01", "time": "17:00", "zone": null, "at": "2030-12-01T16:00:00Z", "all_day": false}),
    );
    let read = ann.get(&path(task)).await.assert(200);
    assert_eq!(read.json, *task);

    let patch = json!({"title": "Ship it today", "due": null, "tags": []});
    let changed = ann.patch(&path(task), patch).await.assert(200);
    assert_eq!((changed.header("etag"), &changed.json["version"]), ("\"t-2\"", &json!(2)));
    assert_eq!((&changed.json["due"], &changed.json["tags"]), (&Value::Null, &json!([])));
    assert_eq!(changed.json["description"], "All of it", "what is absent stays");

    let done = ann.act(&format!("{}/complete", path(task))).await.assert(200).json;
    assert_eq!(
        (&done["task"]["status"], &done["task"]["completed_at"]),
        (&json!("done"), &json!("2030-01-01T00:00:00Z"))
    );
    let again = ann.act(&format!("{}/complete", path(task))).await.assert(200).json;
    assert_eq!(again, done, "completing it again changes nothing");
    let open = ann.act(&format!("{}/reopen", path(task))).await.assert(200).json;
    assert_eq!((&open["status"], &open["completed_at"]), (&json!("todo"), &Value::Null));

    ann.act(&format!("{}/archive", path(task))).await.assert(200);
    ann.delete(&path(task)).await.assert(204);
    ann.delete(&path(task)).await.assert(204);
    ann.patch(&path(task), json!({"title": "x"})).await.assert_problem(409, "task_deleted");
    let restored = ann.act(&format!("{}/restore", path(task))).await.assert(200).json;
    assert!(restored["deleted_at"].is_null() && !restored["archived_at"].is_null());
    let restored = ann.act(&format!("{}/restore", path(task))).await.assert(200).json;
    assert!(restored["archived_at"].is_null());
}

/// A new task is answered as it was thought up, not as it was read: both have to be the same.
#[tokio::test]
async fn what_is_made_is_answered_as_it_is_read_afterwards() {
    let app = TestApp::start_at("2030-01-01T12:00:00.123456Z").await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
    let parent = ann.create_task(json!({"title": "Whole", "project_id": project["id"]})).await;
    let before = |minutes: i32| json!({"kind": "relative", "offset_minutes": -minutes});
    for body in [
        json!({"title": " Plain "}),
        json!({"title": "Part", "project_id": project["id"], "parent_id": parent["id"], "assignee_id": ann.id}),
        json!({"title": "Day", "description": "", "due": {"date": "2030-02-03"}, "reminders": [before(60), before(1440)]}),
        json!({"title": "Late", "due": {"date": "2029-02-03", "time": "10:00"}, "reminders": [before(0)]}),
        json!({"title": "Zoned", "priority": "low", "due": {"date": "2030-03-31", "time": "02:30", "zone": "Europe/Berlin"},
               "reminders": [{"kind": "absolute", "at": "2030-10-27T02:30:00"}, {"kind": "absolute", "at": "2030-10-27T01:30:00Z"}]}),
        // One reminder, said twice.
        json!({"title": "Twice", "tags": ["Home"],
               "reminders": [{"kind": "absolute", "at": "2030-05-01T10:00:00"}, {"kind": "absolute", "at": "2030-05-01T08:00:00Z"}]}),
    ] {
        let mut made = ann.post("/tasks", body.clone()).await.assert(201).json;
        let warnings = made.as_object_mut().unwrap().remove("warnings");
        assert_eq!(warnings.is_some(), body["title"] == "Late", "{body}");
        let read = ann.get(&path(&made)).await.assert(200).json;
        assert_eq!(made, read, "{body}");
        let reminders = read["reminders"].as_array().unwrap();
        assert!(reminders.iter().all(|reminder| !reminder["fire_at"].is_null()), "each has its plan: {body}");
        assert_eq!(
            reminders.len(),
            if body["title"] == "Twice" { 1 } else { body["reminders"].as_array().map_or(0, Vec::len) }
        );
    }
    app.mail().await;
}

#[tokio::test]
async fn what_is_not_yours_is_not_found() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let task = ann
        .create_task(json!({"title": "Secret", "due": "2030-06-01", "reminders": [{"kind": "relative", "offset_minutes": 0}]}))
        .await;
    let (path, rid) = (path(&task), task["reminders"][0]["id"].as_str().unwrap());
    for (method, path, body) in [
        (Method::GET, path.clone(), None),
        (Method::PATCH, path.clone(), Some(json!({"title": "Mine"}))),
        (Method::DELETE, path.clone(), None),
        (Method::POST, format!("{path}/complete"), None),
        (Method::POST, format!("{path}/restore"), None),
        (Method::GET, format!("{path}/reminders"), None),
        (Method::POST, format!("{path}/reminders"), Some(json!({"kind": "relative", "offset_minutes": -5}))),
        (Method::GET, format!("{path}/reminders/{rid}/fires"), None),
        (Method::DELETE, format!("{path}/reminders/{rid}"), None),
    ] {
        bob.send(method.clone(), &path, &[], body.clone()).await.assert_problem(404, "not_found");
        app.anybody.send(method, &path, &[], body).await.assert_problem(401, "unauthenticated");
    }
    assert_eq!(bob.get("/tasks").await.assert(200).json["data"], json!([]));
    assert_eq!(ann.get(&path).await.assert(200).json, task);
}

/// T25 of semantics §11.
#[tokio::test]
async fn of_two_changes_to_one_version_the_second_is_refused() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "One"})).await;
    let path = path(&task);
    let change = |title: &str| {
        ann.send(Method::PATCH, &path, &[("if-match", "\"t-1\"")], Some(json!({"title": title})))
    };
    let (first, second) = tokio::join!(change("A"), change("B"));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let refused = if first.status == 412 { first } else { second };
    let refused = refused.assert_problem(412, "stale_version");
    assert_eq!(refused.header("etag"), "\"t-2\"", "the answer says which version is current");
}

#[tokio::test]
async fn a_version_that_the_client_has_is_not_sent_again() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "One"})).await;
    let get = |tag: &'static str| async move { tag };
    for tag in ["\"t-1\"", "W/\"t-1\"", "\"t-7\", \"t-1-gz\"", "*"] {
        let answer =
            ann.send(Method::GET, &path(&task), &[("if-none-match", get(tag).await)], None).await.assert(304);
        assert_eq!(answer.header("etag"), "\"t-1\"");
        assert!(answer.text.is_empty());
    }
    ann.send(Method::GET, &path(&task), &[("if-none-match", "\"t-2\"")], None).await.assert(200);
}

/// T24 of semantics §11.
#[tokio::test]
async fn a_retry_with_the_same_key_has_its_effect_once() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let key = [("idempotency-key", "k-1")];
    let post = |body: Value| ann.send(Method::POST, "/tasks", &key, Some(body));

    let first = post(json!({"title": "One"})).await.assert(201);
    let second = post(json!({"title": "One"})).await.assert(201);
    assert_eq!(
        (first.text, first.headers["location"].clone()),
        (second.text, second.headers["location"].clone())
    );
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    post(json!({"title": "Two"})).await.assert_problem(422, "idempotency_key_reused");
    assert_eq!(ann.get("/tasks").await.json["data"].as_array().unwrap().len(), 1);

    // A key is one person's own, and kept for a day.
    bob.send(Method::POST, "/tasks", &key, Some(json!({"title": "Two"}))).await.assert(201);
    app.db.clock().set(common::testing::at("2030-01-01T00:00:01Z"));
    let bad =
        ann.send(Method::POST, "/tasks", &[("idempotency-key", "")], Some(json!({"title": "One"}))).await;
    bad.assert_problem(400, "invalid_header");
}

#[tokio::test]
async fn the_same_request_twice_at_once_has_its_effect_once() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let post =
        || ann.send(Method::POST, "/tasks", &[("idempotency-key", "k")], Some(json!({"title": "One"})));
    for answer in futures::future::join_all((0..8).map(|_| post())).await {
        match answer.status.as_u16() {
            201 => {}
            409 => {
                let answer = answer.assert_problem(409, "idempotency_in_progress");
                assert_eq!(answer.header("retry-after"), "1");
            }
            _ => panic!("{}", answer.text),
        }
    }
    assert_eq!(ann.get("/tasks").await.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_person_who_moves_takes_floating_times_along() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let due = |due: Value| json!({"title": "Call", "due": due, "reminders": [{"kind": "relative", "offset_minutes": -60}]});
    let floating = ann.create_task(due(json!({"date": "2030-06-01", "time": "12:00"}))).await;
    let zoned =
        ann.create_task(due(json!({"date": "2030-06-01", "time": "12:00", "zone": "Asia/Tokyo"}))).await;
    let all_day = ann.create_task(due(json!("2030-06-01"))).await;

    let moved = ann.patch("/me", json!({"time_zone": "America/New_York"})).await.assert(200);
    assert_eq!((moved.header("etag"), &moved.json["moved_reminders"]), ("\"u-2\"", &json!(2)));
    for (before, at, fire_at) in [
        (&floating, "2030-06-01T16:00:00Z", "2030-06-01T15:00:00Z"),
        (&all_day, "2030-06-02T04:00:00Z", "2030-06-01T12:00:00Z"),
    ] {
        let after = ann.get(&path(before)).await.json;
        assert_eq!((&after["due"]["at"], &after["reminders"][0]["fire_at"]), (&json!(at), &json!(fire_at)));
        assert!(after["version"].as_i64() > before["version"].as_i64(), "what a version covers has changed");
    }
    assert_eq!(ann.get(&path(&zoned)).await.json, zoned);
}
