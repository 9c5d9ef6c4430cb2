//! What holds for every answer, and what is said about the installation.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Answer, PASSWORD, TestApp};

async fn get(app: &TestApp, path: &str) -> Answer {
    app.anybody.send(Method::GET, &format!("{}{path}", app.url), &[], None).await
}

#[tokio::test]
async fn everybody_may_ask_what_the_installation_is_and_whether_it_works() {
    let app = TestApp::start().await;
    let meta = app.anybody.get("/meta").await.assert(200).json;
    assert_eq!(meta["features"], json!({"registration": true, "email_verification": false, "mail": true}));
    assert_eq!(meta["limits"]["requests_per_minute"], Value::Null);
    assert_eq!(
        (&meta["limits"]["body_bytes"], &meta["default_time_zone"]),
        (&json!(1_048_576), &json!("UTC"))
    );
    assert!(meta["event_types"].as_array().unwrap().contains(&json!("task.created")));
    assert!(meta["scopes"].as_array().unwrap().contains(&json!("tasks:read")));
    assert_eq!(app.anybody.get("/health").await.assert(200).json, json!({"status": "ok"}));

    let app = TestApp::start_http(|http| {
        http.registration = api::config::Registration::Closed;
        http.rate_limit_per_minute = 50;
    })
    .await;
    let meta = app.anybody.get("/meta").await.assert(200).json;
    assert_eq!(
        (&meta["features"]["registration"], &meta["limits"]["requests_per_minute"]),
        (&json!(false), &json!(50))
    );
    let account = json!({"email": "ann@example.com", "password": PASSWORD, "full_name": "Ann"});
    app.anybody.post("/auth/register", account).await.assert_problem(403, "registration_closed");
}

#[tokio::test]
async fn every_answer_says_how_it_may_be_used() {
    let app = TestApp::start().await;
    for path in
        ["/api/v1/meta", "/api/v1/me", "/nowhere", "/problems", "/docs/", "/openapi.json", "/account/verify"]
    {
        let answer = get(&app, path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(
            !answer.header("x-request-id").is_empty() && !answer.header("cache-control").is_empty(),
            "{path}"
        );
        assert!(!answer.headers.contains_key("set-cookie"), "{path}: forms rely on there being none");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
}

#[tokio::test]
async fn scripts_of_the_origins_that_are_named_may_use_the_api_and_no_others() {
    let app = TestApp::start_http(|http| {
        http.cors_origins = vec!["https://app.example.com".parse().unwrap()];
        http.rate_limit_per_minute = 1;
    })
    .await;
    let preflight = |origin: &'static str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "authorization,if-match"),
        ];
        let app = &app;
        async move { app.anybody.send(Method::OPTIONS, "/me", &headers, None).await }
    };
    // A preflight asks on behalf of the browser: it is not counted as a request.
    for _ in 0..10 {
        let answer = preflight("https://app.example.com").await.assert(200);
        assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
        let allowed = |name| answer.header(name).to_lowercase();
        assert!(allowed("access-control-allow-methods").contains("patch"));
        assert!(allowed("access-control-allow-headers").contains("idempotency-key"));
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    }
    let other = preflight("https://evil.example.com").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    let from = |origin: &'static str| {
        let app = &app;
        async move { app.anybody.send(Method::GET, "/meta", &[("origin", origin)], None).await.assert(200) }
    };
    let answer = from("https://app.example.com").await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    let exposed: BTreeSet<&str> = answer.header("access-control-expose-headers").split(',').collect();
    assert!(exposed.contains("etag") && exposed.contains("ratelimit") && exposed.contains("x-request-id"));
    assert!(!from("https://evil.example.com").await.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn administrators_are_let_in_from_the_networks_that_are_named() {
    let app = TestApp::start_http(|http| {
        http.admin_allow_cidrs = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    })
    .await;
    let root = app.user("root").await;
    app.make_admin(&root).await;
    let from = |address: &'static str| {
        let root = &root;
        async move { root.send(Method::GET, "/admin/users", &[("x-forwarded-for", address)], None).await }
    };
    for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
        from(inside).await.assert(200);
    }
    for outside in ["192.0.2.1", "11.0.0.1", "2001:db9::1", "10.1.2.3, 192.0.2.1"] {
        from(outside).await.assert_problem(403, "address_not_allowed");
    }
    // Before the address nobody learns whether they would be let in.
    let stranger = [("x-forwarded-for", "192.0.2.1")];
    let answer = app.anybody.send(Method::GET, "/admin/users", &stranger, None).await;
    answer.assert_problem(403, "address_not_allowed");
    root.send(Method::GET, "/me", &stranger, None).await.assert(200);
}

#[tokio::test]
async fn an_operator_may_want_changes_to_say_which_version_they_mean() {
    let app = TestApp::start_http(|http| http.require_if_match = true).await;
    let root = app.user("root").await;
    app.make_admin(&root).await;
    let document: Value = serde_json::from_str(&api::openapi::json().unwrap()).unwrap();
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let place = format!("{}{path}", app.url);
        for (method, operation) in operations.as_object().unwrap() {
            let mut parameters = operation["parameters"].as_array().into_iter().flatten();
            if !parameters.any(|parameter| parameter["name"] == "If-Match") {
                continue;
            }
            let place = place.split('/').map(|part| match part.starts_with('{') {
                true => uuid::Uuid::now_v7().to_string(),
                false => part.to_owned(),
            });
            let place = place.collect::<Vec<_>>().join("/");
            let method: Method = method.to_uppercase().parse().unwrap();
            let ask = async |headers: &[(&str, &str)]| {
                root.send(method.clone(), &place, headers, Some(json!({}))).await
            };
            let any = ask(&[("if-match", "*")]).await;
            assert_ne!(any.status, 428, "{method} {path} with If-Match");
            let plain = ask(&[]).await;
            match method == Method::POST {
                // An action: it asks for the version if the client does.
                true => assert_ne!(plain.status, 428, "{method} {path}"),
                false => {
                    plain.assert_problem(428, "precondition_required");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 16, "{tried} changes take If-Match");
}

#[tokio::test]
async fn a_refusal_is_repeated_for_its_idempotency_key() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let create = async |key: &str, at: &str| {
        let new = json!({"name": "x", "scopes": ["tasks:read"], "expires_at": at});
        ann.send(Method::POST, "/me/tokens", &[("idempotency-key", key)], Some(new)).await
    };
    let refused = create("k", "2029-01-01T00:00:00Z").await.assert_problem(422, "validation_failed");
    assert!(!refused.headers.contains_key("idempotency-replayed"));
    let again = create("k", "2029-01-01T00:00:00Z").await.assert_problem(422, "validation_failed");
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &refused.text));
    create("k", "2031-01-01T00:00:00Z").await.assert_problem(422, "idempotency_key_reused");
    create("l", "2031-01-01T00:00:00Z").await.assert(201);
}
