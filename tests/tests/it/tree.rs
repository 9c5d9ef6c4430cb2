//! Tasks inside tasks, their order by hand, and tasks that are replaced as a whole.

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Answer, Person, TestApp, path};

fn id(thing: &Value) -> &str {
    thing["id"].as_str().unwrap()
}

async fn inside(person: &Person, parent: &Value, title: &str) -> Value {
    person
        .create_task(json!({"title": title, "parent_id": id(parent), "project_id": parent["project_id"]}))
        .await
}

fn refused(answer: Answer, pointer: &str) {
    let answer = answer.assert_problem(422, "validation_failed");
    assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{}", answer.text);
}

async fn project(owner: &Person, editor: &Person) -> Value {
    let project = owner.post("/projects", json!({"name": "P"})).await.assert(201).json;
    let path = format!("/projects/{}/members/{}", id(&project), editor.id);
    owner.send(Method::PUT, &path, &[], Some(json!({"role": "editor"}))).await.assert(200);
    project
}

#[tokio::test]
async fn tasks_stand_in_each_other_five_deep_and_never_in_themselves() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let mut chain = vec![ann.create_task(json!({"title": "1"})).await];
    for level in 2..=5 {
        let next = inside(&ann, chain.last().unwrap(), &level.to_string()).await;
        assert_eq!(next["parent_id"], chain.last().unwrap()["id"]);
        chain.push(next);
    }
    refused(ann.post("/tasks", json!({"title": "6", "parent_id": id(&chain[4])})).await, "/parent_id");
    // What has something in it is as deep as that.
    let pair = ann.create_task(json!({"title": "a"})).await;
    inside(&ann, &pair, "b").await;
    refused(ann.patch(&path(&pair), json!({"parent_id": id(&chain[3])})).await, "/parent_id");
    ann.patch(&path(&pair), json!({"parent_id": id(&chain[2])})).await.assert(200);
    for (task, parent) in [(0, 0), (0, 4), (1, 3)] {
        refused(ann.patch(&path(&chain[task]), json!({"parent_id": id(&chain[parent])})).await, "/parent_id");
    }
    let bobs = bob.create_task(json!({"title": "Bob's"})).await;
    refused(ann.post("/tasks", json!({"title": "x", "parent_id": id(&bobs)})).await, "/parent_id");
    let shared = project(&ann, &bob).await;
    let elsewhere = json!({"title": "x", "parent_id": id(&chain[0]), "project_id": id(&shared)});
    refused(ann.post("/tasks", elsewhere).await, "/parent_id");

    let below = ann.get(&format!("/tasks?parent_id={}", id(&chain[2]))).await.assert(200).json;
    let titles: Vec<_> =
        below["data"].as_array().unwrap().iter().map(|task| task["title"].as_str()).collect();
    assert_eq!(titles, [Some("4"), Some("a")]);
    let out = ann.patch(&path(&chain[3]), json!({"parent_id": null})).await.assert(200).json;
    assert_eq!(out["parent_id"], Value::Null);
}

#[tokio::test]
async fn of_two_tasks_put_into_each_other_at_once_one_is_refused() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for _ in 0..5 {
        let a = ann.create_task(json!({"title": "a"})).await;
        let b = ann.create_task(json!({"title": "b"})).await;
        let (first, second) = (json!({"parent_id": id(&b)}), json!({"parent_id": id(&a)}));
        let (pa, pb) = (path(&a), path(&b));
        let (first, second) = tokio::join!(ann.patch(&pa, first), ann.patch(&pb, second));
        let mut statuses = [first.status.as_u16(), second.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 422]);
    }
}

