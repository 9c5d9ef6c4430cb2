use std::time::Duration;

use common::{
    audit::{self, Act},
    clock::Clock,
    config::try_parse,
    db::AsyncPgConnection,
    ids::UserId,
    testing::TestDatabase,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _};
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

async fn run(app: &TestApp, sql: &str) -> usize {
    diesel::sql_query(sql).execute(&mut *app.db.conn().await.unwrap()).await.unwrap()
}

async fn activity(person: &Person, task: &Value) -> Vec<(String, Value, Value)> {
    let page = person.get(&format!("{}/activity", path(task))).await.assert(200).json;
    let rows = page["data"].as_array().unwrap().iter();
    rows.map(|row| {
        (row["event_type"].as_str().unwrap().to_owned(), row["actor_label"].clone(), row["details"].clone())
    })
    .collect()
}

#[tokio::test]
async fn every_change_of_a_task_is_in_its_activity() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let task = ann.create_task(json!({"title": "Ship"})).await;
    ann.patch(&path(&task), json!({"title": "Ship it", "description": "Soon."})).await.assert(200);
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    // What changes nothing is no act.
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    ann.delete(&path(&task)).await.assert(204);
    let ann_says = |event: &str, details: Value| (event.to_owned(), json!("ann@example.com"), details);
    assert_eq!(
        activity(&ann, &task).await,
        [
            ann_says("task.deleted", json!({"title": "Ship it"})),
            ann_says("task.completed", json!({"status": ["todo", "done"]})),
            ann_says("task.updated", json!({"title": ["Ship", "Ship it"], "description": null})),
            ann_says("task.created", json!({"title": "Ship"})),
        ]
    );
    bob.get(&format!("{}/activity", path(&task))).await.assert_problem(404, "not_found");
    let first = ann.get(&format!("{}/activity?limit=1", path(&task))).await.assert(200).json;
    let cursor = first["page"]["next_cursor"].as_str().unwrap();
    let second = ann.get(&format!("{}/activity?limit=1&cursor={cursor}", path(&task))).await.assert(200).json;
    assert_eq!(second["data"][0]["event_type"], "task.completed");
}

#[tokio::test]
async fn the_trail_outlives_what_it_is_about_and_tells_where_it_came_from() {
    let app = TestApp::start().await;
    let (ann, root) = (app.user("ann").await, app.user("root").await);
    let created =
        ann.send(Method::POST, "/tasks", &[("x-request-id", "once")], Some(json!({"title": "Ship"}))).await;
    app.make_admin(&root).await;
    run(&app, "DELETE FROM tasks").await;
    run(&app, "DELETE FROM users WHERE email = 'ann@example.com'").await;
    let url = format!("/admin/audit?task_id={}", created.json["id"].as_str().unwrap());
    let rows = root.get(&url).await.assert(200).json;
    let row = &rows["data"][0];
    assert_eq!(
        (&row["actor_label"], &row["actor_id"], &row["event_type"], &row["request_id"], &row["at"]),
        (
            &json!("ann@example.com"),
            &json!(ann.id),
            &json!("task.created"),
            &json!("once"),
            &json!("2030-01-01T00:00:00Z")
        )
    );
}

