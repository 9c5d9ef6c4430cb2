//! What people say about a task.

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

struct Cast {
    app: TestApp,
    ann: Person,
    eda: Person,
    vic: Person,
    sam: Person,
    task: Value,
}

/// Ann's project with an editor and a viewer, and the editor's task in it.
async fn cast() -> Cast {
    let app = TestApp::start().await;
    let (ann, eda) = (app.user("ann").await, app.user("eda").await);
    let (vic, sam) = (app.user("vic").await, app.user("sam").await);
    let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
    let place = format!("/projects/{}/members", project["id"].as_str().unwrap());
    for (person, role) in [(&eda, "editor"), (&vic, "viewer")] {
        let path = format!("{place}/{}", person.id);
        ann.send(Method::PUT, &path, &[], Some(json!({"role": role}))).await.assert(200);
    }
    let task = eda.create_task(json!({"title": "One", "project_id": project["id"]})).await;
    Cast { app, ann, eda, vic, sam, task }
}

fn at(comment: &Value) -> String {
    format!("/comments/{}", comment["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_comment_is_made_read_changed_and_deleted() {
    let Cast { app, ann, eda, task, .. } = cast().await;
    let thread = format!("{}/comments", path(&task));
    let key = [("idempotency-key", "once")];
    let said = json!({"body": " First.\nSecond line. "});
    let made = ann.send(Method::POST, &thread, &key, Some(said.clone())).await.assert(201);
    let again = ann.send(Method::POST, &thread, &key, Some(said)).await.assert(201);
    assert_eq!((&again.json, again.header("idempotency-replayed")), (&made.json, "true"));
    assert_eq!(made.header("location"), format!("/api/v1{}", at(&made.json)));
    assert_eq!(made.header("etag"), "\"c-1\"");
    let comment = made.json;
    assert_eq!(
        (&comment["body"], &comment["author_id"], &comment["edited_at"]),
        (&json!(" First.\nSecond line. "), &json!(ann.id), &Value::Null)
    );
    assert_eq!(eda.get(&at(&comment)).await.assert(200).json, comment);
    eda.send(Method::GET, &at(&comment), &[("if-none-match", "\"c-1\"")], None).await.assert(304);

    let stale = [("if-match", "\"c-9\"")];
    ann.send(Method::PATCH, &at(&comment), &stale, Some(json!({"body": "x"})))
        .await
        .assert_problem(412, "stale_version");
    ann.send(Method::DELETE, &at(&comment), &stale, None).await.assert_problem(412, "stale_version");
    app.advance_to("2030-01-01T00:15:00Z").await;
    let after = ann.patch(&at(&comment), json!({"body": "Better"})).await.assert(200);
    assert_eq!(after.header("etag"), "\"c-2\"");
    assert_eq!(
        (&after.json["body"], &after.json["edited_at"]),
        (&json!("Better"), &json!("2030-01-01T00:15:00Z"))
    );
    app.advance_to("2030-01-01T00:15:01Z").await;
    ann.patch(&at(&comment), json!({"body": "Too late"})).await.assert_problem(409, "comment_settled");
    ann.delete(&at(&comment)).await.assert(204);
    ann.delete(&at(&comment)).await.assert(204);
    let gone = ann.get(&at(&comment)).await.assert(200).json;
    assert_eq!((&gone["body"], &gone["version"]), (&json!(""), &json!(3)));
    assert!(gone["deleted_at"].is_string());
}

#[tokio::test]
async fn a_deleted_comment_is_not_changed() {
    let Cast { ann, task, .. } = cast().await;
    let comment = ann.post(&format!("{}/comments", path(&task)), json!({"body": "x"})).await.assert(201).json;
    ann.delete(&at(&comment)).await.assert(204);
    ann.patch(&at(&comment), json!({"body": "y"})).await.assert_problem(409, "comment_settled");
}

#[tokio::test]
async fn who_may_say_change_and_delete() {
    let Cast { app, ann, eda, vic, sam, task } = cast().await;
    let thread = format!("{}/comments", path(&task));
    vic.post(&thread, json!({"body": "x"})).await.assert_problem(403, "forbidden");
    sam.post(&thread, json!({"body": "x"})).await.assert_problem(404, "not_found");
    sam.get(&thread).await.assert_problem(404, "not_found");
    let ed = app.user("ed").await;
    let place = format!("/projects/{}/members/{}", task["project_id"].as_str().unwrap(), ed.id);
    ann.send(Method::PUT, &place, &[], Some(json!({"role": "editor"}))).await.assert(200);
    for (author, others) in [(&ann, [&eda, &ed]), (&eda, [&ann, &ed]), (&ed, [&ann, &eda])] {
        let comment = author.post(&thread, json!({"body": "x"})).await.assert(201).json;
        for other in others {
            other.patch(&at(&comment), json!({"body": "y"})).await.assert_problem(403, "forbidden");
        }
        vic.get(&at(&comment)).await.assert(200);
        vic.patch(&at(&comment), json!({"body": "y"})).await.assert_problem(403, "forbidden");
        vic.delete(&at(&comment)).await.assert_problem(403, "forbidden");
        sam.get(&at(&comment)).await.assert_problem(404, "not_found");
        sam.patch(&at(&comment), json!({"body": "y"})).await.assert_problem(404, "not_found");
        sam.delete(&at(&comment)).await.assert_problem(404, "not_found");
    }
    let of = |author: &Person| author.id.clone();
    let all = ann.get(&thread).await.assert(200).json["data"].as_array().unwrap().clone();
    let by = |who: String| all.iter().find(|comment| comment["author_id"] == json!(who)).unwrap();
    // Another editor's comment an editor leaves alone; whose task it is and the project's owners need not.
    ed.delete(&at(by(of(&ann)))).await.assert_problem(403, "forbidden");
    eda.delete(&at(by(of(&ed)))).await.assert(204);
    ann.delete(&at(by(of(&eda)))).await.assert(204);
    // An assignee who is but a viewer says what they do.
    eda.patch(&path(&task), json!({"assignee_id": vic.id})).await.assert(200);
    let comment = vic.post(&thread, json!({"body": "Done."})).await.assert(201).json;
    // Who does not see the task any more does not see what they said either.
    let place = format!("/projects/{}/members/{}", task["project_id"].as_str().unwrap(), vic.id);
    ann.delete(&place).await.assert(204);
    vic.get(&at(&comment)).await.assert_problem(404, "not_found");
    vic.delete(&at(&comment)).await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn a_thread_has_pages_and_the_trash_is_silent() {
    let Cast { eda, task, .. } = cast().await;
    let thread = format!("{}/comments", path(&task));
    for n in 0..5 {
        eda.post(&thread, json!({"body": n.to_string()})).await.assert(201);
    }
    let (mut seen, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = eda.get(&format!("{thread}{query}")).await.assert(200).json;
        let rows = page["data"].as_array().unwrap();
        seen.extend(rows.iter().map(|comment| comment["body"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["page"]["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    eda.delete(&path(&task)).await.assert(204);
    eda.post(&thread, json!({"body": "x"})).await.assert_problem(409, "task_deleted");
    eda.get(&thread).await.assert(200);
}

#[tokio::test]
async fn webhooks_hear_how_a_comment_begins() {
    let Cast { app, eda, ann, task, .. } = cast().await;
    let names = json!(["comment.created", "comment.updated", "comment.deleted"]);
    let new = json!({"url": "https://receiver.example/hook", "events": names});
    let endpoint = ann.post("/webhooks", new).await.assert(201).json;
    let body = "é".repeat(600);
    let comment =
        eda.post(&format!("{}/comments", path(&task)), json!({"body": body})).await.assert(201).json;
    eda.patch(&at(&comment), json!({"body": "short"})).await.assert(200);
    eda.delete(&at(&comment)).await.assert(204);
    // The log has what would be sent.
    app.work().await;
    let log = format!("/webhooks/{}/deliveries", endpoint["id"].as_str().unwrap());
    let mut told = Vec::new();
    for delivery in ann.get(&log).await.assert(200).json["data"].as_array().unwrap() {
        let one = ann.get(&format!("{log}/{}", delivery["id"].as_str().unwrap())).await.assert(200).json;
        let payload: Value = serde_json::from_str(one["request"]["body"].as_str().unwrap()).unwrap();
        let data = payload["data"].clone();
        assert_eq!((&data["task_id"], &data["id"]), (&task["id"], &comment["id"]));
        assert!(data["url"].as_str().unwrap().ends_with(&path(&task)));
        told.push((
            payload["type"].as_str().unwrap().to_owned(),
            data["excerpt"].as_str().unwrap().chars().count(),
        ));
    }
    app.dispatch().await;
    told.sort();
    let row = |kind: &str, length| (kind.to_owned(), length);
    assert_eq!(told, [row("comment.created", 500), row("comment.deleted", 0), row("comment.updated", 5)]);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let Cast { eda, task, .. } = cast().await;
    let thread = format!("{}/comments", path(&task));
    let comment = eda.post(&thread, json!({"body": "x".repeat(32_768)})).await.assert(201).json;
    for (body, place, code) in [
        (json!({}), "/body", "required"),
        (json!({"body": null}), "/body", "invalid_type"),
        (json!({"body": ""}), "/body", "invalid_length"),
        (json!({"body": " \n "}), "/body", "invalid_length"),
        (json!({"body": "x".repeat(32_769)}), "/body", "invalid_length"),
        (json!({"body": "a\0b"}), "/body", "control_character"),
        (json!({"body": "x", "author_id": eda.id}), "/author_id", "unknown_field"),
    ] {
        for answer in [eda.post(&thread, body.clone()).await, eda.patch(&at(&comment), body.clone()).await] {
            let answer = answer.assert_problem(422, "validation_failed");
            let error = &answer.json["errors"][0];
            assert_eq!(
                (error["pointer"].as_str(), error["code"].as_str()),
                (Some(place), Some(code)),
                "{body:.60}"
            );
        }
    }
    eda.get(&format!("{thread}?limit=0")).await.assert_problem(400, "malformed_parameter");
    eda.get(&format!("{thread}?cursor=x")).await.assert_problem(400, "invalid_cursor");
    eda.get("/comments/x").await.assert_problem(404, "not_found");
}
