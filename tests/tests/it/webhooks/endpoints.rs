use reqwest::Method;
use serde_json::{Value, json};
use tests::app::TestApp;

use super::{URL, at, count, endpoint, lines, run};

#[tokio::test]
async fn a_webhook_is_made_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let body = json!({"url": URL, "events": ["task.created"], "description": "Mine"});
    let made = ann.post("/webhooks", body).await.assert(201);
    let path = at(&made.json);
    assert_eq!(
        (made.header("location"), made.header("etag")),
        (format!("/api/v1{path}").as_str(), "\"w-1\"")
    );
    assert_eq!(made.header("cache-control"), "no-store");
    let read = ann.get(&path).await.assert(200);
    assert_eq!((read.header("etag"), &read.json["state"]), ("\"w-1\"", &json!("active")));
    ann.send(Method::GET, &path, &[("if-none-match", "\"w-1\"")], None).await.assert(304);

    let change = |tag: &'static str, body: Value| {
        let (ann, path) = (&ann, &path);
        async move { ann.send(Method::PATCH, path, &[("if-match", tag)], Some(body)).await }
    };
    let changed = change("\"w-1\"", json!({"state": "paused", "description": null})).await.assert(200);
    assert_eq!((changed.header("etag"), &changed.json["description"]), ("\"w-2\"", &Value::Null));
    let stale = change("\"w-1\"", json!({"state": "active"})).await.assert_problem(412, "stale_version");
    assert_eq!(stale.header("etag"), "\"w-2\"");
    change("\"t-2\"", json!({"state": "active"})).await.assert_problem(412, "stale_version");

    for (method, path, body) in [
        (Method::GET, path.clone(), None),
        (Method::PATCH, path.clone(), Some(json!({"state": "active"}))),
        (Method::DELETE, path.clone(), None),
        (Method::POST, format!("{path}/rotate-secret"), None),
        (Method::POST, format!("{path}/test"), None),
        (Method::GET, format!("{path}/deliveries"), None),
        (Method::POST, format!("{path}/redeliver?from=2030-01-01T00:00:00Z"), None),
    ] {
        bob.send(method.clone(), &path, &[], body.clone()).await.assert_problem(404, "not_found");
        app.anybody.send(method, &path, &[], body).await.assert_problem(401, "unauthenticated");
    }
    assert_eq!(bob.get("/webhooks").await.assert(200).json["data"], json!([]));

    run(&app, "UPDATE webhook_endpoints SET state = 'auto_disabled', failure_streak = 9, first_failure_at = created_at, retry_at = created_at").await;
    let listed = ann.get("/webhooks").await.assert(200).json;
    assert_eq!(listed["data"][0]["health"]["failure_streak"], 9);
    change("*", json!({"state": "active"})).await.assert(200);
    let listed = ann.get("/webhooks").await.assert(200).json;
    let anew =
        json!({"failure_streak": 0, "first_failure_at": null, "last_success_at": null, "retry_at": null});
    assert_eq!((&listed["data"][0]["state"], &listed["data"][0]["health"]), (&json!("active"), &anew));

    ann.send(Method::DELETE, &path, &[("if-match", "\"w-1\"")], None)
        .await
        .assert_problem(412, "stale_version");
    ann.delete(&path).await.assert(204);
    ann.delete(&path).await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn a_secret_is_shown_once_and_kept_sealed() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let post = |path: String, body: Option<Value>| {
        let ann = &ann;
        async move { ann.send(Method::POST, &path, &[("idempotency-key", "once")], body).await }
    };
    let body = || Some(json!({"url": URL, "events": ["task.created"]}));
    let made = post("/webhooks".into(), body()).await.assert(201);
    let first = made.json["secret"].as_str().unwrap().to_owned();
    assert!(first.starts_with("whsec_") && first.len() == 6 + 44, "{}", first.len());
    let again = post("/webhooks".into(), body()).await.assert(201);
    assert_eq!((again.header("idempotency-replayed"), &again.json["id"]), ("true", &made.json["id"]));
    assert_eq!(again.json["secret"], Value::Null, "a retry does not show it");

    let path = at(&made.json);
    let rotate = format!("{path}/rotate-secret");
    let rotated = post(rotate.clone(), None).await.assert(200);
    let second = rotated.json["secret"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(
        (rotated.header("etag"), &rotated.json["previous_signs_until"]),
        ("\"w-2\"", &json!("2030-01-02T00:00:00Z"))
    );
    assert_eq!(post(rotate.clone(), None).await.assert(200).json["secret"], Value::Null);
    assert_eq!(count(&app, "webhook_endpoints WHERE version = 2").await, 1, "and rotates once");
    ann.send(Method::POST, &rotate, &[("if-match", "\"w-1\"")], None)
        .await
        .assert_problem(412, "stale_version");

    for answer in
        [ann.get(&path).await, ann.get("/webhooks").await, ann.patch(&path, json!({"state": "paused"})).await]
    {
        assert!(!answer.text.contains("whsec_"), "{}", answer.text);
    }
    let stored = lines(
        &app,
        "SELECT encode(secret_enc, 'escape') || encode(previous_secret_enc, 'escape') AS line FROM webhook_endpoints
         UNION ALL SELECT convert_from(response_body, 'UTF8') FROM idempotency_keys
         UNION ALL SELECT e::text FROM events e UNION ALL SELECT j::text FROM jobs j",
    )
    .await;
    assert!(stored.len() >= 3 && !stored.iter().any(|text| text.contains("whsec")), "{stored:?}");
    for secret in [first, second] {
        assert!(!stored.iter().any(|text| text.contains(&secret[6..20])));
    }
}

