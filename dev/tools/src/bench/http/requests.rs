//! What is sent, as text: a scenario is a list of requests that wrk takes from at random.

use std::collections::BTreeMap;

use anyhow::Context as _;
use common::{
    ids::{TaskId, UserId},
    secrets::SecretKeys,
};

use super::{
    server::Server,
    world::{BUSY, PEOPLE, World, token},
};

/// Requests in a list.
const COUNT: u32 = 10_000;
/// Pages of the busy person's list of which the beginnings are known.
const PAGES: usize = 200;

/// Writes requests on behalf of people.
pub(super) struct Requests {
    tokens: BTreeMap<UserId, String>,
    world: World,
}

impl Requests {
    pub(super) fn new(world: World, keys: &SecretKeys) -> anyhow::Result<Self> {
        let tokens = (0..=BUSY)
            .map(|number| Ok((World::person(number), token(keys, World::person(number))?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { tokens, world })
    }

    fn request(&self, person: u32, head: &str, body: Option<&str>) -> String {
        let token = &self.tokens[&World::person(person)];
        let head = format!("{head} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n");
        match body {
            None => format!("{head}\r\n"),
            Some(body) => {
                let length = body.len();
                format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
            }
        }
    }

    /// Tasks of the many, none more likely than another, and their people.
    fn some(&self) -> impl Iterator<Item = (u32, TaskId)> {
        // Coprime to every number of tasks that people ask for: it comes to all of them.
        let step = 7_919;
        let tasks = self.world.tasks;
        (0..COUNT).map(move |n| {
            let number = n * step % tasks;
            (number % PEOPLE, World::task(number))
        })
    }

    /// One that shows whether the API works.
    pub(super) fn one(&self) -> String {
        self.request(0, &format!("GET /api/v1/tasks/{}", World::task(0)), None)
    }

    pub(super) fn get(&self) -> Vec<String> {
        self.some()
            .map(|(person, task)| self.request(person, &format!("GET /api/v1/tasks/{task}"), None))
            .collect()
    }

    pub(super) fn list(&self) -> Vec<String> {
        (0..PEOPLE).map(|person| self.request(person, "GET /api/v1/tasks?limit=20", None)).collect()
    }

    /// Pages of the busy person's list, and where one in the middle begins.
    pub(super) async fn list_busy(&self, api: &Server) -> anyhow::Result<(Vec<String>, String)> {
        let mut pages = Vec::new();
        let mut cursors: Vec<String> = Vec::new();
        for _ in 0..PAGES {
            let from = cursors.last().map_or(String::new(), |cursor| format!("&cursor={cursor}"));
            let page = self.request(BUSY, &format!("GET /api/v1/tasks?limit=20{from}"), None);
            let answer = api.ask(&page).await?;
            pages.push(page);
            // A string of base64, so that it needs no parser.
            let cursor = answer.split_once("\"next_cursor\":\"").and_then(|(_, rest)| rest.split_once('"'));
            let Some((cursor, _)) = cursor else { break };
            cursors.push(cursor.to_owned());
        }
        let middle = cursors.get(cursors.len() / 2).context("the busy person's list has one page")?.clone();
        Ok((pages.split_off(1), middle))
    }

    pub(super) fn patch(&self) -> Vec<String> {
        let body = r#"{"title": "Changed ########"}"#;
        self.some()
            .map(|(person, task)| self.request(person, &format!("PATCH /api/v1/tasks/{task}"), Some(body)))
            .collect()
    }

    pub(super) fn create(&self) -> Vec<String> {
        let body = r#"{"title": "Created ########", "description": "The one on floor 3; it wants toner and a kind word.",
            "priority": "high", "due": {"date": "2031-05-06"}, "reminders": [{"kind": "relative", "offset_minutes": -60}]}"#;
        (0..PEOPLE).map(|person| self.request(person, "POST /api/v1/tasks", Some(body))).collect()
    }

    /// Of ten: five GET, two lists, two PATCH, one POST.
    pub(super) fn mixed(&self) -> Vec<String> {
        let take = |requests: Vec<String>, tenths: usize| {
            requests.into_iter().cycle().take(COUNT as usize / 10 * tenths).collect::<Vec<_>>()
        };
        let parts =
            [take(self.get(), 5), take(self.list(), 2), take(self.patch(), 2), take(self.create(), 1)];
        parts.concat()
    }
}
