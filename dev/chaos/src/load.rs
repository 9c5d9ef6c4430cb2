//! What people do: they register, make tasks that remind them soon, change their minds, and repeat what was not
//! answered. Everything goes through the REST API, and is [noted](crate::journal) before and after. Beside them, probes
//! are enqueued as the application enqueues its jobs.

mod client;
mod probes;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use common::{
    clock::Clock,
    db::{Db, RunQueryDsl as _, sql},
    ids::TaskId,
};
use diesel::sql_types::Text;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::journal::{Change, Journal, Title, What};

pub use client::Client;
pub use probes::{Probes, enqueue};

/// One more person each time so many tasks were made; at first there are [`PEOPLE`].
const TASKS_PER_PERSON: u32 = 25;
/// People at the beginning.
const PEOPLE: usize = 4;
/// Between two tries of the harness itself.
const PAUSE: Duration = Duration::from_millis(250);
/// A reminder is due within so many seconds.
const SOON: std::ops::Range<i64> = 3..40;

/// Makes `rate` tasks a second until `stop`, and lets each live its life in `lives`; what has begun is asked for until it
/// is answered. Each person is told of all that at a path of `receiver`. Answers who made them.
pub async fn people(
    journal: Arc<Journal>,
    apis: Vec<SocketAddr>,
    receiver: Receiver,
    rate: f64,
    seed: u64,
    lives: TaskTracker,
    stop: CancellationToken,
) -> Vec<Client> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(newcomer(&journal, &apis, number, &receiver).await);
    }
    let began = Instant::now();
    let mut task = 0;
    while !stop.is_cancelled() && rate > 0.0 {
        task += 1;
        if task % TASKS_PER_PERSON == 0 {
            let newcomer = newcomer(&journal, &apis, people.len(), &receiver);
            if let Some(newcomer) = stop.run_until_cancelled(newcomer).await {
                people.push(newcomer);
            }
        }
        if let Some(person) = people.choose(&mut chance).cloned() {
            let life =
                Life { person, journal: journal.clone(), task, version: 1, id: None, etag: String::new() };
            lives.spawn(life.live(StdRng::seed_from_u64(chance.random()), stop.clone()));
        }
        let next = sleep_until(began + Duration::from_secs_f64(f64::from(task) / rate));
        stop.run_until_cancelled(next).await;
    }
    people
}

async fn newcomer(journal: &Arc<Journal>, apis: &[SocketAddr], number: usize, receiver: &Receiver) -> Client {
    let person = Client::register(journal.clone(), apis.to_vec(), number).await;
    while let Err(error) = receiver.admit(person.email()).await {
        tracing::debug!(%error, "cannot make an administrator");
        sleep(PAUSE).await;
    }
    person.subscribe(&receiver.url).await;
    person
}

/// Who is told of people's changes.
#[derive(Clone)]
pub struct Receiver {
    /// Where it listens, without a path: on this machine.
    pub url: String,
    /// The database.
    pub db: Db,
}

impl Receiver {
    /// Webhooks to addresses that are not public are for administrators.
    async fn admit(&self, email: &str) -> anyhow::Result<()> {
        let admit = sql!("UPDATE users SET role = 'admin' WHERE email = {email}", email: Text = email);
        admit.execute(&mut self.db.conn().await?).await?;
        Ok(())
    }
}

/// A task, from its making to its last change.
struct Life {
    person: Client,
    journal: Arc<Journal>,
    task: u32,
    version: u32,
    id: Option<TaskId>,
    /// Of the version that the next change is meant for.
    etag: String,
}

impl Life {
    async fn live(mut self, mut chance: StdRng, stop: CancellationToken) {
        let mut remind_at = soon(&mut chance);
        let created = Change::Create { person: self.person.email().to_owned(), remind_at };
        let body = json!({
            "title": self.title(),
            "due": remind_at,
            "reminders": [{ "kind": "relative", "offset_minutes": 0 }],
        });
        self.change(created, Method::POST, "", Some(body)).await;
        if self.id.is_none() {
            return;
        }
        // Half of them remind and that is all; the others are changed in time, or late.
        let turns: &[Turn] = match chance.random_range(0..20) {
            0..10 => &[],
            10..13 => &[Turn::Move],
            13..15 => &[Turn::Move, Turn::Move],
            15..17 => &[Turn::Complete],
            17..19 => &[Turn::Delete],
            _ => &[Turn::CompleteLate],
        };
        for turn in turns {
            let late = matches!(turn, Turn::CompleteLate);
            let left = (remind_at - Clock::Database.instant()).to_std().unwrap_or_default();
            let pause = if late { left + Duration::from_secs(2) } else { left.mul_f64(chance.random()) };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            match turn {
                Turn::Move => {
                    remind_at = soon(&mut chance);
                    self.version += 1;
                    let body = json!({ "title": self.title(), "due": remind_at });
                    self.change(Change::Move { remind_at }, Method::PATCH, "", Some(body)).await;
                }
                Turn::Complete | Turn::CompleteLate => {
                    self.change(Change::Complete, Method::POST, "/complete", None).await;
                }
                Turn::Delete => self.change(Change::Delete, Method::DELETE, "", None).await,
            }
        }
    }

    fn title(&self) -> String {
        Title { task: self.task, version: self.version }.to_string()
    }

    /// Asks for a change until it is answered. Each may be asked for again: a POST has a key, and a PATCH names the
    /// version that it is meant for, or one that was given up and arrives late would undo the next.
    async fn change(&mut self, change: Change, method: Method, action: &str, body: Option<Value>) {
        let path = match self.id {
            Some(id) => format!("/tasks/{id}{action}"),
            None => "/tasks".to_owned(),
        };
        self.journal.note(What::Asks { task: self.task, change });
        let title = self.title();
        let key = format!("{title}{action}");
        let headers = if method == Method::PATCH {
            [("if-match", self.etag.as_str())]
        } else {
            [("idempotency-key", key.as_str())]
        };
        let (mut status, mut answer) = self.person.ask(method, &path, &headers, body.as_ref()).await;
        if status == StatusCode::PRECONDITION_FAILED {
            // An earlier try may have had its effect, and its answer was lost.
            let (found, task) = self.person.ask(Method::GET, &path, &[], None).await;
            if task["title"] == title {
                (status, answer) = (found, task);
            }
        }
        if self.id.is_none() {
            self.id = answer["id"].as_str().and_then(|id| id.parse().ok());
        }
        self.etag = format!("\"t-{}\"", answer["version"]);
        self.journal.note(What::Told { task: self.task, status: status.as_u16(), id: self.id });
    }
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    Move,
    Complete,
    Delete,
    CompleteLate,
}

/// The API keeps whole seconds.
fn soon(chance: &mut StdRng) -> DateTime<Utc> {
    Clock::Database.instant().trunc_subsecs(0) + TimeDelta::seconds(chance.random_range(SOON))
}
