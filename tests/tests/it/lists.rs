use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

async fn titles(person: &Person, query: &str) -> Vec<String> {
    let page = person.get(&format!("/tasks{query}")).await.assert(200).json;
    page["data"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned()).collect()
}

/// The clock stands at 2030-01-01T00:00:00Z, which is 09:00 of that day in Tokyo.
async fn ann_with_tasks(app: &TestApp) -> Person {
    let ann = app.user_in("ann", "Asia/Tokyo").await;
    for task in [
        json!({"title": "overdue", "due": "2029-12-30", "tags": ["Home"]}),
        json!({"title": "this morning", "due": {"date": "2030-01-01", "time": "08:00"}, "priority": "low"}),
        json!({"title": "today", "due": "2030-01-01", "priority": "urgent", "tags": ["home", "Garden"]}),
        json!({"title": "tomorrow", "due": {"date": "2030-01-02", "time": "00:30"}}),
        // 2030-01-02 01:00 in Tokyo.
        json!({"title": "tomorrow, said in UTC", "due": "2030-01-01T16:00Z"}),
        json!({"title": "next week", "due": "2030-01-09"}),
        json!({"title": "some day", "priority": "high", "tags": ["garden"]}),
    ] {
        ann.create_task(task).await;
    }
    ann
}

#[tokio::test]
async fn words_are_found_in_title_and_description() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for (title, description) in [
        ("Buy paper for the printer", Value::Null),
        ("Call Zoë", json!("about the PRINTER's toner")),
        ("Something else", Value::Null),
    ] {
        ann.create_task(json!({"title": title, "description": description})).await;
    }
    let found = async |q: &str| {
        let q: String = q.bytes().map(|byte| format!("%{byte:02x}")).collect();
        titles(&ann, &format!("?q={q}")).await
    };
    assert_eq!(found("printer").await, ["Buy paper for the printer", "Call Zoë"]);
    assert_eq!(found("printer -toner").await, ["Buy paper for the printer"]);
    assert_eq!(found("\"the printer\" toner").await, ["Call Zoë"]);
    assert_eq!(found("zoë").await, ["Call Zoë"]);
    // Whatever people type is words and never an error.
    for odd in ["'", "a & | ! ( :*", "\\", "\"unclosed", "-", "<->", "%"] {
        assert_eq!(found(odd).await, [""; 0], "{odd}");
    }
    ann.get(&format!("/tasks?q={}", "x".repeat(201))).await.assert_problem(400, "malformed_parameter");
}

#[tokio::test]
async fn the_default_order_is_overdue_due_priority() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    let done = ann.create_task(json!({"title": "done", "due": "2029-12-01"})).await;
    ann.act(&format!("{}/complete", path(&done))).await.assert(200);
    let low = ann.create_task(json!({"title": "some day, less", "priority": "low"})).await;
    assert_eq!(
        titles(&ann, "").await,
        [
            "overdue",
            "this morning",
            "today",
            "tomorrow",
            "tomorrow, said in UTC",
            "next week",
            "some day",
            "some day, less",
            "done"
        ]
    );
    ann.patch(&path(&low), json!({"priority": "urgent"})).await.assert(200);
    assert_eq!(titles(&ann, "").await[6..8], ["some day, less", "some day"]);
}

