use std::time::{Duration, Instant};

use common::db::RunQueryDsl as _;
use serde_json::json;
use tests::app::{PASSWORD, TestApp};

#[tokio::test]
async fn a_person_registers_logs_in_and_reads_themselves() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let me = ann.get("/me").await.assert(200);
    assert_eq!(me.header("etag"), "\"u-1\"");
    assert_eq!(me.json["email"], "ann@example.com");
    assert_eq!((&me.json["time_zone"], &me.json["day_start"]), (&json!("Europe/Berlin"), &json!("09:00")));
    assert!(!me.text.contains("password"), "{}", me.text);

    let taken = json!({"email": "ANN@example.com", "password": PASSWORD, "full_name": "Ann"});
    app.anybody.post("/auth/register", taken).await.assert_problem(409, "email_taken");
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_look_alike() {
    let app = TestApp::start().await;
    app.user("ann").await;
    let login = |email: &str, password: &str| {
        app.anybody.post("/auth/login", json!({"email": email, "password": password}))
    };
    let unknown = login("bob@example.com", PASSWORD).await.assert_problem(401, "invalid_credentials");
    let wrong = login("ann@example.com", "incorrect horse").await.assert_problem(401, "invalid_credentials");
    for field in ["type", "title", "detail", "code"] {
        assert_eq!(unknown.json[field], wrong.json[field]);
    }
}

/// Checking a password takes tens of milliseconds, and everything else about a login few: without a hash to check, an
/// unknown address would be answered at once. The quickest of several attempts is compared, as others are held up by
/// whatever else the machine does.
#[tokio::test]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let app = TestApp::start().await;
    app.user("ann").await;
    let disabled = app.user("disabled").await;
    let switch_off = format!("UPDATE users SET is_active = false WHERE id = '{}'", disabled.id);
    diesel::sql_query(switch_off).execute(&mut app.db.conn().await.unwrap()).await.unwrap();
    let quickest = async |email: &str, password: &str| {
        let mut quickest = Duration::MAX;
        for _ in 0..4 {
            let started = Instant::now();
            let login = json!({"email": email, "password": password});
            app.anybody.post("/auth/login", login).await.assert_problem(401, "invalid_credentials");
            quickest = quickest.min(started.elapsed());
        }
        quickest
    };
    let wrong = quickest("ann@example.com", "incorrect horse").await;
    let unknown = quickest("nobody@example.com", PASSWORD).await;
    let disabled = quickest(&disabled.email, PASSWORD).await;
    assert!(unknown > wrong / 5, "unknown {unknown:?}, wrong {wrong:?}");
    assert!(disabled > wrong / 5, "disabled {disabled:?}, wrong {wrong:?}");
}

#[tokio::test]
async fn attempts_to_log_in_are_limited_by_account() {
    let app = TestApp::start().await;
    let body = || json!({"email": "ann@example.com", "password": "incorrect horse"});
    for _ in 0..5 {
        app.anybody.post("/auth/login", body()).await.assert_problem(401, "invalid_credentials");
    }
    let limited = app.anybody.post("/auth/login", body()).await.assert_problem(429, "rate_limited");
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds));
    // Another account is not affected.
    let other = json!({"email": "bob@example.com", "password": "incorrect horse"});
    app.anybody.post("/auth/login", other).await.assert_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_within_ten_seconds_once_more() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let refresh = |token: &str| app.anybody.post("/auth/refresh", json!({"refresh_token": token}));

    let second = refresh(&ann.refresh_token).await.assert(200).json;
    let second = second["refresh_token"].as_str().unwrap();
    app.db.clock().set(common::testing::at("2030-01-01T00:00:10Z"));
    refresh(&ann.refresh_token).await.assert(200);
    refresh(second).await.assert(200);

    // The third use of the first token: somebody has a copy.
    refresh(&ann.refresh_token).await.assert_problem(401, "refresh_token_reused");
    refresh(second).await.assert_problem(401, "invalid_refresh_token");
    ann.get("/me").await.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn a_token_used_long_after_its_rotation_ends_the_session() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let refresh = |token: &str| app.anybody.post("/auth/refresh", json!({"refresh_token": token}));
    let second = refresh(&ann.refresh_token).await.assert(200).json;
    app.db.clock().set(common::testing::at("2030-01-01T00:00:11Z"));
    refresh(&ann.refresh_token).await.assert_problem(401, "refresh_token_reused");
    let second = second["refresh_token"].as_str().unwrap();
    refresh(second).await.assert_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn tokens_expire() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    app.db.clock().set(common::testing::at("2030-01-01T00:14:59Z"));
    ann.get("/me").await.assert(200);
    app.db.clock().set(common::testing::at("2030-01-01T00:15:00Z"));
    let expired = ann.get("/me").await.assert_problem(401, "invalid_token");
    assert_eq!(expired.header("www-authenticate"), "Bearer");
    app.db.clock().set(common::testing::at("2030-01-08T00:00:00Z"));
    let token = json!({"refresh_token": ann.refresh_token});
    app.anybody.post("/auth/refresh", token).await.assert_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn logging_out_is_immediate_and_ends_only_what_was_meant() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let login = || app.anybody.post("/auth/login", json!({"email": ann.email, "password": PASSWORD}));
    let session =
        |answer: tests::app::Answer| app.anybody.with_token(answer.json["access_token"].as_str().unwrap());
    let (phone, tablet) = (session(login().await), session(login().await));

    phone.act("/auth/logout").await.assert(204);
    phone.get("/me").await.assert_problem(401, "invalid_token");
    tablet.get("/me").await.assert(200);

    ann.act("/auth/logout?all=true").await.assert(204);
    tablet.get("/me").await.assert_problem(401, "invalid_token");
    let token = json!({"refresh_token": ann.refresh_token});
    app.anybody.post("/auth/refresh", token).await.assert_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn the_request_id_and_trace_of_a_caller_go_on() {
    let app = TestApp::start().await;
    let answer = app.anybody.send(reqwest::Method::GET, "/me", &[("x-request-id", "abc-1")], None).await;
    assert_eq!(answer.header("x-request-id"), "abc-1");
    assert_eq!(answer.json["request_id"], "abc-1");
    assert_eq!(answer.json["instance"], "urn:request:abc-1");
    let made_up = app.anybody.get("/me").await;
    assert_eq!(made_up.json["request_id"], made_up.header("x-request-id"));
    assert_eq!(made_up.header("x-content-type-options"), "nosniff");
    assert_eq!(made_up.header("referrer-policy"), "no-referrer");
}
