use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Person};
use futures::{StreamExt as _, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// Tasks that each of them has at first.
const TASKS: usize = 5;

/// People who use the API.
pub(crate) struct People {
    api: SocketAddr,
    people: Vec<Someone>,
}

struct Someone {
    person: Person,
    tasks: Vec<String>,
}

impl People {
    /// So many people with accounts, a token and some tasks each.
    pub(crate) async fn new(cluster: &Cluster, count: usize) -> Self {
        let people = stream::iter(0..count).map(async |number| {
            let person = cluster.person(&format!("person-{number}")).await;
            let mut tasks = Vec::new();
            for number in 0..TASKS {
                let made = person.create_task(json!({ "title": format!("Task {number}") })).await;
                tasks.push(made.body["id"].as_str().unwrap().to_owned());
            }
            Someone { person, tasks }
        });
        Self { api: cluster.api(), people: people.buffer_unordered(8).collect().await }
    }

    pub(crate) fn len(&self) -> usize {
        self.people.len()
    }

    /// One person.
    pub(crate) fn person(&self, whose: usize) -> &Person {
        &self.people[whose].person
    }

    /// The same people, asking somewhere else.
    pub(crate) fn through(self, api: SocketAddr) -> Self {
        Self { api, ..self }
    }

    /// A connection of their own.
    pub(crate) fn line(&self) -> Line {
        Line { api: self.api, stream: None }
    }

    /// The `number`th request of all, by one after the other: half of them read a task, a fifth lists tasks, a fifth changes
    /// one and a tenth makes one.
    fn request(&self, number: usize) -> (usize, Method, Vec<u8>) {
        let whose = number % self.people.len();
        let Someone { person, tasks } = &self.people[whose];
        let turn = number / self.people.len();
        let path = format!("/tasks/{}", tasks[turn % TASKS]);
        // So that neighbours do not ask for the same.
        let (method, path, body) = match (turn + whose) % 10 {
            0..5 => (Method::GET, path, None),
            5 | 6 => (Method::GET, "/tasks?limit=20".to_owned(), None),
            7 | 8 => (Method::PATCH, path, Some(json!({ "title": format!("Changed by {number}") }))),
            _ => (Method::POST, "/tasks".to_owned(), Some(json!({ "title": format!("Made by {number}") }))),
        };
        let bytes = person.bytes_of(&method, &path, body.as_ref());
        (whose, method, bytes)
    }

    /// Requests over so many connections, on each the next one as soon as the last one is answered.
    pub(crate) async fn one_after_the_other(&self, connections: usize, length: Duration) -> Outcome {
        let begun = Instant::now();
        self.send(connections, |_| (begun.elapsed() < length).then(Instant::now)).await
    }

    /// So many requests a second, whether those before are answered or not, as far as the connections go.
    pub(crate) async fn at_a_rate(&self, per_second: f64, connections: usize, length: Duration) -> Outcome {
        let begun = Instant::now();
        let count = per_second * length.as_secs_f64();
        self.send(connections, |number| {
            let number = number as f64;
            (number < count).then(|| begun + Duration::from_secs_f64(number / per_second))
        })
        .await
    }

    /// The same until it is `over`.
    pub(crate) async fn until(
        &self,
        over: &CancellationToken,
        per_second: f64,
        connections: usize,
    ) -> Outcome {
        let begun = Instant::now();
        let time = |number| begun + Duration::from_secs_f64(number as f64 / per_second);
        self.send(connections, |number| (!over.is_cancelled()).then(|| time(number))).await
    }

    /// Sends requests at their times, until one has none. Each is as slow as it is after its time.
    async fn send(&self, connections: usize, time: impl Fn(usize) -> Option<Instant>) -> Outcome {
        let (next, begun) = (Cell::new(0), Instant::now());
        let (next, time) = (&next, &time);
        let lines = (0..connections).map(async |_| {
            let (mut line, mut outcome) = (self.line(), Outcome::default());
            loop {
                let number = next.replace(next.get() + 1);
                let Some(at) = time(number) else { return outcome };
                tokio::time::sleep_until(at.into()).await;
                let (whose, method, bytes) = self.request(number);
                let came = line.send(&bytes).await;
                outcome.note(whose, &method, came, at.elapsed());
            }
        });
        let mut all = Outcome::default();
        for outcome in join_all(lines).await {
            all.done.extend(outcome.done);
            all.refused.extend(outcome.refused);
            all.made.extend(outcome.made);
            all.others.extend(outcome.others);
        }
        all.took = begun.elapsed();
        all
    }
}

/// What came of many requests.
#[derive(Default)]
pub(crate) struct Outcome {
    /// How long each took that was answered with 2xx.
    pub(crate) done: Vec<Duration>,
    /// And each that was answered with 429 or 503 and `Retry-After`.
    pub(crate) refused: Vec<Duration>,
    /// Whose tasks were made, and their ids.
    pub(crate) made: Vec<(usize, String)>,
    /// All other answers, and what came instead of one.
    pub(crate) others: Vec<String>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
}

impl Outcome {
    /// Requests a second that were answered with 2xx.
    pub(crate) fn goodput(&self) -> f64 {
        self.done.len() as f64 / self.took.as_secs_f64()
    }

    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        (self.done.len() + self.refused.len() + self.others.len()) as f64 / self.took.as_secs_f64()
    }

    fn note(&mut self, whose: usize, method: &Method, came: io::Result<Came>, took: Duration) {
        match came {
            Ok(came) if (200..300).contains(&came.status) => {
                self.done.push(took);
                if method == Method::POST {
                    self.made.push((whose, came.json()["id"].as_str().unwrap().to_owned()));
                }
            }
            Ok(came) if matches!(came.status, 429 | 503) && came.retry_after => self.refused.push(took),
            Ok(came) => self.others.push(format!("{} {}", came.status, came.json())),
            Err(error) => self.others.push(error.to_string()),
        }
    }
}

/// A connection, opened when it is first used, and again after it was closed.
pub(crate) struct Line {
    api: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer.
pub(crate) struct Came {
    pub(crate) status: u16,
    retry_after: bool,
    closes: bool,
    body: Vec<u8>,
}

impl Came {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Line {
    /// Sends a request and reads its answer, which has a length as all JSON of ours does.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<Came> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.api).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        stream.write_all(request).await?;
        let came = Came::read(&mut stream).await?;
        if !came.closes {
            self.stream = Some(stream);
        }
        Ok(came)
    }
}

impl Came {
    async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Self> {
        let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no answer: {line:?}"));
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let status =
            line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| wrong(&line))?;
        let (mut length, mut retry_after, mut closes) = (0, false, false);
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(|_| wrong(&line))?,
                "retry-after" => retry_after = true,
                "connection" => closes = value == "close",
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(Self { status, retry_after, closes, body })
    }
}
