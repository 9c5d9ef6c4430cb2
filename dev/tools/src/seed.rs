//! A demo user with believable tasks, made through the REST API like any client would. What is there already is left
//! alone, so it may be run as often as one likes.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use common::clock::Clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const EMAIL: &str = "demo@example.com";
/// No secret: it is printed, and guards a demo.
const PASSWORD: &str = "a demo needs no secret";

/// Arguments of `tasktracker-dev seed`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub api_url: url::Url,
}

/// Makes the user and the tasks that are missing, and says what it did.
///
/// # Errors
/// If the API cannot be reached, or refuses something.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let api = Api::login(&args.api_url).await?;
    let present = api.titles().await?;
    let mut created = 0;
    for task in tasks(Clock::Database.instant()) {
        if !present.contains(&task.title.to_owned()) {
            api.create(&task).await.with_context(|| format!("the task `{}`", task.title))?;
            created += 1;
        }
    }
    let what = match created {
        0 => "the demo data is there already; nothing was changed".to_owned(),
        _ => format!("{created} tasks created"),
    };
    writeln!(std::io::stdout(), "{what}\nlog in as {EMAIL} with the password `{PASSWORD}`")?;
    Ok(())
}

/// A task to be.
#[derive(Debug, Default)]
struct Task {
    title: &'static str,
    description: Option<&'static str>,
    priority: &'static str,
    tags: &'static [&'static str],
    due: Option<Value>,
    reminders: Vec<Value>,
    done: bool,
}

/// What somebody may have to do around `now`.
fn tasks(now: DateTime<Utc>) -> Vec<Task> {
    let date = |days: i64| json!({ "date": (now + TimeDelta::days(days)).date_naive() });
    let time =
        |days: i64, time: &str| json!({ "date": (now + TimeDelta::days(days)).date_naive(), "time": time });
    let before = |minutes: i64| json!({ "kind": "relative", "offset_minutes": -minutes });
    let task = |title, priority, tags, due| Task { title, priority, tags, due, ..Task::default() };
    vec![
        Task {
            description: Some("Ask about the heating, and whether the cellar can be used before the first."),
            reminders: vec![json!({ "kind": "absolute", "at": now + TimeDelta::minutes(2) })],
            ..task("Call the landlord back", "high", &["home"], None)
        },
        task("Renew the passport", "urgent", &["errands"], Some(date(-3))),
        Task {
            description: Some("Receipts are in the blue folder; the form is due by the end of the month."),
            ..task("Send the travel receipts to accounting", "medium", &["work", "money"], Some(date(-1)))
        },
        Task {
            reminders: vec![before(30)],
            ..task(
                "Review Ben's draft of the release notes",
                "high",
                &["work", "release"],
                Some(time(0, "16:00")),
            )
        },
        task("Water the plants", "low", &["home"], Some(date(0))),
        Task {
            reminders: vec![before(60)],
            ..task("Dentist", "medium", &["health"], Some(time(1, "08:30")))
        },
        Task {
            description: Some("Agenda: open incidents, the migration, who is away in December."),
            reminders: vec![before(10)],
            ..task("Prepare the team meeting", "medium", &["work"], Some(time(1, "10:00")))
        },
        task("Buy a birthday present for Ann", "medium", &["family", "errands"], Some(date(2))),
        Task {
            reminders: vec![before(24 * 60)],
            ..task("Pay the rent", "high", &["home", "money"], Some(date(4)))
        },
        Task {
            reminders: vec![before(15)],
            ..task("Lunch with Carla", "none", &["friends"], Some(time(3, "12:30")))
        },
        task("Rotate the backup disks", "medium", &["home", "computers"], Some(date(6))),
        Task {
            description: Some("Compare three offers; the old contract ends on the last day of the quarter."),
            ..task("Cancel the old phone contract", "high", &["money"], Some(date(9)))
        },
        Task {
            reminders: vec![before(24 * 60), before(120)],
            ..task("Give the talk at the user group", "high", &["work", "talks"], Some(time(12, "18:30")))
        },
        task("Book the train to Hamburg", "medium", &["travel"], Some(date(14))),
        task("Vaccination of the cat", "medium", &["family", "health"], Some(date(21))),
        task("Read the paper on write skew", "low", &["reading"], None),
        task("Learn to bake sourdough bread", "none", &["home"], None),
        task("Sort the photographs of the summer", "low", &["family"], None),
        Task { done: true, ..task("Upgrade the laptop", "medium", &["computers"], Some(date(-2))) },
        Task { done: true, ..task("Answer the tax office", "urgent", &["money"], Some(date(-5))) },
        Task {
            done: true,
            ..task("Return the library books", "low", &["errands", "reading"], Some(date(0)))
        },
    ]
}

