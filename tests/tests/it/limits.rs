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
