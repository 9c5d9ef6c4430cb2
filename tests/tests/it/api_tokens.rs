//! API tokens: what they open, and above all what they do not.

use common::{
    api_tokens::Scope,
    db::{RunQueryDsl as _, sql},
    testing::at,
};
use diesel::{
    QueryableByName,
    sql_types::{Nullable, Text, Timestamptz},
};
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Client, Person, TestApp};

/// A token with these scopes: a client that has it, and what it is.
async fn token(app: &TestApp, person: &Person, scopes: &[&str]) -> (Client, Value) {
    let new = json!({"name": "script", "scopes": scopes});
    let made = person.post("/me/tokens", new).await.assert(201).json;
    (app.anybody.with_token(made["token"].as_str().unwrap()), made)
}

fn path(token: &Value) -> String {
    format!("/me/tokens/{}", token["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_token_is_shown_once_and_does_what_its_scopes_say() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let (script, made) = token(&app, &ann, &["tasks:read"]).await;
    let secret = made["token"].as_str().unwrap();
    assert_eq!(&secret[..12], made["prefix"].as_str().unwrap());
    assert!(secret.starts_with("ttp_") && secret.len() == 47, "256 bits");

    let list = ann.get("/me/tokens").await.assert(200);
    assert!(!list.text.contains(secret) && !list.text.contains("\"token\""), "{}", list.text);
    assert_eq!(list.json["data"][0]["scopes"], json!(["tasks:read"]));
    assert!(!ann.get(&path(&made)).await.assert(200).text.contains(secret));
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        row: String,
    }
    let row: Row = sql!("SELECT t::text AS row FROM api_tokens t")
        .get_result(&mut app.db.conn().await.unwrap())
        .await
        .unwrap();
    assert!(!row.row.contains(&secret[12..]), "what is stored opens nothing: {}", row.row);

    script.get("/tasks").await.assert(200);
    let refused =
        script.post("/tasks", json!({"title": "x"})).await.assert_problem(403, "insufficient_scope");
    assert!(refused.json["detail"].as_str().unwrap().contains("`tasks:write`"), "{}", refused.text);
    script.get("/me").await.assert_problem(403, "insufficient_scope");
    script.get("/webhooks").await.assert_problem(403, "insufficient_scope");
    let (writer, _) = token(&app, &ann, &["tasks:write", "profile:read"]).await;
    let task = writer.post("/tasks", json!({"title": "x"})).await.assert(201).json;
    assert_eq!(task["owner_id"], ann.id);
    writer.get("/tasks").await.assert_problem(403, "insufficient_scope");
    assert_eq!(writer.get("/me").await.assert(200).json["email"], "ann@example.com");
}

#[tokio::test]
async fn no_token_touches_what_guards_the_account() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    app.make_admin(&ann).await;
    let all: Vec<String> = Scope::all().map(|scope| scope.to_string()).collect();
    let (script, made) = token(&app, &ann, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (method, path, body) in [
        (Method::POST, "/auth/logout", None),
        (Method::POST, "/auth/verify-email/resend", None),
        (
            Method::PUT,
            "/me/password",
            Some(json!({"current_password": "x", "new_password": "another horse battery"})),
        ),
        (Method::PUT, "/me/email", Some(json!({"new_email": "eve@example.com", "current_password": "x"}))),
        (Method::GET, "/me/sessions", None),
        (Method::DELETE, "/me/sessions/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978", None),
        (Method::GET, "/me/tokens", None),
        (Method::POST, "/me/tokens", Some(json!({"name": "more", "scopes": ["tasks:read"]}))),
        (Method::DELETE, &path(&made), None),
        (Method::DELETE, "/me", None),
        (Method::POST, "/me/restore", None),
        (Method::GET, "/admin/users", None),
        (Method::GET, "/admin/queues", None),
    ] {
        let answer = script.send(method.clone(), path, &[], body).await;
        assert_eq!(answer.json["code"], "session_required", "{method} {path}: {}", answer.text);
    }
    script.get("/me").await.assert(200);
    // What is public does not mind.
    script.get("/meta").await.assert(200);
}

#[tokio::test]
async fn a_token_ends_at_once_when_it_is_revoked_expires_or_its_owner_is_switched_off() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let (script, made) = token(&app, &ann, &["tasks:read"]).await;
    bob.delete(&path(&made)).await.assert_problem(404, "not_found");
    bob.get(&path(&made)).await.assert_problem(404, "not_found");
    script.get("/tasks").await.assert(200);
    ann.delete(&path(&made)).await.assert(204);
    ann.delete(&path(&made)).await.assert(204);
    script.get("/tasks").await.assert_problem(401, "invalid_token");
    ann.get(&path(&made)).await.assert_problem(404, "not_found");

    let new = json!({"name": "for a while", "scopes": ["tasks:read"], "expires_at": "2030-01-01T00:10:00Z"});
    let made = ann.post("/me/tokens", new).await.assert(201).json;
    let script = app.anybody.with_token(made["token"].as_str().unwrap());
    script.get("/tasks").await.assert(200);
    app.db.clock().set(at("2030-01-01T00:09:59Z"));
    script.get("/tasks").await.assert(200);
    app.db.clock().set(at("2030-01-01T00:10:00Z"));
    script.get("/tasks").await.assert_problem(401, "invalid_token");

    let (script, _) = token(&app, &ann, &["tasks:read"]).await;
    app.make_admin(&bob).await;
    bob.patch(&format!("/admin/users/{}", ann.id), json!({"is_active": false})).await.assert(200);
    script.get("/tasks").await.assert_problem(401, "invalid_token");
    app.anybody.with_token("ttp_nonsense").get("/tasks").await.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn the_use_of_a_token_is_written_down_once_an_hour() {
    #[derive(QueryableByName, Debug, PartialEq)]
    struct Used {
        #[diesel(sql_type = Nullable<Timestamptz>)]
        last_used_at: Option<chrono::DateTime<chrono::Utc>>,
        #[diesel(sql_type = Text)]
        version: String,
    }

    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let (script, _) = token(&app, &ann, &["tasks:read"]).await;
    let used = async |instant: &str| {
        app.db.clock().set(at(instant));
        script.get("/tasks").await.assert(200);
        let row = sql!("SELECT last_used_at, xmin::text AS version FROM api_tokens");
        let row: Used = row.get_result(&mut app.db.conn().await.unwrap()).await.unwrap();
        row
    };
    let first = used("2030-01-01T00:00:00Z").await;
    assert_eq!(first.last_used_at, Some(at("2030-01-01T00:00:00Z")));
    assert_eq!(used("2030-01-01T00:59:59Z").await, first, "not written again");
    assert_eq!(used("2030-01-01T01:00:00Z").await.last_used_at, Some(at("2030-01-01T01:00:00Z")));
}

#[tokio::test]
async fn what_is_wrong_with_a_new_token_is_said() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let project = "0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978";
    for (new, pointer, code) in [
        (json!({"scopes": ["tasks:read"]}), "/name", "required"),
        (json!({"name": "", "scopes": ["tasks:read"]}), "/name", "invalid_length"),
        (json!({"name": "x\ny", "scopes": ["tasks:read"]}), "/name", "control_character"),
        (json!({"name": "x", "scopes": []}), "/scopes", "required"),
        (json!({"name": "x", "scopes": ["tasks:read", "tasks:read"]}), "/scopes", "duplicate"),
        (json!({"name": "x", "scopes": ["tasks:admin"]}), "/scopes/0", "invalid_value"),
        (json!({"name": "x", "scopes": [1]}), "/scopes/0", "invalid_type"),
        (json!({"name": "x", "scopes": ["tasks:read"], "scope": "x"}), "/scope", "unknown_field"),
        (
            json!({"name": "x", "scopes": ["tasks:read"], "expires_at": "soon"}),
            "/expires_at",
            "invalid_value",
        ),
        (
            json!({"name": "x", "scopes": ["tasks:read"], "expires_at": "2030-01-01T00:00:00Z"}),
            "/expires_at",
            "invalid_value",
        ),
        (
            json!({"name": "x", "scopes": ["tasks:read"], "project_id": project}),
            "/project_id",
            "invalid_value",
        ),
    ] {
        let answer = ann.post("/me/tokens", new.clone()).await.assert_problem(422, "validation_failed");
        let error = &answer.json["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{new}: {}",
            answer.text
        );
    }
    for _ in 0..50 {
        token(&app, &ann, &["tasks:read"]).await;
    }
    let more = ann.post("/me/tokens", json!({"name": "x", "scopes": ["tasks:read"]})).await;
    assert_eq!(more.assert_problem(422, "validation_failed").json["errors"][0]["code"], "too_many");
}

#[tokio::test]
async fn a_retry_makes_no_second_token_and_shows_none() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let make = || {
        let new = json!({"name": "script", "scopes": ["tasks:read"]});
        ann.send(Method::POST, "/me/tokens", &[("idempotency-key", "k")], Some(new))
    };
    let first = make().await.assert(201);
    assert!(first.json["token"].is_string());
    assert_eq!(first.header("cache-control"), "no-store");
    let again = make().await.assert(201);
    assert_eq!((&again.json["id"], &again.json["token"]), (&first.json["id"], &Value::Null));
    assert_eq!(ann.get("/me/tokens").await.json["data"].as_array().unwrap().len(), 1);
}