#[tokio::test]
async fn an_administrator_filters_the_trail_and_takes_it_along() {
    let app = TestApp::start().await;
    let (ann, root) = (app.user("ann").await, app.user("root").await);
    ann.get("/admin/audit").await.assert_problem(403, "forbidden");
    app.make_admin(&root).await;
    for title in ["One, \"two\"", "Three"] {
        let task = ann.create_task(json!({"title": title})).await;
        let now = app.db.clock().instant();
        app.db.clock().set(now + chrono::TimeDelta::minutes(5));
        ann.delete(&path(&task)).await.assert(204);
    }
    let count = async |query: &str| {
        let page = root.get(&format!("/admin/audit?entity_type=task&{query}")).await.assert(200).json;
        page["data"].as_array().unwrap().len()
    };
    assert_eq!(count("event_type=task.deleted").await, 2);
    assert_eq!(count(&format!("actor_id={}", ann.id)).await, 4);
    assert_eq!(count(&format!("actor_id={}", root.id)).await, 0);
    assert_eq!(count("from=2030-01-01T00:05:00Z&to=2030-01-01T00:10:00Z").await, 2);
    for (query, code) in [
        ("limit=0", "malformed_parameter"),
        ("from=today", "malformed_parameter"),
        ("who=ann", "malformed_parameter"),
    ] {
        root.get(&format!("/admin/audit?{query}")).await.assert_problem(400, code);
    }
    let csv = root
        .send(Method::GET, "/admin/audit?entity_type=task", &[("accept", "text/csv")], None)
        .await
        .assert(200);
    assert!(csv.header("content-type").starts_with("text/csv"));
    let lines: Vec<&str> = csv.text.lines().collect();
    assert_eq!(lines.len(), 5, "{}", csv.text);
    assert!(lines[0].starts_with("seq,at,actor_id,actor_label,event_type,"), "{}", lines[0]);
    assert!(lines[4].contains("task.created") && lines[4].ends_with(r#""{""title"":null}""#), "{}", lines[4]);
}

#[tokio::test]
async fn an_administrator_learns_what_was_done_and_not_what_people_wrote() {
    let app = TestApp::start().await;
    let (ann, bob, root) = (app.user("ann").await, app.user("bob").await, app.user("root").await);
    app.make_admin(&root).await;
    let project = ann.post("/projects", json!({"name": "Secret plan"})).await.assert(201).json;
    let project_path = format!("/projects/{}", project["id"].as_str().unwrap());
    ann.put(&format!("{project_path}/members/{}", bob.id), json!({"role": "editor"})).await.assert(200);
    ann.patch(&project_path, json!({"name": "Secret, and planned"})).await.assert(200);
    let new = json!({"title": "Secret task", "tags": ["secret"], "project_id": project["id"]});
    let task = ann.create_task(new).await;
    let patch =
        json!({"title": "Secret, too", "description": "Secret.", "assignee_id": bob.id, "due": "2030-02-01"});
    ann.patch(&path(&task), patch).await.assert(200);
    ann.post(&format!("{}/comments", path(&task)), json!({"body": "Secret words"})).await.assert(201);
    root.patch(&format!("/admin/users/{}", bob.id), json!({"role": "admin"})).await.assert(200);

    let page = root.get("/admin/audit").await.assert(200);
    let csv = root.send(Method::GET, "/admin/audit", &[("accept", "text/csv")], None).await.assert(200);
    for (event, details) in [
        ("project.created", json!({"name": null})),
        ("project.updated", json!({"name": null})),
        ("task.created", json!({"title": null})),
        (
            "task.assigned",
            json!({"title": null, "description": null, "due": null, "assignee_id": [null, bob.id]}),
        ),
        ("comment.created", Value::Null),
        // An account is what administrators look after.
        ("user.updated", json!({"role": "admin", "is_active": null})),
    ] {
        let row = page.json["data"].as_array().unwrap().iter().find(|row| row["event_type"] == event);
        assert_eq!(row.unwrap()["details"], details, "{event}");
        assert!(csv.text.contains(event), "{event}");
    }
    for text in [page.text, csv.text] {
        assert!(!text.to_lowercase().contains("secret"), "{text}");
    }
    // Who sees the task sees what was written.
    let told = activity(&bob, &task).await;
    assert!(told.iter().any(|(_, _, details)| details["title"] == json!(["Secret task", "Secret, too"])));
}

#[tokio::test]
async fn what_is_done_to_a_team_is_written_down() {
    let app = TestApp::start().await;
    let (ann, bob, root) = (app.user("ann").await, app.user("bob").await, app.user("root").await);
    app.make_admin(&root).await;
    let team = ann.post("/teams", json!({"name": "Crew"})).await.assert(201).json;
    let team = format!("/teams/{}", team["id"].as_str().unwrap());
    let bobs_place = format!("{team}/members/{}", bob.id);
    ann.send(Method::PATCH, &team, &[("if-match", "*")], Some(json!({"name": "Band"}))).await.assert(200);
    ann.put(&bobs_place, json!({"role": "editor"})).await.assert(200);
    ann.put(&format!("{team}/members/{}", root.id), json!({"role": "captain"})).await.assert(422);
    bob.delete(&bobs_place).await.assert(204);
    ann.send(Method::DELETE, &team, &[("if-match", "*")], None).await.assert(204);

    let page = root.get("/admin/audit?entity_type=team").await.assert(200).json;
    let rows = page["data"].as_array().unwrap().iter().rev();
    let told: Vec<_> =
        rows.map(|row| (row["event_type"].as_str().unwrap(), &row["actor_id"], &row["details"])).collect();
    assert_eq!(
        told,
        [
            ("team.created", &json!(ann.id), &Value::Null),
            ("team.updated", &json!(ann.id), &json!({"name": null})),
            ("team.member_set", &json!(ann.id), &json!({"user_id": bob.id, "role": "editor"})),
            ("team.member_removed", &json!(bob.id), &json!({"user_id": bob.id})),
            ("team.deleted", &json!(ann.id), &Value::Null),
        ]
    );
}

/// `tasktracker-api audit verify`, before and after the job has sealed what there is.
#[tokio::test(flavor = "multi_thread")]
async fn the_shell_says_whether_the_trail_is_as_it_was_written() {
    let database = TestDatabase::create().await;
    let (db, _) = database.open(Clock::Database);
    let verify = async || {
        let words = ["audit", "--database-url", &database.app_url, "verify"].map(Into::into).to_vec();
        api::audit(try_parse::<api::config::AuditCommand>(words, &|_| None).unwrap()).await.unwrap()
    };
    let mut tx = db.begin().await.unwrap();
    audit::record(&mut tx, Act::new(UserId::new(), "user.updated", "user", None)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        verify().await,
        ("0 rows under 0 seals are as they were written; 1 are not sealed yet.\n".to_owned(), true)
    );
    // Once no transaction of this server is under way that began before the first round.
    chaos::cluster::until("it is sealed", Duration::from_secs(30), async || {
        let mut tx = db.begin().await.unwrap();
        let sealed = audit::seal(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        if sealed.rows > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert!(verify().await.0.starts_with("1 rows under 1 seals"));
    let mut owner = AsyncPgConnection::establish(&database.owner_url).await.unwrap();
    let forge =
        "ALTER TABLE audit_events DISABLE TRIGGER append_only; UPDATE audit_events SET actor_label = 'eve'";
    owner.batch_execute(forge).await.unwrap();
    let (text, is_intact) = verify().await;
    assert!(
        !is_intact && text.ends_with("NOT AS WRITTEN: rows 1 to 1: at least one is not as it was sealed\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_login_that_is_refused_is_written_down_with_where_it_came_from() {
    let app = TestApp::start().await;
    let (ann, root) = (app.user("ann").await, app.user("root").await);
    app.make_admin(&root).await;
    for email in ["ann@example.com", "nobody@example.com"] {
        let credentials = json!({"email": email, "password": "wrong horse battery"});
        app.anybody.post("/auth/login", credentials).await.assert_problem(401, "invalid_credentials");
    }
    let rows = root.get("/admin/audit?event_type=session.refused").await.assert(200).json;
    let who: Vec<_> =
        rows["data"].as_array().unwrap().iter().map(|row| (&row["actor_label"], &row["entity_id"])).collect();
    assert_eq!(who, [(&json!("unknown"), &Value::Null), (&json!("unknown"), &json!(ann.id))]);

    // Everything came over HTTP, and from one client: its address is kept as a keyed hash.
    assert_eq!(run(&app, "SELECT DISTINCT ip_hash FROM audit_events").await, 1);
    assert_eq!(run(&app, "SELECT FROM audit_events WHERE ip_hash IS NULL").await, 0);
}
