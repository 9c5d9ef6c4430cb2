//! Whether a process can do its work, and the internal port that says so: `/metrics`, `/livez`, `/readyz`, and
//! nothing else.
//!
//! A *pulse* is a loop of ours that has to keep turning: if it stops, the process is not ready within 15 seconds, and
//! within 60 the watchdog ends it, because only a restart can help (design §4.8). A *dependency* is something outside: while
//! it is away the process is not ready, but lives on (design §4.9). A *remark* is about something that the process works without,
//! less well: it is said, and the process stays ready.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::RawQuery, http::StatusCode, response::IntoResponse as _, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

/// A pulse that is older makes the process not ready: a second before the 15 that are promised.
pub const NOT_READY_AFTER: Duration = Duration::from_secs(14);
/// A pulse that is older ends the process: early enough to be gone within the 60 seconds that are promised, however
/// the seconds of the watchdog fall.
pub const ABORT_AFTER: Duration = Duration::from_secs(55);
/// If the watchdog itself, which has nothing to wait for, did not come round for so long, the process was stopped as a
/// whole (SIGSTOP, a paused machine).
const STOOD_STILL: Duration = Duration::from_secs(10);

/// How long [`ask`] waits for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The health of one process. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    started: Instant,
    stopping: AtomicBool,
    pulses: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    dependencies: Mutex<BTreeMap<String, Option<String>>>,
    remarks: Mutex<BTreeMap<String, Option<String>>>,
}

/// A loop's sign of life.
#[derive(Clone)]
pub struct Pulse {
    started: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// The loop has completed a round, whether it went well or not.
    pub fn beat(&self) {
        self.last_ms.store(millis_since(self.started), Ordering::Relaxed);
    }
}

fn millis_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A poisoned lock still holds a valid map: nothing between lock and unlock can leave it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps what is known of something outside, and logs when it changes.
fn note(known: &Mutex<BTreeMap<String, Option<String>>>, name: &str, problem: Option<String>) {
    let before = lock(known).insert(name.to_owned(), problem.clone());
    match (before.flatten(), problem) {
        (None, Some(problem)) => tracing::warn!(dependency = name, problem, "a dependency is away"),
        (Some(_), None) => tracing::info!(dependency = name, "a dependency is back"),
        _ => {}
    }
}

/// What is wrong with each of them, as `name: problem`.
fn said(known: &Mutex<BTreeMap<String, Option<String>>>) -> Vec<String> {
    let known = lock(known);
    let wrong = known.iter().filter_map(|(name, problem)| Some(format!("{name}: {}", problem.as_ref()?)));
    wrong.collect()
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            pulses: Mutex::default(),
            dependencies: Mutex::default(),
            remarks: Mutex::default(),
        }))
    }
}

impl Health {
    /// Registers a loop that has to keep turning. It counts as having turned now.
    pub fn pulse(&self, name: impl Into<String>) -> Pulse {
        let pulse = Pulse { started: self.0.started, last_ms: Arc::default() };
        pulse.beat();
        lock(&self.0.pulses).insert(name.into(), pulse.last_ms.clone());
        pulse
    }

    /// A loop that ended on purpose is watched no more.
    pub fn forget(&self, name: &str) {
        lock(&self.0.pulses).remove(name);
    }

    /// Says that a dependency is there, or why it is not.
    pub fn dependency(&self, name: &str, problem: Option<String>) {
        note(&self.0.dependencies, name, problem);
    }

    /// Says that something is there which the process can do without, or why it is not.
    pub fn remark(&self, name: &str, problem: Option<String>) {
        note(&self.0.remarks, name, problem);
    }

