//! `smoke` as a whole: a README, a mail page and the mail, from the command line's arguments on.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use common::clock::Clock;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use serde_json::json;
use tempfile::TempDir;
use tools::mail_sink::{MailSink, Options};
use tools::smoke;

/// A README that prints what the API would, and reads the mail as a person would.
fn readme(fire_at: DateTime<Utc>) -> String {
    let task = json!({
        "email": "ann@example.com", "title": "Ship it",
        "reminders": [{"fire_at": fire_at.to_rfc3339_opts(SecondsFormat::Micros, true)}],
    });
    format!(
        "```sh session\nMAIL=http://127.0.0.1:8025/api/v1\necho '{task}'\n```\n\
         ```sh session\ncurl -sS \"$MAIL/search?query=to:ann@example.com&wait=20\"\n```\n\
         ```text expected\n…\"Subject\":\"Reminder: Ship it\"…\n```\n"
    )
}

async fn send(sink: &MailSink) {
    let mail = lettre::Message::builder()
        .from("noreply@example.com".parse().unwrap())
        .to("ann@example.com".parse().unwrap())
        .subject("Reminder: Ship it")
        .body("Due now".to_owned())
        .unwrap();
    let port = sink.smtp_addr().port();
    AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
        .port(port)
        .build()
        .send(mail)
        .await
        .unwrap();
}

async fn run(sink: &MailSink, readme: &str) -> Result<(), String> {
    let dir = TempDir::new().unwrap();
    let args = smoke::Args { readme: dir.path().join("README.md"), dev_json: dir.path().join("dev.json") };
    let dev = json!({
        "pid": 7, "api_url": "http://127.0.0.1:1", "mail_url": sink.http_url(), "processes": [],
    });
    std::fs::write(&args.readme, readme).unwrap();
    std::fs::write(&args.dev_json, dev.to_string()).unwrap();
    smoke::run(&args).await.map_err(|error| format!("{error:#}"))
}

fn now() -> DateTime<Utc> {
    Clock::Database.instant()
}

#[tokio::test]
async fn passes_when_the_mail_comes_at_its_time() {
    let sink = MailSink::start(Options::default()).await.unwrap();
    let readme = readme(now());
    let (result, ()) = tokio::join!(run(&sink, &readme), send(&sink));
    result.unwrap();
}

#[tokio::test]
async fn fails_when_the_mail_comes_early() {
    let sink = MailSink::start(Options::default()).await.unwrap();
    send(&sink).await;
    let error = run(&sink, &readme(now() + TimeDelta::seconds(60))).await.unwrap_err();
    assert!(error.contains("before its time"), "{error}");
}

#[tokio::test]
async fn fails_when_no_mail_comes() {
    let sink = MailSink::start(Options::default()).await.unwrap();
    let readme =
        readme(now() - TimeDelta::seconds(40)).replace("&wait=20", "").replace("Reminder: Ship it", "");
    let readme = readme.replace("\"Subject\":\"\"", "\"messages\":[]");
    let error = run(&sink, &readme).await.unwrap_err();
    assert!(error.contains("no mail about \"Ship it\" came to ann@example.com"), "{error}");
}

#[tokio::test]
async fn fails_with_the_step_when_the_readme_lies() {
    let sink = MailSink::start(Options::default()).await.unwrap();
    send(&sink).await;
    let error = run(&sink, &readme(now()).replace("Reminder: Ship it", "Another subject")).await.unwrap_err();
    assert!(
        error.contains("README.md does not work as written: line 6: this line was not printed"),
        "{error}"
    );
    assert!(error.contains("curl -sS \"$MAIL/search"), "{error}");
}