#[tokio::test]
async fn filters_say_what_is_listed() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    for (query, expected) in [
        ("?due=overdue", vec!["overdue", "this morning"]),
        ("?due=today", vec!["this morning", "today"]),
        ("?due=tomorrow", vec!["tomorrow", "tomorrow, said in UTC"]),
        ("?due=week", vec!["this morning", "today", "tomorrow", "tomorrow, said in UTC"]),
        ("?due=none", vec!["some day"]),
        ("?priority=high,urgent", vec!["today", "some day"]),
        ("?tag=HOME", vec!["overdue", "today"]),
        ("?tag=home,garden", vec!["overdue", "today", "some day"]),
        ("?tag=home&tag=garden", vec!["today"]),
        ("?status=done", vec![]),
        ("?due_after=2030-01-02T00:00:00Z", vec!["next week"]),
        ("?due_before=2029-12-31T00:00:00Z", vec!["overdue"]),
    ] {
        assert_eq!(titles(&ann, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn the_trash_and_the_archive_are_shown_on_request() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let (away, gone) =
        (ann.create_task(json!({"title": "away"})).await, ann.create_task(json!({"title": "gone"})).await);
    ann.act(&format!("{}/archive", path(&away))).await.assert(200);
    ann.delete(&path(&gone)).await.assert(204);
    assert_eq!(titles(&ann, "").await, Vec::<String>::new());
    assert_eq!(titles(&ann, "?archived=true").await, ["away"]);
    assert_eq!(titles(&ann, "?deleted=true").await, ["gone"]);
}

#[tokio::test]
async fn pages_hold_every_task_once() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    for number in 0..6 {
        ann.create_task(json!({"title": format!("same {number}")})).await;
    }
    let all = titles(&ann, "").await;
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = ann.get(&format!("/tasks{query}")).await.assert(200).json;
        let rows = page["data"].as_array().unwrap();
        assert!(rows.len() <= 2 && page["page"]["limit"] == 2);
        seen.extend(rows.iter().map(|task| task["title"].as_str().unwrap().to_owned()));
        match &page["page"]["next_cursor"] {
            Value::String(cursor) => query = format!("?limit=2&cursor={cursor}"),
            end => {
                assert_eq!((end, &page["page"]["has_more"]), (&Value::Null, &json!(false)));
                break;
            }
        }
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_filters_only() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    let page = ann.get("/tasks?limit=1").await.assert(200).json;
    let cursor = page["page"]["next_cursor"].as_str().unwrap();
    let other = ann.get(&format!("/tasks?priority=high&cursor={cursor}")).await;
    let other = other.assert_problem(400, "invalid_cursor");
    assert_eq!(other.json["errors"][0]["parameter"], "cursor");
}

#[tokio::test]
async fn numbered_pages_count_everything() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    let all = titles(&ann, "").await;
    let page = ann.get("/tasks?page=2&per_page=3").await.assert(200).json;
    assert_eq!(page["page"], json!({"number": 2, "per_page": 3, "total": 7, "total_pages": 3}));
    assert_eq!(titles(&ann, "?page=2&per_page=3").await, all[3..6]);
    assert_eq!(titles(&ann, "?page=3&per_page=3").await, all[6..]);
    assert_eq!(titles(&ann, "?per_page=2&sort=-created_at").await, ["some day", "next week"]);
    let beyond = ann.get("/tasks?page=4&per_page=3&priority=urgent").await.assert(200).json;
    assert_eq!((&beyond["data"], &beyond["page"]["total"]), (&json!([]), &json!(1)));
    for query in ["page=0", "page=1&limit=5", "per_page=101", "page=10001", "page=x", "page=1&cursor=x"] {
        ann.get(&format!("/tasks?{query}")).await.assert_problem(400, "malformed_parameter");
    }
}