    /// From now on the process is not ready: it is about to stop.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// What keeps the process from being ready; nothing if it is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.0.stopping.load(Ordering::Relaxed) {
            problems.push("stopping".to_owned());
        }
        for (name, age) in self.stale(NOT_READY_AFTER) {
            problems.push(format!("{name}: no round for {} s", age.as_secs()));
        }
        problems.extend(said(&self.0.dependencies));
        problems
    }

    /// The pulses that are older than `limit`.
    fn stale(&self, limit: Duration) -> Vec<(String, Duration)> {
        let now = millis_since(self.0.started);
        lock(&self.0.pulses)
            .iter()
            .map(|(name, last)| {
                (name.clone(), Duration::from_millis(now.saturating_sub(last.load(Ordering::Relaxed))))
            })
            .filter(|(_, age)| *age > limit)
            .collect()
    }

    /// All loops count as having turned now.
    fn beat_all(&self) {
        let now = millis_since(self.0.started);
        lock(&self.0.pulses).values().for_each(|last| last.store(now, Ordering::Relaxed));
    }

    /// Starts the watchdog: a thread of its own, which sees also a runtime whose every thread is blocked. When a
    /// pulse is older than [`ABORT_AFTER`] the process aborts, for whoever supervises it to start it again. Time during
    /// which the whole process stood still is not held against its loops.
    pub fn watch(&self) {
        let health = self.clone();
        let runtime = self.pulse("runtime");
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            loop {
                every.tick().await;
                runtime.beat();
            }
        });
        std::thread::spawn(move || {
            loop {
                let since = Instant::now();
                std::thread::sleep(Duration::from_secs(1));
                if since.elapsed() > STOOD_STILL {
                    health.beat_all();
                }
                if let Some((name, age)) = health.stale(ABORT_AFTER).first() {
                    tracing::error!(
                        pulse = name,
                        age_s = age.as_secs(),
                        "watchdog: a loop is stuck, ending the process"
                    );
                    std::process::abort();
                }
            }
        });
    }

    /// Serves the internal port until `stop`.
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn serve(
        &self,
        bind: SocketAddr,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind(bind)
            .await
            .map_err(|error| anyhow::anyhow!("INTERNAL_BIND: cannot listen on {bind}: {error}"))?;
        let router = self.router(metrics);
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the internal port has failed");
            }
        });
        Ok(())
    }

    fn router(&self, metrics: PrometheusHandle) -> Router {
        let health = self.clone();
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route(
                "/metrics",
                get(async move || {
                    (
                        [("content-type", "text/plain; version=0.0.4; charset=utf-8")],
                        crate::metrics::render(&metrics),
                    )
                }),
            )
            .route(
                "/readyz",
                get(async move |RawQuery(query): RawQuery| {
                    let problems = health.problems();
                    let status =
                        if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                    let mut text = match (problems.is_empty(), query.as_deref()) {
                        (true, _) => "ok\n".to_owned(),
                        (false, Some("verbose")) => problems.join("\n") + "\n",
                        (false, _) => "not ready\n".to_owned(),
                    };
                    if query.as_deref() == Some("verbose") {
                        text.extend(said(&health.0.remarks).into_iter().map(|remark| remark + "\n"));
                    }
                    (status, text).into_response()
                }),
            )
    }
}

/// Asks the process behind an internal port of this machine whether it is ready, as the health check of a container does.
///
/// # Errors
/// What it answers instead, or why it does not.
pub fn ask(internal: SocketAddr) -> Result<(), String> {
    let address = if internal.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, internal.port()))
    } else {
        internal
    };
    let answer = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /readyz?verbose HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(8 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer: String =
        answer().map_err(|error: std::io::Error| format!("{address} does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(body.trim_end().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_that_is_away_and_a_stop_make_it_not_ready() {
        let health = Health::default();
        assert_eq!(health.problems(), [""; 0]);
        health.dependency("postgres", Some("connection refused".into()));
        assert_eq!(health.problems(), ["postgres: connection refused"]);
        health.dependency("postgres", None);
        health.remark("redis", Some("connection refused".into()));
        assert_eq!(health.problems(), [""; 0], "it can do without");
        health.stopping();
        assert_eq!(health.problems(), ["stopping"]);
    }

    #[test]
    fn a_pulse_is_stale_only_after_its_limit() {
        let health = Health::default();
        let pulse = health.pulse("loop");
        pulse.beat();
        assert!(health.stale(Duration::from_secs(15)).is_empty());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(health.stale(Duration::ZERO).len(), 1);
        health.beat_all();
        assert!(health.stale(Duration::from_millis(4)).is_empty());
        health.forget("loop");
        assert!(health.stale(Duration::ZERO).is_empty());
    }

    #[test]
    fn a_process_is_asked_whether_it_is_ready() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.0 200 OK\r\n\r\nready", "HTTP/1.0 503 Oh\r\n\r\npostgres: away\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 100]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let bind = SocketAddr::from(([0, 0, 0, 0], port));
        assert_eq!(ask(bind), Ok(()));
        assert_eq!(ask(bind), Err("postgres: away".to_owned()));
        server.join().unwrap();
        assert!(ask(bind).unwrap_err().contains("does not answer"));
    }
}
