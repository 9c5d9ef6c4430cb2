//! The sink's page and API as browsers and scripts see them.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::clock::Clock;
use lettre::message::{Attachment, MultiPart, SinglePart, header::ContentType};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;
use tools::mail_sink::{MailSink, Options};

const SOON: Duration = Duration::from_secs(10);

struct App {
    sink: MailSink,
    client: Client,
}

impl App {
    async fn start() -> Self {
        let sink = MailSink::start(Options::default()).await.unwrap();
        Self { sink, client: tools::client().timeout(SOON).build().unwrap() }
    }

    async fn send(&self, to: &str, subject: &str) {
        let body = MultiPart::mixed()
            .multipart(MultiPart::alternative_plain_html(
                "Due  at\r\n17:00".to_owned(),
                "<p>Due</p>".to_owned(),
            ))
            .singlepart(
                Attachment::new("due.ics".to_owned()).body("BEGIN".to_owned(), ContentType::TEXT_PLAIN),
            );
        self.send_body(to, subject, body).await;
    }

    async fn send_body(&self, to: &str, subject: &str, body: MultiPart) {
        let mail = lettre::Message::builder()
            .from("TaskTracker <noreply@example.com>".parse().unwrap())
            .to(format!("Ann <{to}>").parse().unwrap())
            .reply_to("help@example.com".parse().unwrap())
            .message_id(Some(format!("<{subject}@example.com>")))
            .subject(subject)
            .multipart(body)
            .unwrap();
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
            .port(self.sink.smtp_addr().port())
            .build()
            .send(mail)
            .await
            .unwrap();
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.sink.http_url() + path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn subjects(&self, path: &str) -> Vec<String> {
        let list = self.json(path).await;
        let messages = list["messages"].as_array().unwrap();
        messages.iter().map(|message| message["Subject"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn the_list_has_mailpits_shape() {
    let app = App::start().await;
    let before = Clock::Database.instant();
    app.send("ann@example.com", "one").await;
    let mut list = app.json("/api/v1/messages").await;

    let message = &mut list["messages"][0];
    let created = message["Created"].take();
    let created: DateTime<Utc> = created.as_str().unwrap().parse().unwrap();
    assert!(before <= created && created <= Clock::Database.instant(), "{created}");
    assert!(created.timestamp_subsec_nanos() > 0, "{created} has no fraction of a second");
    let id = message["ID"].take();
    assert_eq!(id, app.sink.messages()[0].id.to_string());
    assert_eq!(message["Size"].take(), app.sink.messages()[0].raw.len());
    assert_eq!(
        list,
        json!({
            "total": 1, "unread": 1, "count": 1, "messages_count": 1, "messages_unread": 1, "start": 0, "tags": [],
            "messages": [{
                "ID": null, "MessageID": "one@example.com", "Read": false,
                "From": {"Name": "TaskTracker", "Address": "noreply@example.com"},
                "To": [{"Name": "Ann", "Address": "ann@example.com"}], "Cc": [], "Bcc": [],
                "ReplyTo": [{"Name": "", "Address": "help@example.com"}],
                "Subject": "one", "Created": null, "Username": "", "Tags": [], "Size": null, "Attachments": 1,
                "Snippet": "Due at 17:00",
            }],
        })
    );
}

#[tokio::test]
async fn one_mail_has_mailpits_shape_and_is_read_then() {
    let app = App::start().await;
    app.send("ann@example.com", "one").await;
    app.send("ann@example.com", "two").await;
    let id = app.sink.messages()[0].id;
    let mut mail = app.json(&format!("/api/v1/message/{id}")).await;
    assert_eq!(mail["ID"].take(), id.to_string());
    assert!(mail["Date"].take().as_str().unwrap().parse::<DateTime<Utc>>().is_ok());
    assert_eq!(mail["Size"].take(), app.sink.messages()[0].raw.len());
    assert!(mail["Attachments"][0]["PartID"].take().is_string());
    assert_eq!(
        mail,
        json!({
            "ID": null, "MessageID": "one@example.com", "From": {"Name": "TaskTracker", "Address": "noreply@example.com"},
            "To": [{"Name": "Ann", "Address": "ann@example.com"}], "Cc": [], "Bcc": [],
            "ReplyTo": [{"Name": "", "Address": "help@example.com"}], "ReturnPath": "noreply@example.com",
            "Subject": "one", "ListUnsubscribe": {"Header": "", "Links": [], "Errors": "", "HeaderPost": ""},
            "Date": null, "Tags": [], "Username": "", "Text": "Due  at\r\n17:00", "HTML": "<p>Due</p>", "Size": null,
            "Inline": [],
            "Attachments": [{
                "PartID": null, "FileName": "due.ics", "ContentType": "text/plain", "ContentID": "", "Size": 5,
            }],
        })
    );
    assert_eq!(app.json("/api/v1/messages").await["unread"], 1);
    assert_eq!(app.json("/api/v1/message/latest").await["Subject"], "two");

    let headers = app.json(&format!("/api/v1/message/{id}/headers")).await;
    assert_eq!(headers["Subject"], json!(["one"]));
    let raw = app.get(&format!("/api/v1/message/{id}/raw")).await;
    assert_eq!(raw.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(raw.headers()["x-content-type-options"], "nosniff");
    assert_eq!(raw.bytes().await.unwrap(), app.sink.messages()[0].raw);
}

#[tokio::test]
async fn lists_are_newest_first_in_pages_and_searches_filter() {
    let app = App::start().await;
    for (to, subject) in
        [("ann@example.com", "one"), ("bob@example.com", "two"), ("ann@example.com", "three")]
    {
        app.send(to, subject).await;
    }
    assert_eq!(app.subjects("/api/v1/messages").await, ["three", "two", "one"]);
    assert_eq!(app.subjects("/api/v1/messages?start=1&limit=1").await, ["two"]);
    assert_eq!(app.subjects("/api/v1/messages?start=9").await, [""; 0]);
    assert_eq!(app.subjects("/api/v1/search?query=to:ann@example.com").await, ["three", "one"]);
    assert_eq!(app.subjects("/api/v1/search?query=to:ann@+subject:one").await, ["one"]);
    let list = app.json("/api/v1/search?query=to:ann@&limit=1&start=1").await;
    let counts = ["total", "messages_count", "count", "start"].map(|name| list[name].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 1, 1]);
}

#[tokio::test]
async fn a_search_can_wait_for_its_mail() {
    let app = App::start().await;
    let (found, ()) = tokio::join!(app.subjects("/api/v1/search?query=to:ann@&wait=9"), async {
        app.send("bob@example.com", "one").await;
        app.send("ann@example.com", "two").await;
    });
    assert_eq!(found, ["two"]);
}

#[tokio::test]
async fn mails_are_deleted_by_id_or_all() {
    let app = App::start().await;
    for subject in ["one", "two", "three"] {
        app.send("ann@example.com", subject).await;
    }
    let url = app.sink.http_url() + "/api/v1/messages";
    let id = app.sink.messages()[1].id;
    let deleted = app.client.delete(&url).json(&json!({"IDs": [id]})).send().await.unwrap();
    assert_eq!(deleted.text().await.unwrap(), "ok");
    assert_eq!(app.subjects("/api/v1/messages").await, ["three", "one"]);
    // A misspelt name must not delete everything.
    let wrong = app.client.delete(&url).json(&json!({"ids": [id]})).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(app.sink.messages().len(), 2);
    app.client.delete(&url).send().await.unwrap();
    assert!(app.sink.messages().is_empty());
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let app = App::start().await;
    for (path, status, error) in [
        ("/api/v1/message/latest", 404, "no mail has the ID \"latest\""),
        ("/api/v1/message/nonsense/raw", 404, "no mail has the ID \"nonsense\""),
        ("/api/v1/messages?limit=many", 400, "limit"),
        ("/api/v1/messages?limt=1", 400, "limt"),
        ("/api/v1/search", 400, "query"),
        ("/nothing", 404, "nothing at this path"),
    ] {
        let response = app.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        let body: Value = response.json().await.unwrap();
        assert!(body["Error"].as_str().unwrap().contains(error), "{path}: {body}");
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_runs_only_its_own_script() {
    let app = App::start().await;
    let (first, second) = (app.get("/").await, app.get("/").await);
    let policy = first.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert_ne!(second.headers()["content-security-policy"], policy.as_str(), "the nonce is used twice");
    let (_, nonce) = policy.split_once("'nonce-").unwrap();
    let (nonce, _) = nonce.split_once('\'').unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");

    assert_eq!(first.headers()["content-type"], "text/html; charset=utf-8");
    let page = first.text().await.unwrap();
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(page.contains("setAttribute(\"sandbox\", \"allow-popups allow-popups-to-escape-sandbox\")"));
    for forbidden in ["https://", " src=", "innerHTML", "onclick=\"", "{{"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn events_tell_of_changes_and_end_with_the_sink() {
    let app = App::start().await;
    let mut events = app.get("/api/events").await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut next = async || timeout(SOON, events.chunk()).await.expect("no event in time").unwrap();
    assert_eq!(next().await.unwrap(), "event: changed\ndata: 0\n\n");
    app.send("ann@example.com", "one").await;
    assert_eq!(next().await.unwrap(), "event: changed\ndata: 1\n\n");
    app.get("/api/v1/message/latest").await;
    assert_eq!(next().await.unwrap(), "event: changed\ndata: 2\n\n");
    timeout(SOON, app.sink.stop()).await.expect("an open page keeps the sink from stopping");
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_mail_without_plain_text_has_none() {
    let app = App::start().await;
    let body = MultiPart::related().singlepart(SinglePart::html("<p>Only this</p>".to_owned()));
    app.send_body("ann@example.com", "html", body).await;
    let mail = app.json("/api/v1/message/latest").await;
    assert_eq!((mail["Text"].as_str(), mail["HTML"].as_str()), (Some(""), Some("<p>Only this</p>")));
}
