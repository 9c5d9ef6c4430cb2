//! The resource itself: made, listed, changed, put away and deleted.

use common::jobs::{ArchiveCompleted, Job as _};
use diesel_async::RunQueryDsl as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{TestApp, path};

use super::{at, cast, id, project};

#[tokio::test]
async fn a_project_is_made_read_and_changed() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let new = json!({"name": "  Launch ", "description": "Soon", "archive_done_after_days": 14});
    let made = ann.post("/projects", new).await.assert(201);
    assert_eq!(made.header("location"), format!("/api/v1/projects/{}", id(&made.json)));
    assert_eq!(made.header("etag"), "\"p-1\"");
    let project = made.json;
    assert_eq!(
        (&project["name"], &project["owner_id"], &project["archive_done_after_days"]),
        (&json!("Launch"), &json!(ann.id), &json!(14))
    );
    assert_eq!(ann.get(&at(&project)).await.assert(200).json, project);
    let known = [("if-none-match", "\"p-1\"")];
    ann.send(Method::GET, &at(&project), &known, None).await.assert(304);

    let patch = json!({"name": "Launch 2", "description": null, "archive_done_after_days": null});
    let stale = [("if-match", "\"p-7\"")];
    ann.send(Method::PATCH, &at(&project), &stale, Some(patch.clone()))
        .await
        .assert_problem(412, "stale_version");
    let after =
        ann.send(Method::PATCH, &at(&project), &[("if-match", "\"p-1\"")], Some(patch)).await.assert(200);
    assert_eq!(after.header("etag"), "\"p-2\"");
    assert_eq!(
        (&after.json["name"], &after.json["description"], &after.json["archive_done_after_days"]),
        (&json!("Launch 2"), &Value::Null, &Value::Null)
    );
    ann.send(Method::DELETE, &at(&project), &stale, None).await.assert_problem(412, "stale_version");
    ann.delete(&at(&project)).await.assert(204);
    ann.get(&at(&project)).await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn a_retry_makes_no_second_one() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let key = [("idempotency-key", "one")];
    for path in ["/projects", "/teams"] {
        let first = ann.send(Method::POST, path, &key, Some(json!({"name": "Launch"}))).await.assert(201);
        let again = ann.send(Method::POST, path, &key, Some(json!({"name": "Launch"}))).await.assert(201);
        assert_eq!((again.header("idempotency-replayed"), &again.json), ("true", &first.json));
        assert_eq!(ann.get(path).await.json["data"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn the_list_has_pages_and_leaves_out_what_was_put_away() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    project(&bob, "Bob's").await;
    for name in ["A", "B", "C"] {
        project(&ann, name).await;
    }
    let mut seen = Vec::new();
    let mut path = "/projects?limit=2".to_owned();
    loop {
        let page = ann.get(&path).await.assert(200).json;
        seen.extend(page["data"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["page"]["next_cursor"].as_str() else { break };
        path = format!("/projects?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["A", "B", "C"]);

    let b = ann.get("/projects").await.json["data"][1].clone();
    let away = ann.act(&format!("{}/archive", at(&b))).await.assert(200).json;
    assert!(away["archived_at"].is_string());
    assert_eq!(ann.act(&format!("{}/archive", at(&b))).await.assert(200).json, away, "again");
    let names = |page: Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(ann.get("/projects").await.json), ["A", "C"]);
    assert_eq!(names(ann.get("/projects?archived=true").await.json), ["B"]);
    assert!(ann.act(&format!("{}/unarchive", at(&b))).await.assert(200).json["archived_at"].is_null());
}

#[tokio::test]
async fn an_archived_project_takes_nothing_lists_nothing_and_reminds_of_nothing() {
    let c = cast().await;
    let reminders = json!([{"kind": "absolute", "at": "2030-01-02T00:00:00Z"}]);
    let new = json!({"title": "One", "project_id": id(&c.project), "reminders": reminders});
    let task = c.eda.create_task(new).await;
    let other = c.eda.create_task(json!({"title": "Two"})).await;
    c.ann.act(&format!("{}/archive", at(&c.project))).await.assert(200);

    let new = json!({"title": "Three", "project_id": id(&c.project)});
    c.ann.post("/tasks", new).await.assert_problem(409, "project_archived");
    c.eda
        .patch(&path(&other), json!({"project_id": id(&c.project)}))
        .await
        .assert_problem(409, "project_archived");
    let listed = c.eda.get("/tasks").await.assert(200).json;
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["data"][0]["id"]), (1, &other["id"]));
    let named = c.eda.get(&format!("{}/tasks", at(&c.project))).await.assert(200).json;
    assert_eq!(named["data"][0]["id"], task["id"]);
    c.app.advance_to("2030-01-02T00:00:00Z").await;
    assert_eq!(c.app.mail().await.len(), 0);
    let fires = c.eda.fires(&task).await;
    assert_eq!((&fires[0]["state"], &fires[0]["reason"]), (&json!("cancelled"), &json!("task_archived")));
}

#[tokio::test]
async fn what_has_tasks_is_deleted_only_with_a_word_about_them() {
    let c = cast().await;
    let new = json!({"title": "One", "project_id": id(&c.project), "assignee_id": c.ann.id,
        "reminders": [{"kind": "absolute", "at": "2030-01-02T00:00:00Z"}]});
    let task = c.eda.create_task(new).await;
    c.ann.delete(&at(&c.project)).await.assert_problem(409, "project_not_empty");
    for (tasks, code) in [("burn", "malformed_parameter"), ("move:x", "malformed_parameter")] {
        c.ann.delete(&format!("{}?tasks={tasks}", at(&c.project))).await.assert_problem(400, code);
    }
    for tasks in [id(&c.project), "01900000-0000-7000-8000-000000000000"] {
        let refused = c.ann.delete(&format!("{}?tasks=move:{tasks}", at(&c.project))).await;
        let refused = refused.assert_problem(422, "validation_failed");
        assert_eq!(refused.json["errors"][0]["parameter"], "tasks");
    }
    let other = project(&c.ann, "Other").await;
    c.ann.delete(&format!("{}?tasks=move:{}", at(&c.project), id(&other))).await.assert(204);
    let moved = c.eda.get(&path(&task)).await.assert(200).json;
    assert_eq!(
        (&moved["project_id"], &moved["assignee_id"]),
        (&other["id"], &json!(c.ann.id)),
        "its owner keeps it"
    );
    assert_eq!(c.eda.fires(&task).await[0]["state"], "planned");

    c.ann.delete(&format!("{}?tasks=trash", at(&other))).await.assert(204);
    c.ann.get(&path(&task)).await.assert_problem(404, "not_found");
    let trashed = c.eda.get(&path(&task)).await.assert(200).json;
    assert!(trashed["deleted_at"].is_string() && trashed["project_id"].is_null());
    assert!(trashed["assignee_id"].is_null(), "ann does not see it any more");
    let fires = c.eda.fires(&task).await;
    assert_eq!((&fires[0]["state"], &fires[0]["reason"]), (&json!("cancelled"), &json!("task_deleted")));
    assert!(c.eda.act(&format!("{}/restore", path(&task))).await.assert(200).json["deleted_at"].is_null());
    assert_eq!(c.eda.fires(&task).await[0]["state"], "planned");
}

#[tokio::test]
async fn a_project_says_when_its_finished_tasks_are_put_away() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let quick =
        ann.post("/projects", json!({"name": "Quick", "archive_done_after_days": 2})).await.assert(201).json;
    let slow =
        ann.post("/projects", json!({"name": "Slow", "archive_done_after_days": 90})).await.assert(201).json;
    let mut tasks = Vec::new();
    for project in [id(&quick).into(), id(&slow).into(), Value::Null] {
        let task = ann.create_task(json!({"title": "Done", "project_id": project})).await;
        ann.act(&format!("{}/complete", path(&task))).await.assert(200);
        tasks.push(task);
    }
    let archived_after = async |days: u8| {
        let past = format!(
            "UPDATE tasks SET completed_at = timestamptz '2030-01-01Z' - interval '{days} days' WHERE archived_at IS NULL"
        );
        diesel::sql_query(past).execute(&mut app.db.conn().await.unwrap()).await.unwrap();
        let mut tx = app.db.begin().await.unwrap();
        ArchiveCompleted {}.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        app.work().await;
        let mut archived = Vec::new();
        for task in &tasks {
            archived.push(ann.get(&path(task)).await.assert(200).json["archived_at"].is_string());
        }
        archived
    };
    assert_eq!(archived_after(1).await, [false; 3]);
    assert_eq!(archived_after(3).await, [true, false, false]);
    assert_eq!(archived_after(31).await, [true, false, true]);
    assert_eq!(archived_after(91).await, [true; 3]);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let c = cast().await;
    let (one, members) = (at(&c.project), format!("{}/members/{}", at(&c.project), c.sam.id));
    let nowhere = "01900000-0000-7000-8000-000000000000";
    let long = "x".repeat(201);
    let too_long = "x".repeat(65_537);
    for (method, path, body, place, code) in [
        (Method::POST, "/projects", json!({}), "/name", "required"),
        (Method::POST, "/projects", json!({"name": " "}), "/name", "invalid_length"),
        (Method::POST, "/projects", json!({"name": long}), "/name", "invalid_length"),
        (Method::POST, "/projects", json!({"name": "a\nb"}), "/name", "control_character"),
        (Method::POST, "/projects", json!({"name": 1}), "/name", "invalid_type"),
        (
            Method::POST,
            "/projects",
            json!({"name": "a", "description": too_long}),
            "/description",
            "invalid_length",
        ),
        (Method::POST, "/projects", json!({"name": "a", "team_id": nowhere}), "/team_id", "invalid_value"),
        (
            Method::POST,
            "/projects",
            json!({"name": "a", "archive_done_after_days": 0}),
            "/archive_done_after_days",
            "invalid_length",
        ),
        (Method::POST, "/projects", json!({"name": "a", "owner_id": nowhere}), "/owner_id", "unknown_field"),
        (Method::PATCH, &one, json!({"name": ""}), "/name", "invalid_length"),
        (Method::PATCH, &one, json!({"team_id": nowhere}), "/team_id", "invalid_value"),
        (Method::PATCH, &one, json!({"archived_at": null}), "/archived_at", "unknown_field"),
        (Method::PUT, &members, json!({}), "/role", "required"),
        (Method::PUT, &members, json!({"role": "boss"}), "/role", "invalid_value"),
        (Method::POST, "/teams", json!({"name": ""}), "/name", "invalid_length"),
        (Method::POST, "/teams", json!({"title": "a"}), "/title", "unknown_field"),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "project_id": nowhere}),
            "/project_id",
            "invalid_value",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "assignee_id": nowhere}),
            "/assignee_id",
            "invalid_value",
        ),
        (Method::POST, "/tasks", json!({"title": "a", "project_id": "x"}), "/project_id", "invalid_value"),
    ] {
        let answer = c.ann.send(method, path, &[], Some(body.clone())).await;
        assert_eq!(answer.status, 422, "{path} {body:.80}: {}", answer.text);
        let error = &answer.json["errors"][0];
        assert_eq!(
            (error["pointer"].as_str(), error["code"].as_str()),
            (Some(place), Some(code)),
            "{path} {body:.80}: {}",
            answer.text
        );
    }
    for (path, parameter) in [
        ("/projects?archvied=true", "archvied"),
        ("/projects?limit=0", "limit"),
        ("/projects?team_id=x", "team_id"),
        ("/tasks?assignee=everybody", "assignee"),
        ("/tasks?project_id=x", "project_id"),
    ] {
        let answer = c.ann.get(path).await.assert_problem(400, "malformed_parameter");
        assert_eq!(answer.json["errors"][0]["parameter"], parameter, "{}", answer.text);
    }
    let elsewhere = format!("{one}/tasks?project_id={nowhere}");
    c.ann.get(&elsewhere).await.assert_problem(400, "malformed_parameter");
    c.ann.get("/projects/not-an-id").await.assert_problem(404, "not_found");
}
