//! A receiver of webhooks that keeps what it gets and answers as it is told: at once, late, never, bit by bit, without
//! end, or with a redirect. What it answers is scripted for each path, so that one sink stands for many receivers.
//! Everything is in memory, and gone when it is dropped.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    serve::ListenerExt as _,
};
use chrono::{DateTime, Utc};
use common::clock::Clock;
use futures::stream;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Requests are cut here: ours have 20 KiB at most.
const MAX_REQUEST: usize = 1 << 20;
/// What [`Answer::Huge`] sends.
const HUGE: usize = 1 << 30;
/// The pieces of it.
const CHUNK: usize = 1 << 16;
/// [`Answer::Drip`] sends a byte so often.
const DRIP: Duration = Duration::from_millis(200);

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// With this status and the body `ok`.
    Status(u16),
    /// With this status, these headers and this body.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As the other says, after so long.
    Late(Duration, Box<Answer>),
    /// Never: the connection stays open.
    Hang,
    /// 200, and then a byte every 200 ms for ever.
    Drip,
    /// 200 and 1 GB.
    Huge,
    /// 302 to this address.
    Redirect(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Call {
    /// When its body was complete.
    pub at: DateTime<Utc>,
    /// Its path, with the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How it was answered.
    pub answer: Answer,
}

impl Call {
    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A running sink. It stops when dropped.
#[derive(Debug)]
pub struct WebhookSink {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _shutdown: DropGuard,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    state: Mutex<Told>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Told {
    calls: Vec<Call>,
    answers: HashMap<String, VecDeque<Answer>>,
    always: Option<Answer>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WebhookSink {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Listens on `addr`.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start_on(addr: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("cannot listen on {addr} for webhooks; choose another address"))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let counting = shared.clone();
        let listener = listener.tap_io(move |_| {
            counting.connections.fetch_add(1, Relaxed);
        });
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let shutdown = CancellationToken::new();
        let stopped = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = axum::serve(listener, router) => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self { addr, shared, _shutdown: shutdown.drop_guard() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What the next requests to a path are answered; the last answer repeats. Without a word: 200.
    pub fn script(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared.state().answers.insert(path.to_owned(), answers.into_iter().collect());
    }

    /// What every request is answered from now on, whatever is scripted; `None` for the scripts again.
    pub fn answer_all(&self, answer: Option<Answer>) {
        self.shared.state().always = answer;
    }

    /// Everything that came, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// What came for a path, in order.
    pub fn calls_to(&self, path: &str) -> Vec<Call> {
        self.shared.state().calls.iter().filter(|call| call.path == path).cloned().collect()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }

    /// Waits until at least `count` requests have come, and returns all of them.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub async fn wait_for_count(&self, count: usize, within: Duration) -> anyhow::Result<Vec<Call>> {
        let enough = async {
            loop {
                let came = self.shared.came.notified();
                let calls = self.calls();
                if calls.len() >= count {
                    return calls;
                }
                came.await;
            }
        };
        match tokio::time::timeout(within, enough).await {
            Ok(calls) => Ok(calls),
            Err(_) => {
                anyhow::bail!("{} of {count} webhooks came within {within:?}", self.calls().len())
            }
        }
    }
}

async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_REQUEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let path = parts.uri.to_string();
    let answer = {
        let mut state = shared.state();
        let answer = state.answers.get_mut(&path).and_then(|answers| {
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        });
        let answer = state.always.clone().or(answer).unwrap_or(Answer::Status(200));
        let at = Clock::default().instant();
        state.calls.push(Call { at, path, headers: parts.headers, body, answer: answer.clone() });
        answer
    };
    shared.came.notify_waiters();
    respond(answer).await
}

async fn respond(mut answer: Answer) -> Response {
    loop {
        return match answer {
            Answer::Status(status) => (status_of(status), "ok").into_response(),
            Answer::Full(status, headers, body) => {
                let mut response = (status_of(status), body).into_response();
                for (name, value) in headers {
                    if let Ok(value) = value.parse() {
                        response.headers_mut().append(name, value);
                    }
                }
                response
            }
            Answer::Late(pause, then) => {
                tokio::time::sleep(pause).await;
                answer = *then;
                continue;
            }
            Answer::Hang => std::future::pending().await,
            Answer::Drip => {
                let drops = stream::unfold((), |()| async {
                    tokio::time::sleep(DRIP).await;
                    Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
                });
                Body::from_stream(drops).into_response()
            }
            Answer::Huge => {
                let chunk = Bytes::from(vec![b'x'; CHUNK]);
                let chunks = stream::iter((0..HUGE / CHUNK).map(move |_| Ok::<_, Infallible>(chunk.clone())));
                Body::from_stream(chunks).into_response()
            }
            Answer::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        };
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
