//! Many changes of tasks in one request.

use common::db::RunQueryDsl as _;
use diesel::{QueryableByName, sql_types::BigInt};
use serde_json::{Value, json};
use tests::app::{Answer, Person, TestApp, path};

async fn batch(person: &Person, atomic: bool, operations: Value) -> Answer {
    person.post("/tasks/batch", json!({"atomic": atomic, "operations": operations})).await
}

fn statuses(answer: &Value) -> Vec<u64> {
    answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

async fn titles(person: &Person) -> Vec<String> {
    let tasks = person.get("/tasks?sort=-created_at").await.assert(200).json;
    tasks["data"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned()).collect()
}

/// How many events wait to be told.
async fn told(app: &TestApp) -> i64 {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }

    app.dispatch().await;
    let jobs = diesel::sql_query("SELECT count(*) FROM jobs WHERE kind = 'fan_out_event'");
    jobs.get_result::<Count>(&mut app.db.conn().await.unwrap()).await.unwrap().count
}

async fn subscribe(person: &Person) {
    let hook = json!({"url": "https://example.com/hook", "events": ["task.created"]});
    person.post("/webhooks", hook).await.assert(201);
}

#[tokio::test]
async fn operations_stand_for_themselves() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let mine = ann.create_task(json!({"title": "Mine"})).await;
    let old = ann.create_task(json!({"title": "Old"})).await;
    let his = bob.create_task(json!({"title": "His"})).await;
    let operations = json!([
        {"create": {"title": "New", "due": "2030-06-01", "reminders": [{"kind": "relative", "offset_minutes": -30}]}},
        {"patch": {"id": mine["id"], "version": 1, "changes": {"title": "Mine, changed"}}},
        {"patch": {"id": mine["id"], "version": 1, "changes": {"title": "Too late"}}},
        {"complete": {"id": his["id"]}},
        {"create": {"title": "Reminds of nothing", "reminders": [{"kind": "relative", "offset_minutes": -30}]}},
        {"delete": {"id": old["id"]}},
        {"complete": {"id": mine["id"]}},
    ]);
    let answer = batch(&ann, false, operations).await.assert(200).json;
    assert_eq!(statuses(&answer), [201, 200, 412, 404, 422, 204, 200]);
    let results = &answer["results"];
    assert_eq!(results[0]["task"]["reminders"].as_array().unwrap().len(), 1);
    assert_eq!(results[1]["task"]["title"], "Mine, changed");
    assert_eq!(results[2]["problem"]["code"], "stale_version");
    assert_eq!(results[4]["problem"]["errors"][0]["pointer"], "/operations/4/create/reminders/0");
    assert_eq!(results[6]["task"]["status"], "done");
    assert_eq!(titles(&ann).await, ["New", "Mine, changed"]);
    assert_eq!(bob.get(&path(&his)).await.assert(200).json, his);
}

#[tokio::test]
async fn an_atomic_batch_is_done_as_a_whole_or_not_at_all() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    subscribe(&ann).await;
    let task = ann.create_task(json!({"title": "One"})).await;
    let jobs = told(&app).await;
    let create = json!({"create": {"title": "Two"}});
    let refused = batch(
        &ann,
        true,
        json!([create, {"patch": {"id": task["id"], "version": 7, "changes": {}}}, create]),
    )
    .await
    .assert_problem(409, "batch_undone");
    assert_eq!(
        (&refused.json["errors"][0]["pointer"], &refused.json["errors"][0]["code"]),
        (&json!("/operations/1"), &json!("stale_version"))
    );
    assert_eq!(titles(&ann).await, ["One"]);
    assert_eq!(told(&app).await, jobs, "what was undone owes nothing");

    let done =
        batch(&ann, true, json!([create, {"complete": {"id": task["id"], "version": 1}}])).await.assert(200);
    assert_eq!(statuses(&done.json), [201, 200]);
    assert_eq!(told(&app).await, jobs + 1);
}

/// An operation that failed owes no job, though others of its transaction do.
#[tokio::test]
async fn a_failed_operation_leaves_nothing_behind() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    subscribe(&ann).await;
    let stranger = app.user("bob").await;
    let jobs = told(&app).await;
    let answer = batch(
        &ann,
        false,
        json!([
            {"create": {"title": "Good"}},
            {"create": {"title": "For whom?", "assignee_id": stranger.id}},
            {"create": {"title": "Fine"}},
        ]),
    )
    .await
    .assert(200)
    .json;
    assert_eq!(statuses(&answer), [201, 422, 201]);
    assert_eq!(titles(&ann).await, ["Fine", "Good"]);
    assert_eq!(told(&app).await, jobs + 2);
}

#[tokio::test]
async fn a_retry_does_nothing_again() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let body = json!({"operations": [{"create": {"title": "Once"}}]});
    let send = async || {
        let key = [("Idempotency-Key", "batch-1")];
        ann.send(reqwest::Method::POST, "/tasks/batch", &key, Some(body.clone())).await.assert(200)
    };
    let (first, again) = (send().await, send().await);
    assert_eq!((again.header("idempotency-replayed"), &again.json), ("true", &first.json));
    assert_eq!(titles(&ann).await, ["Once"]);
}

#[tokio::test]
async fn a_body_that_breaks_a_rule_is_refused_as_a_whole() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "One"})).await;
    let id = &task["id"];
    let many: Vec<Value> = vec![json!({"complete": {"id": id}}); 101];
    for (operations, pointer, code) in [
        (json!([]), "/operations", "invalid_length"),
        (json!(many), "/operations", "invalid_length"),
        (
            json!([{"complete": {"id": id}}, {"create": {"title": ""}}]),
            "/operations/1/create/title",
            "invalid_length",
        ),
        (json!([{"create": {"titel": "x"}}]), "/operations/0/create/titel", "unknown_field"),
        (json!([{"create": {}}]), "/operations/0/create/title", "required"),
        (
            json!([{"patch": {"id": id, "changes": {"title": " "}}}]),
            "/operations/0/patch/changes/title",
            "invalid_length",
        ),
        (
            json!([{"patch": {"id": id, "changes": {"status": "finished"}}}]),
            "/operations/0/patch/changes/status",
            "invalid_value",
        ),
        (json!([{"complete": {"id": "x"}}]), "/operations/0/complete/id", "invalid_value"),
        (json!([{"delete": {}}]), "/operations/0/delete/id", "required"),
        (json!([{"finish": {"id": id}}]), "/operations/0", "invalid_value"),
        (json!([{"complete": {"id": id}, "delete": {"id": id}}]), "/operations/0", "invalid_value"),
        (json!({}), "/operations", "invalid_type"),
    ] {
        let refused = batch(&ann, false, operations.clone()).await.assert_problem(422, "validation_failed");
        let error = &refused.json["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{operations}");
    }
    assert_eq!(ann.get(&path(&task)).await.assert(200).json, task, "nothing half done");
}

/// Two batches that name the same tasks in opposite orders do not wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn batches_beside_each_other_do_not_block() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(ann.create_task(json!({"title": format!("Task {number}")})).await["id"].clone());
    }
    let change = |ids: &[Value], title: &str| -> Value {
        ids.iter().map(|id| json!({"patch": {"id": id, "changes": {"title": title}}})).collect()
    };
    let forth = change(&ids, "forth");
    ids.reverse();
    let back = change(&ids, "back");
    for _ in 0..5 {
        let (one, other) = tokio::join!(batch(&ann, true, forth.clone()), batch(&ann, true, back.clone()));
        one.assert(200);
        other.assert(200);
    }
}
