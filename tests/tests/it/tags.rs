//! Words on tasks: each person's own, or those of a project.

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

fn at(tag: &Value) -> String {
    format!("/tags/{}", tag["id"].as_str().unwrap())
}

async fn names(person: &Person, query: &str) -> Vec<String> {
    let page = person.get(&format!("/tags{query}")).await.assert(200).json;
    page["data"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap().to_owned()).collect()
}

/// The tag with this name that the person sees.
async fn tag(person: &Person, name: &str) -> Value {
    let page = person.get("/tags").await.assert(200).json;
    page["data"].as_array().unwrap().iter().find(|tag| tag["name"] == name).unwrap().clone()
}

async fn shared(ann: &Person, bob: &Person, role: &str) -> Value {
    let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
    let path = format!("/projects/{}/members/{}", project["id"].as_str().unwrap(), bob.id);
    ann.send(Method::PUT, &path, &[], Some(json!({"role": role}))).await.assert(200);
    project
}

#[tokio::test]
async fn a_tag_is_made_listed_renamed_and_deleted() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let task = ann.create_task(json!({"title": "One", "tags": ["work", "Later"]})).await;
    bob.create_task(json!({"title": "Bob's", "tags": ["work"]})).await;
    let made = ann.post("/tags", json!({"name": " Home "})).await.assert(201);
    assert_eq!((made.header("etag"), &made.json["name"]), ("\"tag-1\"", &json!("Home")));
    assert_eq!(made.header("location"), format!("/api/v1{}", at(&made.json)));
    ann.post("/tags", json!({"name": "home"})).await.assert_problem(409, "tag_exists");
    assert_eq!(names(&ann, "").await, ["Home", "Later", "work"]);
    let first = ann.get("/tags?limit=2").await.assert(200).json;
    let cursor = first["page"]["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(names(&ann, &format!("?limit=2&cursor={cursor}")).await, ["work"]);

    let work = tag(&ann, "work").await;
    ann.send(Method::GET, &at(&work), &[("if-none-match", "\"tag-1\"")], None).await.assert(304);
    let stale = [("if-match", "\"tag-4\"")];
    ann.send(Method::PATCH, &at(&work), &stale, Some(json!({"name": "x"})))
        .await
        .assert_problem(412, "stale_version");
    ann.patch(&at(&work), json!({"name": "LATER"})).await.assert_problem(409, "tag_exists");
    let renamed = ann.patch(&at(&work), json!({"name": "Work"})).await.assert(200);
    assert_eq!(renamed.header("etag"), "\"tag-2\"");
    let after = ann.get(&path(&task)).await.json;
    assert_eq!((&after["tags"], &after["version"]), (&json!(["Later", "Work"]), &json!(2)));
    ann.delete(&at(&work)).await.assert(204);
    let after = ann.get(&path(&task)).await.json;
    assert_eq!((&after["tags"], &after["version"]), (&json!(["Later"]), &json!(3)));
    assert_eq!(names(&bob, "").await, ["work"], "bob's word is another");
    let bobs = tag(&bob, "work").await;
    for (method, path, body) in [
        (Method::GET, at(&bobs), None),
        (Method::PATCH, at(&bobs), Some(json!({"name": "mine"}))),
        (Method::DELETE, at(&bobs), None),
        (Method::POST, format!("{}/merge", at(&bobs)), Some(json!({"into": bobs["id"]}))),
    ] {
        ann.send(method, &path, &[], body).await.assert_problem(404, "not_found");
    }
}

#[tokio::test]
async fn of_two_tags_one_is_made() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut tasks = Vec::new();
    for tags in [json!(["a"]), json!(["b"]), json!(["a", "b"]), json!(["c"])] {
        tasks.push(ann.create_task(json!({"title": "One", "tags": tags})).await);
    }
    let (a, b) = (tag(&ann, "a").await, tag(&ann, "b").await);
    for wrong in [a["id"].clone(), json!("01900000-0000-7000-8000-000000000000")] {
        let refused = ann.post(&format!("{}/merge", at(&a)), json!({"into": wrong})).await;
        assert_eq!(refused.assert_problem(422, "validation_failed").json["errors"][0]["pointer"], "/into");
    }
    let merged = ann.post(&format!("{}/merge", at(&a)), json!({"into": b["id"]})).await.assert(200).json;
    assert_eq!(merged["id"], b["id"]);
    let mut after = Vec::new();
    for task in &tasks {
        let task = ann.get(&path(task)).await.json;
        after.push((task["tags"].clone(), task["version"].as_i64().unwrap()));
    }
    assert_eq!(after, [(json!(["b"]), 2), (json!(["b"]), 1), (json!(["b"]), 2), (json!(["c"]), 1)]);
    assert_eq!(names(&ann, "").await, ["b", "c"]);
}