#[tokio::test]
async fn a_list_shows_the_fields_that_are_asked_for() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
    let task = ann
        .create_task(
            json!({"title": "One", "project_id": project["id"], "assignee_id": ann.id, "tags": ["a"]}),
        )
        .await;
    let part =
        ann.create_task(json!({"title": "Part", "parent_id": task["id"], "project_id": project["id"]})).await;
    ann.create_task(json!({"title": "Other part", "parent_id": task["id"], "project_id": project["id"]}))
        .await;
    ann.act(&format!("{}/complete", path(&part))).await.assert(200);
    ann.post(&format!("{}/comments", path(&task)), json!({"body": "Well"})).await.assert(201);

    let shaped = ann.get(&format!("{}?fields=title,status", path(&task))).await.assert(200);
    assert_eq!(shaped.json, json!({"id": task["id"], "title": "One", "status": "todo"}));
    assert!(shaped.headers.get("etag").is_none(), "it is not the representation that the tag is for");

    let query = "fields=title&include=project,owner,assignee,subtasks,comments,tags";
    let shaped = ann.get(&format!("{}?{query}", path(&task))).await.assert(200).json;
    let me = json!({"id": ann.id, "full_name": "ann"});
    let expected = json!({
        "id": task["id"], "title": "One", "tags": ["a"], "project": {"id": project["id"], "name": "Launch"},
        "owner": me, "assignee": me, "subtasks": {"open": 1, "total": 2}, "comments": {"total": 1},
    });
    assert_eq!(shaped, expected);
    let list =
        ann.get(&format!("/tasks?{query}&parent_id={}", task["id"].as_str().unwrap())).await.assert(200).json;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    assert_eq!(list["data"][0]["assignee"], Value::Null);
    // Every field can be asked for.
    let whole = ann.get(&path(&task)).await.assert(200).json;
    let names: Vec<&str> = whole.as_object().unwrap().keys().map(String::as_str).collect();
    let all = ann.get(&format!("{}?fields={}", path(&task), names.join(","))).await.assert(200).json;
    assert_eq!(all, whole);
    let whole = ann.get(&format!("{}?include=project", path(&task))).await.assert(200).json;
    assert_eq!((&whole["description"], &whole["project"]["name"]), (&Value::Null, &json!("Launch")));
    for query in ["fields=titel", "include=everything", "fields="] {
        ann.get(&format!("{}?{query}", path(&task))).await.assert_problem(400, "malformed_parameter");
    }
}

#[tokio::test]
async fn lists_know_when_something_changed() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Asia/Tokyo").await;
    let old = ann.create_task(json!({"title": "old", "due": "2030-01-02"})).await;
    ann.create_task(json!({"title": "older"})).await;
    app.advance_to("2030-01-01T01:00:00Z").await;
    ann.act(&format!("{}/complete", path(&old))).await.assert(200);
    assert_eq!(titles(&ann, "?completed_after=2030-01-01T01:00:00Z").await, ["old"]);
    assert_eq!(titles(&ann, "?completed_after=2030-01-01T01:00:01Z").await, [""; 0]);
    assert_eq!(titles(&ann, "?updated_since=2030-01-01T00:30:00Z").await, ["old"]);
    assert_eq!(titles(&ann, "?updated_since=2030-01-01T00:00:00Z").await.len(), 2);
    // At 01:00 UTC it is the second of January nowhere, and in Kiritimati it soon will be.
    app.advance_to("2030-01-01T10:30:00Z").await;
    assert_eq!(titles(&ann, "?due=today").await, [""; 0]);
    assert_eq!(titles(&ann, "?due=today&tz=Pacific/Kiritimati").await, ["old"]);
    ann.get("/tasks?due=today&tz=Mars/Olympus").await.assert_problem(400, "malformed_parameter");
}

#[tokio::test]
async fn the_head_of_a_page_leads_to_the_next_one() {
    let app = TestApp::start().await;
    let ann = ann_with_tasks(&app).await;
    let all = titles(&ann, "").await;
    for start in ["/tasks?limit=3", "/tasks?per_page=3"] {
        let (mut next, mut seen) = (Some(start.to_owned()), Vec::new());
        while let Some(path) = next {
            let page = ann.get(&path).await.assert(200);
            seen.extend(
                page.json["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|task| task["title"].as_str().unwrap().to_owned()),
            );
            next = page.headers.get("link").map(|link| {
                let link = link.to_str().unwrap().strip_prefix("</api/v1").unwrap();
                link.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
            });
        }
        assert_eq!(seen, all, "{start}");
    }
}
