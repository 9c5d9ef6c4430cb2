use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

use super::{at, count, endpoint, fan_out, lines, run};

async fn log(ann: &Person, endpoint: &Value, query: &str) -> Value {
    ann.get(&format!("{}/deliveries{query}", at(endpoint))).await.assert(200).json
}

/// What the sender writes when all attempts of these have failed.
async fn exhaust(app: &TestApp, which: &str) {
    run(app, &format!(
        "UPDATE webhook_deliveries SET state = 'exhausted', attempts = 10, response_status = 500, response_ms = 12,
             response_body = 'no', error = 'HTTP 500', last_attempt_at = created_at, finished_at = created_at WHERE {which}"
    ))
    .await;
}

#[tokio::test]
async fn a_delivery_says_what_was_sent_and_answered() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let hook = endpoint(&ann, &["task.created"]).await;
    let mut tasks = Vec::new();
    for title in ["One", "Two", "Three"] {
        tasks.push(ann.create_task(json!({"title": title})).await);
    }
    assert_eq!(fan_out(&app).await, 3);
    let page = log(&ann, &hook, "?limit=2").await;
    assert_eq!(
        (&page["data"][0]["task_id"], &page["data"][1]["task_id"]),
        (&tasks[2]["id"], &tasks[1]["id"]),
        "newest first"
    );
    assert_eq!(
        (&page["data"][0]["state"], &page["data"][0]["next_attempt_at"]),
        (&json!("pending"), &json!("2030-01-01T00:00:00Z"))
    );
    let cursor = page["page"]["next_cursor"].as_str().unwrap();
    let rest = log(&ann, &hook, &format!("?limit=2&cursor={cursor}")).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["data"][0]["task_id"]), (1, &tasks[0]["id"]));

    let first = &rest["data"][0];
    exhaust(&app, &format!("id = '{}'", first["id"].as_str().unwrap())).await;
    let failed = log(&ann, &hook, "?state=exhausted").await;
    assert_eq!(
        (failed["data"].as_array().unwrap().len(), &failed["data"][0]["next_attempt_at"]),
        (1, &Value::Null)
    );

    let here = format!("{}/deliveries/{}", at(&hook), first["id"].as_str().unwrap());
    let shown = ann.get(&here).await.assert(200).json;
    let body: Value = serde_json::from_str(shown["request"]["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["data"]["title"], &body["id"]), (&json!("One"), &first["event_id"]));
    assert_eq!(shown["request"]["headers"]["webhook-id"], first["event_id"]);
    assert_eq!(shown["response"], json!({"status": 500, "ms": 12, "body": "no"}));
    bob.get(&here).await.assert_problem(404, "not_found");

    // Ann loses sight of the task.
    run(&app, &format!("UPDATE tasks SET owner_id = '{}'", bob.id)).await;
    let shown = ann.get(&here).await.assert(200).json;
    assert_eq!((&shown["request"]["body"], &shown["response"]["body"]), (&Value::Null, &Value::Null));
    assert!(!shown.to_string().contains("One"), "{shown}");
    ann.act(&format!("{here}/redeliver")).await.assert_problem(404, "not_found");
    let range = ann.act(&format!("{}/redeliver?from=2030-01-01T00:00:00Z", at(&hook))).await.assert(202);
    assert_eq!(range.json, json!({"count": 0, "has_more": false}));
}

#[tokio::test]
async fn a_delivery_is_repeated_under_the_same_id() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let hook = endpoint(&ann, &["task.created"]).await;
    ann.create_task(json!({"title": "One"})).await;
    fan_out(&app).await;
    let first = log(&ann, &hook, "").await["data"][0].clone();
    let again =
        |delivery: &Value| format!("{}/deliveries/{}/redeliver", at(&hook), delivery["id"].as_str().unwrap());
    ann.act(&again(&first)).await.assert_problem(409, "delivery_under_way");
    exhaust(&app, "true").await;
    let made = ann.act(&again(&first)).await.assert(202);
    assert_eq!(
        (&made.json["event_id"], &made.json["redelivery_of"], &made.json["state"]),
        (&first["event_id"], &first["id"], &json!("pending"))
    );
    assert!(made.header("location").ends_with(made.json["id"].as_str().unwrap()));
    assert_eq!(fan_out(&app).await, 0, "the event has its delivery");
    exhaust(&app, "true").await;
    let third = ann.act(&again(&made.json)).await.assert(202).json;
    assert_eq!(third["redelivery_of"], first["id"], "the first of them");
    run(&app, "UPDATE webhook_endpoints SET state = 'gone'").await;
    ann.act(&again(&first)).await.assert_problem(409, "endpoint_inactive");
    ann.act(&format!("{}/test", at(&hook))).await.assert_problem(409, "endpoint_inactive");
    assert_eq!(count(&app, "jobs WHERE kind = 'send_webhook'").await, 3);
    app.dispatch().await;
}

