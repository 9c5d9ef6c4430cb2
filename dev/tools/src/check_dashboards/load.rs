//! What people do: a little of everything that a dashboard shows, also what goes wrong.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use common::clock::Clock;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::webhook_sink::{Answer, WebhookSink};

/// No secret: it guards a database that is deleted afterwards.
const PASSWORD: &str = "correct horse battery";

pub(super) struct Load {
    ann: Person,
    /// The mail server refuses what goes to them: for good, and for now.
    unlucky: [Person; 2],
    _receiver: WebhookSink,
}

impl Load {
    /// Makes the accounts, and two webhooks: one that works and one that does not.
    pub(super) async fn start(api: &str, database: &str, webhook_port: u16) -> anyhow::Result<Self> {
        let ann = Person::register(api, "ann").await?;
        let unlucky = [Person::register(api, "bounce+b").await?, Person::register(api, "tempfail+t").await?];
        // Only webhooks of administrators may lead to this machine.
        let mut conn = AsyncPgConnection::establish(database).await?;
        diesel::sql_query("UPDATE users SET role = 'admin' WHERE email = 'ann@example.com'")
            .execute(&mut conn)
            .await?;
        let receiver = WebhookSink::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, webhook_port))).await?;
        receiver.script("/broken", std::iter::repeat_n(Answer::Status(500), 1_000));
        for path in ["/good", "/broken"] {
            let endpoint = json!({ "url": receiver.url(path), "events": ["task.created"] });
            ann.expect(Method::POST, "/webhooks", Some(endpoint)).await?;
        }
        Ok(Self { ann, unlucky, _receiver: receiver })
    }

    /// Uses the system for so long.
    pub(super) async fn run(&self, length: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + length;
        self.once().await?;
        let mut every = tokio::time::interval(Duration::from_millis(500));
        let mut number = 0;
        while Instant::now() < end {
            every.tick().await;
            number += 1;
            self.day(number).await?;
        }
        Ok(())
    }

    /// What somebody does all the time.
    async fn day(&self, number: usize) -> anyhow::Result<()> {
        let ann = &self.ann;
        let at = Clock::Database.instant() + TimeDelta::seconds(1);
        let mut task = json!({ "title": format!("Task {number}") });
        if number % 10 == 1 {
            task["reminders"] = json!([{ "kind": "absolute", "at": at }]);
        }
        let task = ann.expect(Method::POST, "/tasks", Some(task)).await?;
        let path = format!("/tasks/{}", task["id"].as_str().context("a task has an id")?);
        ann.expect(Method::GET, &path, None).await?;
        ann.expect(Method::GET, "/tasks?limit=20", None).await?;
        ann.expect(Method::PATCH, &path, Some(json!({ "priority": "high" }))).await?;
        ann.refused(StatusCode::UNPROCESSABLE_ENTITY, "/tasks", json!({ "title": "" })).await?;
        if number.is_multiple_of(2) {
            ann.expect(Method::POST, &format!("{path}/complete"), None).await?;
        }
        Ok(())
    }

    /// What is rarer: a daily summary, a wrong password again and again, mails that are refused, a logout.
    async fn once(&self) -> anyhow::Result<()> {
        let ann = &self.ann;
        let at = Clock::Database.instant() + TimeDelta::seconds(1);
        let reminded = json!({ "title": "Remind me", "reminders": [{ "kind": "absolute", "at": at }] });
        for person in &self.unlucky {
            person.expect(Method::POST, "/tasks", Some(reminded.clone())).await?;
        }
        // A time of today that is over: today's comes at once.
        let early = json!({ "digest_time": "00:00", "digest_skip_empty": false });
        ann.expect(Method::PATCH, "/me/notifications", Some(early)).await?;
        let guess = json!({ "email": "ann@example.com", "password": "not this one" });
        // Logging in well counts as well: five attempts a minute.
        for _ in 0..4 {
            ann.refused(StatusCode::UNAUTHORIZED, "/auth/login", guess.clone()).await?;
        }
        ann.refused(StatusCode::TOO_MANY_REQUESTS, "/auth/login", guess).await?;
        let visitor = Person::register(&ann.base, "visitor").await?;
        visitor.expect(Method::POST, "/auth/logout", None).await?;
        Ok(())
    }
}

/// Somebody with an account.
struct Person {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Person {
    async fn register(api: &str, name: &str) -> anyhow::Result<Self> {
        let http = crate::client().timeout(Duration::from_secs(20)).build()?;
        let mut person = Self { base: api.trim_end_matches('/').to_owned(), token: String::new(), http };
        let email = format!("{name}@example.com");
        let account = json!({ "email": email, "password": PASSWORD, "full_name": name, "time_zone": "UTC" });
        person.expect(Method::POST, "/auth/register", Some(account)).await?;
        let login = json!({ "email": email, "password": PASSWORD });
        let session = person.expect(Method::POST, "/auth/login", Some(login)).await?;
        person.token = session["access_token"].as_str().context("no access_token")?.to_owned();
        Ok(person)
    }

    async fn expect(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, answer) = self.send(method, path, body).await?;
        ensure!(status.is_success(), "{path} answered {status}: {answer}");
        Ok(answer)
    }

    async fn refused(&self, status: StatusCode, path: &str, body: Value) -> anyhow::Result<()> {
        let (answered, answer) = self.send(Method::POST, path, Some(body)).await?;
        ensure!(answered == status, "{path} answered {answered} and not {status}: {answer}");
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("cannot reach {path}"))?;
        let status = answer.status();
        let body = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}
