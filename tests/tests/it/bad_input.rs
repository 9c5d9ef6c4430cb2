//! Bad input: each kind answers a problem with a stable code and the place, and changes nothing.

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{TestApp, path};

#[tokio::test]
async fn each_is_refused_with_its_code_and_place() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "One"})).await;
    let before = ann.get("/tasks").await.json;
    let one = path(&task);
    let reminders = format!("{one}/reminders");
    let relative = json!({"kind": "relative", "offset_minutes": -5});
    let long = "x".repeat(10_000);
    let many: Vec<String> = (0..21).map(|n| format!("tag {n}")).collect();

    // method, path, body, status, code, place, code of the place
    let rows: Vec<(Method, &str, Value, u16, &str, &str, &str)> = vec![
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "dueDate": "2030-01-01"}),
            422,
            "validation_failed",
            "/dueDate",
            "unknown_field",
        ),
        (Method::POST, "/tasks", json!({}), 422, "validation_failed", "/title", "required"),
        (Method::POST, "/tasks", json!({"title": null}), 422, "validation_failed", "/title", "invalid_type"),
        (Method::POST, "/tasks", json!({"title": 7}), 422, "validation_failed", "/title", "invalid_type"),
        (
            Method::POST,
            "/tasks",
            json!({"title": "  "}),
            422,
            "validation_failed",
            "/title",
            "invalid_length",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": long}),
            422,
            "validation_failed",
            "/title",
            "invalid_length",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a\r\nBcc: x@example.com"}),
            422,
            "validation_failed",
            "/title",
            "control_character",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "priority": "huge"}),
            422,
            "validation_failed",
            "/priority",
            "invalid_value",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "description": "x".repeat(65_537)}),
            422,
            "validation_failed",
            "/description",
            "invalid_length",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "tags": ["ok", ""]}),
            422,
            "validation_failed",
            "/tags/1",
            "invalid_length",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "tags": many}),
            422,
            "validation_failed",
            "/tags",
            "too_many",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": "2030-02-30"}),
            422,
            "validation_failed",
            "/due",
            "invalid_date",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": {"date": "2030-02-30"}}),
            422,
            "validation_failed",
            "/due/date",
            "invalid_date",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": {"date": "2030-01-01", "time": "9:00 pm"}}),
            422,
            "validation_failed",
            "/due/time",
            "invalid_date",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": {"date": "2030-01-01", "time": "09:00", "zone": "Mars/Base"}}),
            422,
            "validation_failed",
            "/due/zone",
            "invalid_time_zone",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": {"time": "09:00"}}),
            422,
            "validation_failed",
            "/due/date",
            "required",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "reminders": [relative]}),
            422,
            "validation_failed",
            "/reminders/0",
            "reminder_needs_due",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "due": "2030-01-01", "reminders": [relative, relative]}),
            422,
            "validation_failed",
            "/reminders/1",
            "duplicate",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "reminders": [{"kind": "absolute", "at": "soon"}]}),
            422,
            "validation_failed",
            "/reminders/0/at",
            "invalid_date",
        ),
        (
            Method::POST,
            "/tasks",
            json!({"title": "a", "reminders": [{"kind": "absolute"}]}),
            422,
            "validation_failed",
            "/reminders/0/at",
            "required",
        ),
        (Method::POST, "/tasks", json!([]), 400, "malformed_body", "", "malformed_body"),
        (Method::PATCH, &one, json!({"title": null}), 200, "", "", ""),
        (
            Method::PATCH,
            &one,
            json!({"title": "a\u{7}"}),
            422,
            "validation_failed",
            "/title",
            "control_character",
        ),
        (
            Method::PATCH,
            &one,
            json!({"statsu": "done"}),
            422,
            "validation_failed",
            "/statsu",
            "unknown_field",
        ),
        (
            Method::PATCH,
            &one,
            json!({"status": "finished"}),
            422,
            "validation_failed",
            "/status",
            "invalid_value",
        ),
        (Method::POST, &reminders, relative.clone(), 422, "validation_failed", "", "reminder_needs_due"),
        (
            Method::POST,
            &reminders,
            json!({"kind": "relative"}),
            422,
            "validation_failed",
            "/offset_minutes",
            "required",
        ),
        (
            Method::POST,
            &reminders,
            json!({"kind": "relative", "offset_minutes": i32::MIN}),
            422,
            "validation_failed",
            "/offset_minutes",
            "invalid_value",
        ),
        (
            Method::PATCH,
            "/me",
            json!({"time_zone": "Mars/Base"}),
            422,
            "validation_failed",
            "/time_zone",
            "invalid_time_zone",
        ),
        (
            Method::PATCH,
            "/me",
            json!({"day_start": "25:00"}),
            422,
            "validation_failed",
            "/day_start",
            "invalid_date",
        ),
        (
            Method::PATCH,
            "/me",
            json!({"full_name": ""}),
            422,
            "validation_failed",
            "/full_name",
            "invalid_length",
        ),
        (Method::PATCH, "/me", json!({"role": "admin"}), 422, "validation_failed", "/role", "unknown_field"),
        (
            Method::POST,
            "/auth/register",
            json!({"email": "nobody", "password": "correct horse battery", "full_name": "N"}),
            422,
            "validation_failed",
            "/email",
            "invalid_email",
        ),
        (
            Method::POST,
            "/auth/register",
            json!({"email": "n@example.com", "password": "short", "full_name": "N"}),
            422,
            "validation_failed",
            "/password",
            "invalid_length",
        ),
        (
            Method::POST,
            "/auth/register",
            json!({"email": "n@example.com", "password": "correct horse battery", "full_name": "N", "time_zone": "Mars/Base"}),
            422,
            "validation_failed",
            "/time_zone",
            "invalid_time_zone",
        ),
        (
            Method::POST,
            "/auth/refresh",
            json!({"refresh_token": "ttr_forged"}),
            401,
            "invalid_refresh_token",
            "",
            "",
        ),
    ];
    for (method, path, body, status, code, place, place_code) in rows {
        let what = format!("{method} {path} {body:.100}");
        if status == 200 {
            // Of what may not be cleared, null is as good as absent.
            ann.send(method, path, &[], Some(body)).await;
            continue;
        }
        let answer = ann.send(method, path, &[], Some(body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json["code"].as_str()),
            (status, Some(code)),
            "{what}: {}",
            answer.text
        );
        if !place_code.is_empty() {
            let error = &answer.json["errors"][0];
            assert_eq!(
                (error["pointer"].as_str(), error["code"].as_str()),
                (Some(place), Some(place_code)),
                "{what}: {}",
                answer.text
            );
            assert!(error["detail"].as_str().is_some_and(|detail| detail.len() > 5), "{what}");
        }
    }

    for (query, parameter, code) in [
        ("?cursor=forged", "cursor", "invalid_cursor"),
        ("?stauts=todo", "stauts", "malformed_parameter"),
        ("?status=finished", "status", "malformed_parameter"),
        ("?limit=0", "limit", "malformed_parameter"),
        ("?limit=201", "limit", "malformed_parameter"),
        ("?limit=many", "limit", "malformed_parameter"),
        ("?due_before=tomorrow", "due_before", "malformed_parameter"),
        ("?due=someday", "due", "malformed_parameter"),
        ("?project_id=", "project_id", "malformed_parameter"),
        ("?q=&limit=2", "q", "malformed_parameter"),
    ] {
        let answer = ann.get(&format!("/tasks{query}")).await.assert_problem(400, code);
        assert_eq!(answer.json["errors"][0]["parameter"], parameter, "{query}: {}", answer.text);
    }

    let after = ann.get("/tasks").await.json;
    assert_eq!(after["data"][0]["title"], before["data"][0]["title"]);
    assert_eq!(after["data"].as_array().unwrap().len(), 1, "nothing was half done");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let json = [("content-type", "application/json")];
    let raw = |headers: &'static [(&'static str, &'static str)], body: Vec<u8>| {
        ann.send_raw(Method::POST, "/tasks", headers, body)
    };
    raw(&[("content-type", "application/json")], b"{\"title\": ".to_vec())
        .await
        .assert_problem(400, "malformed_body");
    raw(&[("content-type", "application/json")], vec![0xff, 0xfe])
        .await
        .assert_problem(400, "malformed_body");
    raw(&[("content-type", "text/plain")], b"{}".to_vec())
        .await
        .assert_problem(415, "unsupported_media_type");
    raw(&[], b"{}".to_vec()).await.assert_problem(415, "unsupported_media_type");
    let large = json!({"title": "x".repeat(1 << 20)}).to_string().into_bytes();
    ann.send_raw(Method::POST, "/tasks", &json, large.clone()).await.assert_problem(413, "body_too_large");
    let keyed = [json[0], ("idempotency-key", "k")];
    ann.send_raw(Method::POST, "/tasks", &keyed, large).await.assert_problem(413, "body_too_large");

    ann.get("/nothing").await.assert_problem(404, "not_found");
    ann.get("/tasks/not-an-id").await.assert_problem(404, "not_found");
    ann.delete("/tasks").await.assert_problem(405, "method_not_allowed");

    for token in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        app.anybody.with_token(token).get("/me").await.assert_problem(401, "invalid_token");
    }
    app.anybody.get("/me").await.assert_problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_nul_is_refused_wherever_it_stands() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for (path, body, place) in [
        ("/auth/login", json!({"email": "a\0@example.com", "password": "p"}), "/email"),
        (
            "/auth/register",
            json!({"email": "b@example.com", "password": "p", "full_name": "\0"}),
            "/full_name",
        ),
        ("/tasks", json!({"title": "t", "description": "a\0b"}), "/description"),
        ("/tasks", json!({"title": "t", "tags": ["a", "\0"]}), "/tags/1"),
        ("/tasks", json!({"title": "t", "a/b~": "\0"}), "/a~1b~0"),
    ] {
        let answer = ann.post(path, body).await.assert_problem(422, "validation_failed");
        let error = &answer.json["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(place), &json!("control_character")));
    }
    // What only looks like one is a text as any other.
    ann.post("/tasks", json!({"title": "t", "description": "\\u0000"})).await.assert(201);
    let answer = ann.get("/tasks?tag=%00").await.assert_problem(400, "malformed_parameter");
    assert_eq!(answer.json["errors"][0]["parameter"], "tag");
}

