//! What requests ask of the database: no list asks more because it is longer, and no write asks more than it has to.
//! Who adds a statement to one of these sees it here first; `docs/performance.md` says what one costs.

use common::testing::statements::{self, WATCHED};
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

/// The statements of a request that succeeds, without `BEGIN` and `COMMIT`, and its answer.
async fn ask(who: &Person, method: Method, path: &str, body: Option<Value>) -> (Vec<String>, Value) {
    let id = format!("{WATCHED}{}", uuid::Uuid::now_v7().simple());
    let answer = who.send(method, path, &[("x-request-id", &id)], body).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
    let mut sent = statements::of(&id);
    sent.retain(|statement| !["BEGIN", "COMMIT"].contains(&statement.split(' ').next().unwrap()));
    (sent, answer.json)
}

/// Says what a request asks, if that is more or less than it is said to be.
fn finding(what: &str, sent: &[String], expected: usize) -> Option<String> {
    let heads: Vec<String> = sent.iter().map(|statement| statement.chars().take(90).collect()).collect();
    let (count, heads) = (sent.len(), heads.join("\n    "));
    (count != expected).then(|| format!("{what}: {count} statements, and not {expected}\n    {heads}"))
}

/// Fails with all findings at once.
fn refuse(findings: &[String]) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Ann's project with an editor, as many tasks with tags, reminders and comments as asked for, and as many of all else.
async fn fill(ann: &Person, eda: &Person, project: &Value, rows: std::ops::Range<usize>) -> Value {
    let mut last = Value::Null;
    for number in rows {
        let task = json!({
            "title": format!("Task {number}"),
            "project_id": project["id"],
            "assignee_id": eda.id,
            "due": {"date": "2030-01-03"},
            "tags": [format!("tag {number}"), "all"],
            "reminders": [{"kind": "relative", "offset_minutes": -60}, {"kind": "relative", "offset_minutes": -5}],
        });
        last = ann.create_task(task).await;
        ann.post(&format!("{}/comments", path(&last)), json!({"body": "Well said."})).await.assert(201);
        ann.post("/projects", json!({"name": format!("Project {number}")})).await.assert(201);
        ann.post("/teams", json!({"name": format!("Team {number}")})).await.assert(201);
        let hook = json!({"url": format!("https://example.com/{number}"), "events": ["comment.deleted"]});
        ann.post("/webhooks", hook).await.assert(201);
        let token = json!({"name": format!("Token {number}"), "scopes": ["tasks:read"]});
        ann.post("/me/tokens", token).await.assert(201);
    }
    last
}

#[tokio::test]
async fn a_list_asks_the_same_however_long_it_is() {
    statements::watch();
    let app = TestApp::start().await;
    let (ann, eda) = (app.user("ann").await, app.user("eda").await);
    app.make_admin(&ann).await;
    let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
    let members = format!("/projects/{}/members", project["id"].as_str().unwrap());
    ann.put(&format!("{members}/{}", eda.id), json!({"role": "editor"})).await.assert(200);
    let one = fill(&ann, &eda, &project, 0..1).await;
    let lists = [
        "/tasks".to_owned(),
        format!("/tasks?assignee={}", eda.id),
        "/tasks?due=week".to_owned(),
        "/tasks?sort=-updated_at".to_owned(),
        "/tasks?tag=all&q=task".to_owned(),
        format!("/projects/{}/tasks", project["id"].as_str().unwrap()),
        format!("{}/comments", path(&one)),
        format!("{}/reminders", path(&one)),
        format!("{}/activity", path(&one)),
        "/projects".to_owned(),
        members,
        "/tags".to_owned(),
        "/teams".to_owned(),
        "/webhooks".to_owned(),
        "/me/tokens".to_owned(),
        "/me/sessions".to_owned(),
        "/admin/users".to_owned(),
        "/admin/audit".to_owned(),
        "/stats".to_owned(),
    ];
    let mut short = Vec::new();
    for list in &lists {
        short.push(ask(&ann, Method::GET, list, None).await);
    }
    fill(&ann, &eda, &project, 1..9).await;
    for number in 0..9 {
        ann.post(&format!("{}/comments", path(&one)), json!({"body": format!("{number}")})).await.assert(201);
    }
    let mut findings = Vec::new();
    for (list, (before, few)) in lists.iter().zip(short) {
        let (after, many) = ask(&ann, Method::GET, list, None).await;
        findings.extend(finding(&format!("GET {list}, longer"), &after, before.len()));
        let length = |json: &Value| json["data"].as_array().map_or(0, Vec::len);
        let is_fixed = ["/members", "/reminders", "/me/sessions", "/stats", "/admin/users"]
            .iter()
            .any(|end| list.ends_with(end));
        if !is_fixed && length(&many) <= length(&few) {
            findings.push(format!("GET {list} has not grown"));
        }
    }
    refuse(&findings);
    app.mail().await;
    app.work().await;
}

#[tokio::test]
async fn each_request_asks_as_much_as_it_has_to() {
    statements::watch();
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    // Connections look up the enum types once.
    for _ in 0..2 {
        ann.create_task(full()).await;
    }
    let mut findings = Vec::new();
    let (sent, task) = ask(&ann, Method::POST, "/tasks", Some(json!({"title": "Plain"}))).await;
    findings.extend(finding("create a task", &sent, 2));
    let (sent, full) = ask(&ann, Method::POST, "/tasks", Some(full())).await;
    findings.extend(finding("create a task with tags and reminders", &sent, 5));

    let (task, full) = (path(&task), path(&full));
    let due = json!({"due": {"date": "2030-03-04"}});
    for (what, method, path, body, expected) in [
        ("read a task", Method::GET, task.clone(), None, 1),
        ("list tasks", Method::GET, "/tasks?limit=20".to_owned(), None, 1),
        ("count tasks", Method::GET, "/stats".to_owned(), None, 3),
        ("change a title", Method::PATCH, full.clone(), Some(json!({"title": "Other"})), 2),
        ("change tags", Method::PATCH, full.clone(), Some(json!({"tags": ["one", "home"]})), 5),
        ("change when it is due", Method::PATCH, full.clone(), Some(due), 6),
        ("complete a task", Method::POST, format!("{full}/complete"), None, 6),
        ("reopen a task", Method::POST, format!("{full}/reopen"), None, 6),
        ("archive a task", Method::POST, format!("{task}/archive"), None, 5),
        ("comment on a task", Method::POST, format!("{full}/comments"), Some(json!({"body": "Well."})), 4),
        ("delete a task", Method::DELETE, task.clone(), None, 7),
    ] {
        let (sent, _) = ask(&ann, method, &path, body).await;
        findings.extend(finding(what, &sent, expected));
    }
    refuse(&findings);
    app.mail().await;
}

fn full() -> Value {
    json!({
        "title": "Full",
        "due": {"date": "2030-02-03"},
        "tags": ["home", "office"],
        "reminders": [{"kind": "relative", "offset_minutes": -60}],
    })
}