#[tokio::test]
async fn the_words_of_a_project_are_shared() {
    let app = TestApp::start().await;
    let (ann, bob, vic) = (app.user("ann").await, app.user("bob").await, app.user("vic").await);
    let project = shared(&ann, &bob, "editor").await;
    let id = project["id"].as_str().unwrap();
    let place = format!("/projects/{id}/members/{}", vic.id);
    ann.send(Method::PUT, &place, &[], Some(json!({"role": "viewer"}))).await.assert(200);
    let task = ann.create_task(json!({"title": "One", "tags": ["Urgent"], "project_id": id})).await;
    ann.create_task(json!({"title": "Private", "tags": ["urgent", "own"]})).await;
    let other = bob.create_task(json!({"title": "Two", "tags": ["URGENT", "new"], "project_id": id})).await;
    assert_eq!(other["tags"], json!(["new", "Urgent"]), "the first spelling stays");
    assert_eq!(names(&bob, "").await, ["new", "Urgent"]);
    assert_eq!(names(&ann, "").await, ["new", "own", "Urgent", "urgent"]);
    assert_eq!(names(&ann, &format!("?project_id={id}")).await, ["new", "Urgent"]);
    let urgent = tag(&bob, "Urgent").await;
    assert_eq!(urgent["project_id"], json!(id));
    vic.get(&at(&urgent)).await.assert(200);
    vic.patch(&at(&urgent), json!({"name": "x"})).await.assert_problem(403, "forbidden");
    vic.delete(&at(&urgent)).await.assert_problem(403, "forbidden");
    vic.post("/tags", json!({"name": "x", "project_id": id})).await.assert_problem(403, "forbidden");
    bob.patch(&at(&urgent), json!({"name": "Soon"})).await.assert(200);
    assert_eq!(ann.get(&path(&task)).await.json["tags"], json!(["Soon"]));
    // A word of one's own is not merged into one of the project.
    let own = tag(&ann, "own").await;
    ann.post(&format!("{}/merge", at(&own)), json!({"into": urgent["id"]}))
        .await
        .assert_problem(422, "validation_failed");

    // A task takes its words along, and they become words of where it is.
    let moved = bob.patch(&path(&other), json!({"project_id": null})).await.assert(200).json;
    assert_eq!(moved["tags"], json!(["new", "Soon"]));
    let all = bob.get("/tags").await.json;
    let own: Vec<_> =
        all["data"].as_array().unwrap().iter().filter(|tag| tag["project_id"].is_null()).collect();
    assert_eq!(own.iter().map(|tag| &tag["name"]).collect::<Vec<_>>(), ["new", "Soon"]);
    let list = bob.get("/tasks?tag=soon").await.assert(200).json;
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "both words are the same to the list");
    // When the project goes, the words stay on what it leaves.
    ann.delete(&format!("/projects/{id}?tasks=trash")).await.assert(204);
    let left = ann.act(&format!("{}/restore", path(&task))).await.assert(200).json;
    assert_eq!(left["tags"], json!(["Soon"]));
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    ann.post("/tags", json!({"name": "x".repeat(50)})).await.assert(201);
    let tag = ann.post("/tags", json!({"name": "t"})).await.assert(201).json;
    for (body, place, code) in [
        (json!({"name": ""}), "/name", "invalid_length"),
        (json!({"name": " "}), "/name", "invalid_length"),
        (json!({"name": "y".repeat(51)}), "/name", "invalid_length"),
        (json!({"name": "a,b"}), "/name", "control_character"),
        (json!({"name": "a\tb"}), "/name", "control_character"),
        (json!({"name": 1}), "/name", "invalid_type"),
        (json!({"name": "a", "color": "red"}), "/color", "unknown_field"),
    ] {
        for answer in [ann.post("/tags", body.clone()).await, ann.patch(&at(&tag), body.clone()).await] {
            let answer = answer.assert_problem(422, "validation_failed");
            let error = &answer.json["errors"][0];
            assert_eq!(
                (error["pointer"].as_str(), error["code"].as_str()),
                (Some(place), Some(code)),
                "{body}"
            );
        }
    }
    ann.post("/tags", json!({})).await.assert_problem(422, "validation_failed");
    let nowhere = json!({"name": "a", "project_id": "01900000-0000-7000-8000-000000000000"});
    ann.post("/tags", nowhere).await.assert_problem(422, "validation_failed");
    ann.post(&format!("{}/merge", at(&tag)), json!({})).await.assert_problem(422, "validation_failed");
    ann.get("/tags?name=x").await.assert_problem(400, "malformed_parameter");
}
