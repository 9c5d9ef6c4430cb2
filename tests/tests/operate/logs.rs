use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chaos::cluster::{Cluster, Shape, Signal, secs};
use chrono::TimeDelta;
use common::{
    clock::Clock,
    testing::{TestDatabase, setting},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tools::mail_sink::{MailSink, Options};

use crate::redis_user;

/// Somebody at a browser.
struct Visitor {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Visitor {
    async fn send(&self, method: Method, path: &str, body: Option<String>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.api));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) =
            self.send(Method::POST, &format!("/api/v1{path}"), Some(body.to_string())).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }
}

/// A run with everything that has a secret in it, also used wrongly and in the wrong places, with the logs at `debug`: no log
/// and no metric holds any of the secrets and tokens that were used.
#[tokio::test]
async fn no_log_and_no_metric_holds_a_secret() {
    const KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgbG9vayBmb3IgaXQ6MTIz";
    let mut secrets: BTreeSet<String> =
        [KEY, "db-pass-7d1f", "redis-pass-2b6a", "smtp-pass-9c2e", "correct horse battery", "wrong-guess-44"]
            .map(str::to_owned)
            .into();
    secrets.insert(STANDARD.encode("\0postman\0smtp-pass-9c2e"));
    let sink = MailSink::start(Options::default()).await.unwrap();
    let database = TestDatabase::create().await;
    let database_url = database.app_url.replace("tasktracker_app@", "tasktracker_app:db-pass-7d1f@");
    assert_ne!(database_url, database.app_url);
    redis_user("logs", "redis-pass-2b6a").await;
    let settings = vec![
        ("SECRET_KEYS", format!("log:{KEY}")),
        ("DATABASE_URL", database_url),
        ("REDIS_URL", format!("{}?user=logs&pass=redis-pass-2b6a", setting("TEST_REDIS_URL"))),
        ("SMTP_URL", format!("smtp://postman:smtp-pass-9c2e@{}?tls=none", sink.smtp_addr())),
        ("REQUIRE_EMAIL_VERIFICATION", "true".to_owned()),
        ("LOG", "info,api=debug,worker=debug,scheduler=debug,common=debug".to_owned()),
    ];
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, settings, ..Shape::default() }).await;
    let http = tools::client().timeout(secs(10)).build().unwrap();
    let mut ann = Visitor { http, api: format!("http://{}", cluster.api()), token: String::new() };

    let password = "correct horse battery";
    let account =
        json!({ "email": "ann@example.com", "password": password, "full_name": "Ann", "time_zone": "UTC" });
    ann.post("/auth/register", account).await;
    let login = json!({ "email": "ann@example.com", "password": password });
    let first = ann.post("/auth/login", login.clone()).await;
    let rotated = ann.post("/auth/refresh", json!({ "refresh_token": first["refresh_token"] })).await;
    for session in [&first, &rotated] {
        for token in ["access_token", "refresh_token"] {
            secrets.insert(session[token].as_str().unwrap().to_owned());
        }
    }
    ann.token = rotated["access_token"].as_str().unwrap().to_owned();

    // In the wrong places, and wrong.
    let (_, wrong) = ann
        .send(
            Method::POST,
            "/api/v1/auth/login",
            Some(json!({ "email": "ann@example.com", "password": "wrong-guess-44" }).to_string()),
        )
        .await;
    assert_eq!(wrong["status"], 401, "{wrong}");
    ann.send(Method::POST, "/api/v1/auth/login", Some(format!("{{\"password\": \"{password}\", oops"))).await;
    ann.send(
        Method::POST,
        "/api/v1/auth/login",
        Some(json!({ "email": 7, "password": password }).to_string()),
    )
    .await;
    for path in ["/api/v1/tasks/", "/api/v1/tasks?cursor=", "/a/", "/u/", "/nowhere/", "/api/v1/tasks?tag="] {
        let token = &ann.token;
        ann.send(Method::GET, &format!("{path}{token}"), None).await;
    }
    let again = json!({ "refresh_token": format!("{}x", first["refresh_token"].as_str().unwrap()) });
    ann.send(Method::POST, "/api/v1/auth/refresh", Some(again.to_string())).await;

    // Mails with links: to confirm the address, to set another password, to complete and to unsubscribe.
    sink.wait_for_count(1, secs(20)).await.unwrap();
    let links = links(&sink);
    for link in &links {
        ann.send(Method::GET, link, None).await;
    }
    let verify = links.iter().find_map(|link| link.split_once("token=")).expect("a link with a token").1;
    ann.post("/auth/verify-email", json!({ "token": verify })).await;
    ann.post("/auth/password/forgot", json!({ "email": "ann@example.com" })).await;
    let endpoint = json!({ "url": "https://receiver.example/hook", "events": ["task.created"] });
    let endpoint = ann.post("/webhooks", endpoint).await;
    secrets.insert(endpoint["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned());
    let at = Clock::Database.instant() + TimeDelta::seconds(1);
    ann.post("/tasks", json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
    sink.wait_for_count(3, secs(30)).await.unwrap();
    for link in self::links(&sink) {
        ann.send(Method::GET, &link, None).await;
        ann.send(Method::POST, &link, None).await;
        let token = link.rsplit(['/', '=']).next().unwrap().to_owned();
        assert!(token.len() > 20, "{link}");
        secrets.insert(token);
    }
    ann.send(Method::POST, "/api/v1/auth/logout", None).await;

    let mut texts = Vec::new();
    for process in cluster.processes_mut() {
        texts.push((format!("the metrics of {}", process.name()), process.exposition().await));
        process.signal(Signal::TERM);
        process.wait_exit(secs(40)).await;
        texts.push((format!("the log of {}", process.name()), process.log()));
    }
    assert!(texts.iter().all(|(_, text)| text.len() > 200), "there is nothing to look through");
    assert!(texts.iter().any(|(_, text)| text.contains(r#""level":"DEBUG""#)), "not at debug");
    assert!(secrets.len() >= 15, "{}", secrets.len());
    for (whose, text) in &texts {
        for secret in &secrets {
            // Also of a token that is cut: its second half is as good as a key to look for.
            let (_, half) = secret.split_at(secret.len() / 2);
            let found = text
                .lines()
                .find(|line| line.contains(secret.as_str()) || (half.len() > 15 && line.contains(half)));
            assert_eq!(found, None, "{whose} holds {secret}");
        }
    }
}

/// The paths of all links to us in the mails that came.
fn links(sink: &MailSink) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mail in sink.messages() {
        let headers: String = mail.headers.iter().map(|(_, value)| format!("{value}\n")).collect();
        for text in [&mail.text, &headers] {
            for part in text.split("http://127.0.0.1:8000").skip(1) {
                let end =
                    part.find(|c: char| c.is_whitespace() || "<>\"),".contains(c)).unwrap_or(part.len());
                let path = &part[..end];
                if path.contains("token=") || path.starts_with("/a/") || path.starts_with("/u/") {
                    found.insert(path.to_owned());
                }
            }
        }
    }
    found
}