#[tokio::test]
async fn an_idempotency_key_has_visible_characters_only() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for key in ["", "a b", "a\tb", &"k".repeat(256)] {
        let headers = [("idempotency-key", key)];
        let answer = ann.send(Method::POST, "/tasks", &headers, Some(json!({"title": "t"}))).await;
        let answer = answer.assert_problem(400, "invalid_header");
        assert_eq!(answer.json["errors"][0]["parameter"], "Idempotency-Key", "{key}");
    }
    assert_eq!(ann.get("/tasks").await.json["data"], json!([]));
}

#[tokio::test]
async fn pages_outside_the_api_refuse_with_problems_too() {
    let app = TestApp::start().await;
    for path in ["/problems", "/problems/not-found", "/docs/", "/openapi.json"] {
        let url = format!("{}{path}", app.url);
        app.anybody.send_raw(Method::GET, &url, &[], Vec::new()).await.assert(200);
        let refused = app.anybody.send_raw(Method::POST, &url, &[], Vec::new()).await;
        let refused = refused.assert_problem(405, "method_not_allowed");
        assert!(refused.header("allow").contains("GET"), "{path}");
    }
    let url = format!("{}/problems/nonsense", app.url);
    app.anybody.send_raw(Method::GET, &url, &[], Vec::new()).await.assert_problem(404, "not_found");
}