/// The API, as the demo user.
struct Api {
    base: String,
    http: reqwest::Client,
    token: String,
}

impl Api {
    /// Registers the user unless it is there, and logs in.
    async fn login(url: &url::Url) -> anyhow::Result<Self> {
        let base = format!("{}/api/v1", url.as_str().trim_end_matches('/'));
        let mut api = Self { base, http: crate::client().build()?, token: String::new() };
        let account = json!({ "email": EMAIL, "password": PASSWORD, "full_name": "Demo", "time_zone": "Europe/Berlin" });
        let (status, body) = api.send(Method::POST, "/auth/register", Some(account)).await?;
        if !status.is_success() && body["code"] != "email_taken" {
            bail!("cannot register {EMAIL}: {status} {body}");
        }
        let session = api
            .expect(Method::POST, "/auth/login", Some(json!({ "email": EMAIL, "password": PASSWORD })))
            .await
            .context("the demo user exists with another password; `cargo dev reset` starts anew")?;
        api.token = session["access_token"].as_str().context("no access_token in the answer")?.to_owned();
        Ok(api)
    }

    /// The titles of all tasks.
    async fn titles(&self) -> anyhow::Result<Vec<String>> {
        let (mut titles, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.expect(Method::GET, &format!("/tasks?limit=100{cursor}"), None).await?;
            let tasks = page["data"].as_array().context("no data in the answer")?;
            titles.extend(tasks.iter().filter_map(|task| Some(task["title"].as_str()?.to_owned())));
            match page["page"]["next_cursor"].as_str() {
                Some(next) if page["page"]["has_more"] == true => cursor = format!("&cursor={next}"),
                _ => return Ok(titles),
            }
        }
    }

    async fn create(&self, task: &Task) -> anyhow::Result<()> {
        let mut body = json!({
            "title": task.title, "priority": task.priority, "tags": task.tags, "reminders": task.reminders,
        });
        if let Some(description) = task.description {
            body["description"] = description.into();
        }
        if let Some(due) = &task.due {
            body["due"] = due.clone();
        }
        let created = self.expect(Method::POST, "/tasks", Some(body)).await?;
        if task.done {
            let id = created["id"].as_str().context("no id in the answer")?;
            self.expect(Method::POST, &format!("/tasks/{id}/complete"), None).await?;
        }
        Ok(())
    }

    async fn expect(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, answer) = self.send(method, path, body).await?;
        if !status.is_success() {
            bail!("{path} answered {status}: {answer}");
        }
        Ok(answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("cannot reach {}; is `cargo dev` running?", self.base))?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_tell_tasks_apart() {
        let tasks = tasks(Clock::Database.instant());
        let titles: std::collections::BTreeSet<_> = tasks.iter().map(|task| task.title).collect();
        assert_eq!(titles.len(), tasks.len());
        let relative_needs_due =
            |task: &Task| task.due.is_some() || task.reminders.iter().all(|r| r["kind"] == "absolute");
        assert!(tasks.iter().all(relative_needs_due));
    }
}