#[tokio::test]
async fn a_range_is_repeated_once() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let hook = endpoint(&ann, &["task.created", "task.deleted"]).await;
    let mut tasks = Vec::new();
    for title in ["Early", "Late", "Arrived", "Under way"] {
        tasks.push(ann.create_task(json!({"title": title})).await);
    }
    fan_out(&app).await;
    let of = |index: usize| format!("task_id = '{}'", path(&tasks[index]).trim_start_matches("/tasks/"));
    exhaust(&app, &format!("NOT {}", of(3))).await;
    run(&app, &format!("UPDATE webhook_deliveries SET created_at = '2029-12-31T23:59:59Z' WHERE {}", of(0)))
        .await;
    run(&app, &format!("UPDATE webhook_deliveries SET state = 'succeeded' WHERE {}", of(2))).await;

    let repeat = |query: &str| {
        let path = format!("{}/redeliver?{query}", at(&hook));
        let ann = &ann;
        async move { ann.act(&path).await }
    };
    let (one, two) = tokio::join!(
        repeat("from=2030-01-01T00:00:00Z&state=failed"),
        repeat("from=2030-01-01T00:00:00Z&state=failed")
    );
    let counts = [one, two].map(|answer| answer.assert(202).json["count"].as_i64().unwrap());
    assert_eq!(counts.iter().sum::<i64>(), 1, "twice at once is once: {counts:?}");
    let repeated =
        "SELECT task_id::text AS line FROM webhook_deliveries WHERE redelivery_of IS NOT NULL ORDER BY id";
    assert_eq!(lines(&app, repeated).await, [tasks[1]["id"].as_str().unwrap()]);
    assert_eq!(
        repeat("from=2029-12-31T00:00:00Z&to=2030-01-01T00:00:00Z").await.assert(202).json["count"],
        1
    );
    assert_eq!(repeat("from=2030-01-01T00:00:00Z&state=succeeded").await.assert(202).json["count"], 1);
    exhaust(&app, &format!("redelivery_of IS NOT NULL AND {}", of(1))).await;
    assert_eq!(repeat("from=2030-01-01T00:00:00Z").await.assert(202).json["count"], 1, "what failed again");
    app.dispatch().await;
}

#[tokio::test]
async fn a_test_waits_for_the_answer() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let hook = endpoint(&ann, &["task.created"]).await;
    let later = ann.act(&format!("{}/test?wait=0", at(&hook))).await.assert(202);
    assert_eq!(later.json["event_type"], "webhook.ping");
    let location = later.header("location").trim_start_matches("/api/v1").to_owned();
    let shown = ann.get(&location).await.assert(200).json;
    assert!(shown["request"]["body"].as_str().unwrap().contains("webhook.ping"), "{shown}");
    assert_eq!(count(&app, "jobs WHERE kind = 'send_webhook' AND priority = 0").await, 1);
    run(&app, "DELETE FROM webhook_deliveries").await;

    let test = format!("{}/test", at(&hook));
    let answered = async {
        // As soon as there is one.
        while count(&app, "webhook_deliveries").await == 0 {
            tokio::task::yield_now().await;
        }
        run(&app, "UPDATE webhook_deliveries SET state = 'succeeded', attempts = 1, response_status = 204, response_ms = 7,
                last_attempt_at = created_at, finished_at = created_at").await;
    };
    let (tested, ()) = tokio::join!(ann.act(&test), answered);
    let tested = tested.assert(200).json;
    assert_eq!((&tested["status"], &tested["ms"], &tested["error"]), (&json!(204), &json!(7), &Value::Null));
    assert_eq!(tested["delivery"]["state"], "succeeded");
    app.dispatch().await;
}