#[tokio::test]
async fn the_trash_takes_and_gives_back_what_is_inside() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let top = ann.create_task(json!({"title": "top"})).await;
    let middle = inside(&ann, &top, "middle").await;
    let absolute = json!([{"kind": "absolute", "at": "2030-02-01T00:00:00Z"}]);
    let new = json!({"title": "leaf", "parent_id": id(&middle), "reminders": absolute});
    let leaf = ann.create_task(new).await;
    let earlier = inside(&ann, &middle, "earlier").await;
    ann.delete(&path(&earlier)).await.assert(204);
    app.advance_to("2030-01-02T00:00:00Z").await;

    ann.delete(&path(&top)).await.assert(204);
    for task in [&middle, &leaf] {
        assert!(ann.get(&path(task)).await.json["deleted_at"].is_string());
    }
    let fires = ann.fires(&leaf).await;
    assert_eq!((&fires[0]["state"], &fires[0]["reason"]), (&json!("cancelled"), &json!("task_deleted")));
    ann.act(&format!("{}/restore", path(&leaf))).await.assert_problem(409, "task_deleted");
    ann.patch(&path(&middle), json!({"title": "x"})).await.assert_problem(409, "task_deleted");
    refused(ann.post("/tasks", json!({"title": "x", "parent_id": id(&top)})).await, "/parent_id");

    ann.act(&format!("{}/restore", path(&top))).await.assert(200);
    for task in [&middle, &leaf] {
        let task = ann.get(&path(task)).await.json;
        assert_eq!((&task["deleted_at"], &task["version"]), (&Value::Null, &json!(3)), "{task}");
    }
    assert_eq!(ann.fires(&leaf).await[0]["state"], "planned");
    assert!(ann.get(&path(&earlier)).await.json["deleted_at"].is_string(), "it went there before");
}

#[tokio::test]
async fn what_is_inside_moves_along() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let shared = project(&ann, &bob).await;
    let top = ann.create_task(json!({"title": "top", "project_id": id(&shared)})).await;
    let new = json!({"title": "bob's", "project_id": id(&shared), "parent_id": id(&top), "assignee_id": ann.id,
        "tags": ["x"]});
    let bobs = bob.create_task(new).await;
    let anns = inside(&ann, &top, "ann's").await;
    let other = project(&ann, &bob).await;
    ann.post(&format!("{}/move", path(&top)), json!({"project_id": id(&other)})).await.assert(200);
    for task in [&bobs, &anns] {
        let after = ann.get(&path(task)).await.json;
        assert_eq!((&after["project_id"], &after["parent_id"]), (&other["id"], &top["id"]));
    }
    let after = bob.get(&path(&bobs)).await.json;
    assert_eq!((&after["tags"], &after["assignee_id"]), (&json!(["x"]), &json!(ann.id)));
    // Out of all projects goes what is hers; what is his stays, in nothing.
    ann.post(&format!("{}/move", path(&top)), json!({"project_id": null})).await.assert(200);
    let after = ann.get(&path(&anns)).await.json;
    assert_eq!((&after["project_id"], &after["parent_id"]), (&Value::Null, &top["id"]));
    let after = bob.get(&path(&bobs)).await.json;
    assert_eq!((&after["project_id"], &after["parent_id"]), (&other["id"], &Value::Null));
    // Alone it leaves what it was in.
    let moved = ann.patch(&path(&anns), json!({"project_id": id(&other)})).await.assert(200).json;
    assert_eq!((&moved["project_id"], &moved["parent_id"]), (&other["id"], &Value::Null));
}

#[tokio::test]
async fn the_order_by_hand_is_kept() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let shared = project(&ann, &bob).await;
    let mut tasks = Vec::new();
    for title in ["a", "b", "c", "d"] {
        tasks.push(ann.create_task(json!({"title": title, "project_id": id(&shared)})).await);
    }
    let order = async |limit: u8| {
        let (mut seen, mut query) = (String::new(), format!("?sort=position&limit={limit}"));
        loop {
            let page = bob.get(&format!("/projects/{}/tasks{query}", id(&shared))).await.assert(200).json;
            seen.extend(page["data"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap()));
            let Some(cursor) = page["page"]["next_cursor"].as_str() else { return seen };
            query = format!("?sort=position&limit={limit}&cursor={cursor}");
        }
    };
    assert_eq!(order(50).await, "abcd");
    let step = async |task: usize, wish: Value| {
        bob.post(&format!("{}/move", path(&tasks[task])), wish).await.assert(200);
        order(2).await
    };
    assert_eq!(step(3, json!({"before": id(&tasks[0])})).await, "dabc");
    assert_eq!(step(0, json!({"after": id(&tasks[1])})).await, "dbac");
    assert_eq!(step(3, json!({})).await, "bacd");
    assert_eq!(step(2, json!({"before": id(&tasks[1])})).await, "cbad");
    assert_eq!(step(2, json!({"after": id(&tasks[3])})).await, "badc");
    assert_eq!(step(2, json!({"position": -1.0})).await, "cbad");
    // As often as one likes: when nothing fits between two, all are numbered anew.
    for _ in 0..40 {
        assert_eq!(step(2, json!({"before": id(&tasks[0])})).await, "bcad");
        assert_eq!(step(1, json!({"before": id(&tasks[0])})).await, "cbad");
    }
    let relocate = format!("{}/move", path(&tasks[0]));
    refused(bob.post(&relocate, json!({"before": id(&tasks[0])})).await, "/before");
    refused(bob.post(&relocate, json!({"before": id(&tasks[1]), "after": id(&tasks[2])})).await, "/after");
    let elsewhere = ann.create_task(json!({"title": "x"})).await;
    refused(ann.post(&relocate, json!({"after": id(&elsewhere)})).await, "/after");
    refused(ann.post(&relocate, json!({"position": "first"})).await, "/position");
    refused(ann.post(&relocate, json!({"positoin": 1})).await, "/positoin");
    let stale = [("if-match", "\"t-99\"")];
    ann.send(Method::POST, &relocate, &stale, Some(json!({}))).await.assert_problem(412, "stale_version");
}