#[tokio::test]
async fn one_may_have_twenty() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for _ in 0..19 {
        endpoint(&ann, &["task.created"]).await;
    }
    let one = || ann.post("/webhooks", json!({"url": URL, "events": ["task.created"]}));
    let (first, second) = tokio::join!(one(), one());
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 422], "of two at once one is the twentieth");
    assert_eq!(one().await.assert_problem(422, "validation_failed").json["errors"][0]["code"], "too_many");
}

#[tokio::test]
async fn each_type_has_a_schema() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let types = ann.get("/webhooks/event-types").await.assert(200).json;
    let types = types["data"].as_array().unwrap();
    assert_eq!(types.len(), common::events::EventType::ALL.len());
    for kind in types {
        assert_eq!(kind["schema"]["properties"]["type"]["const"], kind["type"]);
        endpoint(&ann, &[kind["type"].as_str().unwrap()]).await;
    }
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let with = |name: &str, value: Value| {
        let mut body = json!({"url": URL, "events": ["task.created"]});
        body[name] = value;
        body
    };
    let long = format!("https://receiver.example/{}", "x".repeat(2048));
    let rows = [
        (with("url", json!("http://127.0.0.1/")), "/url", "forbidden_target"),
        (with("url", json!("http://10.0.0.1/")), "/url", "forbidden_target"),
        (with("url", json!("http://[::1]/")), "/url", "forbidden_target"),
        (with("url", json!("ftp://receiver.example/")), "/url", "forbidden_target"),
        (with("url", json!("https://ann:pw@receiver.example/")), "/url", "forbidden_target"),
        (with("url", json!("https://receiver.example:22/")), "/url", "forbidden_target"),
        (with("url", json!("nonsense")), "/url", "forbidden_target"),
        (with("url", json!(long)), "/url", "forbidden_target"),
        (with("url", Value::Null), "/url", "invalid_type"),
        (json!({"events": ["task.created"]}), "/url", "required"),
        (json!({"url": URL}), "/events", "required"),
        (with("events", json!([])), "/events", "invalid_length"),
        (with("events", json!(["task.exploded"])), "/events/0", "invalid_value"),
        (with("events", json!(["task.created", "webhook.ping"])), "/events/1", "invalid_value"),
        (with("events", json!(["task.created", "task.created"])), "/events", "duplicate"),
        (with("description", json!("a\r\nb")), "/description", "control_character"),
        (with("description", json!("x".repeat(501))), "/description", "invalid_length"),
        (with("project_id", json!("01900000-0000-7000-8000-000000000000")), "/project_id", "invalid_value"),
        (with("project_id", json!("x")), "/project_id", "invalid_value"),
        (with("secret", json!("whsec_x")), "/secret", "unknown_field"),
        (with("state", json!("paused")), "/state", "unknown_field"),
    ];
    for (body, pointer, code) in rows {
        let refused = ann.post("/webhooks", body.clone()).await.assert_problem(422, "validation_failed");
        let error = &refused.json["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{body}");
    }
    assert_eq!(count(&app, "webhook_endpoints").await, 0, "nothing half done");

    let made = endpoint(&ann, &["task.created"]).await;
    for (body, pointer, code) in [
        (json!({"url": "http://192.168.0.1/"}), "/url", "forbidden_target"),
        (json!({"state": "auto_disabled"}), "/state", "invalid_value"),
        (json!({"events": ["x"]}), "/events/0", "invalid_value"),
        (json!({"events": []}), "/events", "invalid_length"),
    ] {
        let refused = ann.patch(&at(&made), body.clone()).await.assert_problem(422, "validation_failed");
        let error = &refused.json["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{body}");
    }
    for query in [
        "",
        "?from=soon",
        "?from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z",
        "?from=2030-01-02T00:00:00Z&state=pending",
    ] {
        ann.act(&format!("{}/redeliver{query}", at(&made))).await.assert_problem(400, "malformed_parameter");
    }
    ann.act(&format!("{}/test?wait=21", at(&made))).await.assert_problem(400, "malformed_parameter");
    ann.get(&format!("{}/deliveries?state=lost", at(&made))).await.assert_problem(400, "malformed_parameter");
    assert_eq!(ann.get(&at(&made)).await.json["version"], 1);
}
