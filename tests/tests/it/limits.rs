//! Who is limited: an address counts, whichever way it is written and whatever a client claims. The harness's own
//! address is that of a trusted proxy.

use reqwest::Method;
use serde_json::json;
use tests::app::{Answer, TestApp};

/// A failing attempt to log in, through a proxy that saw these addresses.
async fn log_in_from(app: &TestApp, forwarded_for: &str, email: &str) -> Answer {
    let body = json!({"email": email, "password": "incorrect horse"});
    let headers = [("x-forwarded-for", forwarded_for)];
    app.anybody.send(Method::POST, "/auth/login", &headers, Some(body)).await
}

/// Twenty attempts on as many accounts, each with what `forwarded_for` makes of its number; then one more, which is
/// refused if they all came from one address.
async fn twenty_one_attempts(app: &TestApp, forwarded_for: impl Fn(u8) -> String) {
    for n in 0..20 {
        let email = format!("person-{n}@example.com");
        let answer = log_in_from(app, &forwarded_for(n), &email).await;
        answer.assert_problem(401, "invalid_credentials");
    }
    let answer = log_in_from(app, &forwarded_for(20), "person-20@example.com").await;
    answer.assert_problem(429, "rate_limited");
}

#[tokio::test]
async fn an_address_can_try_twenty_times_a_minute() {
    let app = TestApp::start().await;
    twenty_one_attempts(&app, |_| "203.0.113.7".to_owned()).await;
    log_in_from(&app, "203.0.113.8", "ann@example.com").await.assert_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn what_a_client_claims_before_the_hop_of_the_proxy_is_not_believed() {
    let app = TestApp::start().await;
    twenty_one_attempts(&app, |n| format!("192.0.2.{n}, 203.0.113.7")).await;
}

#[tokio::test]
async fn a_hop_with_a_port_is_its_address() {
    let app = TestApp::start().await;
    twenty_one_attempts(&app, |n| format!("192.0.2.{n}, 203.0.113.7:{}", 40_000 + u32::from(n))).await;
}

#[tokio::test]
async fn a_hop_that_cannot_be_read_is_no_reason_to_believe_the_one_before() {
    let app = TestApp::start().await;
    twenty_one_attempts(&app, |n| format!("192.0.2.{n}, unknown")).await;
}

#[tokio::test]
async fn a_network_of_ipv6_counts_as_one_address() {
    let app = TestApp::start().await;
    twenty_one_attempts(&app, |n| format!("2001:db8::{n:x}")).await;
    log_in_from(&app, "2001:db8:0:1::1", "ann@example.com").await.assert_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn a_person_has_one_limit_for_all_their_tokens_and_is_told_how_they_stand() {
    let app = TestApp::start_http(|http| http.rate_limit_per_minute = 10).await;
    let ann = app.user("ann").await; // register and log in have no person yet; one request has
    let new = json!({"name": "script", "scopes": ["tasks:read"]});
    let made = ann.post("/me/tokens", new).await.assert(201).json;
    let script = app.anybody.with_token(made["token"].as_str().unwrap());
    let answer = script.get("/tasks").await.assert(200);
    assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=10;w=60");
    assert_eq!((answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")), ("10", "7"));
    let reset: u64 = answer.header("x-ratelimit-reset").parse().unwrap();
    assert_eq!(answer.header("ratelimit"), format!("\"default\";r=7;t={reset}"));
    for left in (0..7).rev() {
        let client = if left % 2 == 0 { &ann.client } else { &script };
        let answer = client.get("/tasks").await.assert(200);
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
    }
    for client in [&ann.client, &script] {
        let refused = client.get("/tasks").await.assert_problem(429, "rate_limited");
        assert_eq!(refused.json["type"], "/problems/rate-limited");
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait));
        assert_eq!(refused.header("ratelimit"), format!("\"default\";r=0;t={wait}"));
    }
    // Others go on.
    let bob = app.user("bob").await;
    bob.get("/tasks").await.assert(200);
}

#[tokio::test]
async fn an_address_is_limited_before_anybody_asks_who_calls() {
    let app = TestApp::start_http(|http| http.rate_limit_per_minute = 5).await;
    let from = |address: &'static str, path: &'static str| {
        let client = app.anybody.with_token("nonsense");
        async move { client.send(Method::GET, path, &[("x-forwarded-for", address)], None).await }
    };
    for left in (0..30).rev() {
        let answer = from("203.0.113.7", "/tasks").await.assert_problem(401, "invalid_token");
        assert_eq!(answer.header("ratelimit-policy"), "\"address\";q=30;w=60");
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
    }
    for path in ["/tasks", "/meta", "/nowhere"] {
        from("203.0.113.7", path).await.assert_problem(429, "rate_limited");
    }
    from("203.0.113.8", "/meta").await.assert(200);
}

#[tokio::test]
async fn without_a_limit_nothing_is_said_of_one() {
    let app = TestApp::start().await;
    let answer = app.anybody.get("/meta").await.assert(200);
    assert!(!answer.headers.contains_key("ratelimit") && !answer.headers.contains_key("x-ratelimit-limit"));
}