#[tokio::test]
async fn other_orders_have_their_pages_too() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut tasks = Vec::new();
    for (minute, title) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        app.advance_to(&format!("2030-01-01T00:0{minute}:00Z")).await;
        tasks.push(ann.create_task(json!({"title": title})).await);
    }
    app.advance_to("2030-01-01T00:09:00Z").await;
    ann.patch(&path(&tasks[1]), json!({"priority": "high"})).await.assert(200);
    for (sort, expected) in
        [("-created_at", "edcba"), ("-updated_at", "bedca"), ("position", "abcde"), ("due", "bacde")]
    {
        let (mut seen, mut query) = (String::new(), format!("?sort={sort}&limit=2"));
        loop {
            let page = ann.get(&format!("/tasks{query}")).await.assert(200).json;
            seen.extend(page["data"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap()));
            let Some(cursor) = page["page"]["next_cursor"].as_str() else { break };
            query = format!("?sort={sort}&limit=2&cursor={cursor}");
        }
        assert_eq!(seen, expected, "{sort}");
    }
    let first = ann.get("/tasks?sort=position&limit=2").await.json;
    let cursor = first["page"]["next_cursor"].as_str().unwrap();
    ann.get(&format!("/tasks?sort=-created_at&limit=2&cursor={cursor}"))
        .await
        .assert_problem(400, "invalid_cursor");
    ann.get("/tasks?sort=title").await.assert_problem(400, "malformed_parameter");
}

#[tokio::test]
async fn put_replaces_all_but_reminders() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let new = json!({"title": "One", "description": "x", "due": "2030-02-01", "priority": "high", "tags": ["a"],
        "reminders": [{"kind": "relative", "offset_minutes": -60}]});
    let task = ann.create_task(new).await;
    let place = path(&task);
    let after = ann.send(Method::PUT, &place, &[], Some(json!({"title": "Two"}))).await.assert(200);
    assert_eq!(after.header("etag"), "\"t-2\"");
    let after = after.json;
    for (field, value) in [
        ("title", json!("Two")),
        ("description", Value::Null),
        ("due", Value::Null),
        ("priority", json!("none")),
        ("tags", json!([])),
        ("status", json!("todo")),
    ] {
        assert_eq!(after[field], value, "{field}");
    }
    assert_eq!(after["reminders"].as_array().unwrap().len(), 1);
    let full = json!({"title": "Three", "status": "done", "tags": ["b"], "due": "2030-02-01"});
    let stale = [("if-match", "\"t-1\"")];
    ann.send(Method::PUT, &place, &stale, Some(full.clone())).await.assert_problem(412, "stale_version");
    let after = ann.send(Method::PUT, &place, &[("if-match", "\"t-2\"")], Some(full)).await.assert(200).json;
    assert_eq!(
        (&after["status"], &after["completed"], &after["tags"]),
        (&json!("done"), &json!(true), &json!(["b"]))
    );
    refused(ann.send(Method::PUT, &place, &[], Some(json!({"status": "todo"}))).await, "/title");
    refused(ann.send(Method::PUT, &place, &[], Some(json!({"title": "a", "version": 3}))).await, "/version");
}
