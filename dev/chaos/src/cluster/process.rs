use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};

use super::{Exposition, ports, until};

pub use rustix::process::Signal;

/// How long a process may take until it is ready; a machine may be busy with other tests.
const READY: Duration = Duration::from_secs(20);
/// What a process keeps of our environment; its settings are all ours.
const KEPT: &[&str] = &["PATH", "HOME", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"];

/// One of the three programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `tasktracker-api`.
    Api,
    /// `tasktracker-worker`.
    Worker,
    /// `tasktracker-scheduler`.
    Scheduler,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
        }
    }

    /// Where its binary is: in `TASKTRACKER_BIN_DIR`, or beside the running test's.
    pub fn binary(self) -> PathBuf {
        let folder = std::env::var_os("TASKTRACKER_BIN_DIR").map(PathBuf::from).or_else(|| {
            let test = std::env::current_exe().ok()?;
            Some(test.parent()?.parent()?.to_owned())
        });
        self.binary_in(&folder.expect("a test has a path"))
    }

    fn binary_in(self, folder: &Path) -> PathBuf {
        let binary = folder.join(format!("tasktracker-{}", self.name()));
        assert!(binary.exists(), "{} is missing: run the tests with `cargo dev test`", binary.display());
        binary
    }
}

/// A running program. It is killed on drop.
pub struct Process {
    name: String,
    program: Program,
    binary: PathBuf,
    arguments: Vec<String>,
    settings: Vec<(&'static str, String)>,
    public: SocketAddr,
    internal: SocketAddr,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl Process {
    pub(super) fn start(
        program: Program,
        number: usize,
        arguments: &[String],
        settings: &[(&'static str, String)],
        programs: Option<&Path>,
        folder: &Path,
    ) -> Self {
        let binary = programs.map_or_else(|| program.binary(), |older| program.binary_in(older));
        let name = format!("{}-{number}", program.name());
        let (public, internal) = (ports::free(), ports::free());
        let mut settings = settings.to_vec();
        settings.push(("INTERNAL_BIND", internal.to_string()));
        if program == Program::Api {
            settings.push(("BIND", public.to_string()));
        }
        let log = folder.join(format!("{name}.log"));
        let child = spawn(&binary, arguments, &settings, &log);
        Self {
            name,
            program,
            binary,
            arguments: arguments.to_vec(),
            settings,
            public,
            internal,
            log,
            child,
            started: Instant::now(),
        }
    }

    /// `worker-1`, as in the name of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which program it is.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Where the API listens.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where its metrics and probes are.
    pub fn internal(&self) -> SocketAddr {
        self.internal
    }

    /// Its process id; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it as a power cut would, and waits until the system has taken it away.
    pub async fn kill9(&mut self) {
        // An error means that it had ended already.
        let _ = self.child.kill().await;
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        self::signal(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child may be waited for")
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        until(format!("{} ends", self.name), within, async || {
            self.child.try_wait().expect("a child may be waited for").ok_or_else(|| "it lives".to_owned())
        })
        .await
    }

    /// Starts it again with the same settings, on the same ports. It must have ended.
    pub fn restart(&mut self) {
        assert!(self.exited().is_some(), "{} still runs", self.name);
        self.child = spawn(&self.binary, &self.arguments, &self.settings, &self.log);
        self.started = Instant::now();
    }

    /// Makes it one of this build, from its next start on.
    pub fn upgrade(&mut self) {
        self.binary = self.program.binary();
    }

    /// Changes a setting, from its next start on.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value));
    }

    /// Waits until `/readyz` says yes, and answers how long that took from the start.
    pub async fn wait_ready(&mut self) -> Duration {
        until(format!("{} is ready", self.name), READY, async || {
            if let Some(status) = self.child.try_wait().expect("a child may be waited for") {
                print_log(&self.name, &self.log, 30);
                panic!("{} has ended instead of becoming ready: {status}", self.name);
            }
            self.ready().await
        })
        .await;
        self.started.elapsed()
    }

    /// Whether `/readyz` says yes within a second.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn ready(&self) -> Result<(), String> {
        let (status, text) = self.get("/readyz?verbose").await?;
        if status == 200 { Ok(()) } else { Err(text.trim_end().replace('\n', ", ")) }
    }

    /// What `/readyz?verbose` says, ready or not.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn readiness(&self) -> Result<String, String> {
        Ok(self.get("/readyz?verbose").await?.1)
    }

    /// Its metrics, now.
    pub async fn metrics(&self) -> Exposition {
        Exposition::parse(&self.exposition().await).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The same as text.
    pub async fn exposition(&self) -> String {
        let (status, text) = self.get("/metrics").await.expect("the internal port answers");
        assert_eq!(status, 200, "{}", self.name);
        text
    }

    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let client = tools::client().timeout(Duration::from_secs(1)).build();
        let answer = async {
            let response = client?.get(format!("http://{}{path}", self.internal)).send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        };
        answer.await.map_err(|error| error.to_string())
    }

    /// What it has logged, since its first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("its log can be read")
    }

    pub(super) fn print_log(&self, lines: usize) {
        print_log(&self.name, &self.log, lines);
    }
}

/// Sends a child that has not ended a signal.
pub(super) fn signal(pid: Option<u32>, signal: Signal) {
    if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        kill_process(pid, signal).expect("a child may be sent a signal");
    }
}

fn spawn(binary: &Path, arguments: &[String], settings: &[(&str, String)], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log can be written");
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    // It stays in our process group, so that whoever ends the tests ends it too.
    Command::new(binary)
        .args(arguments)
        .env_clear()
        .envs(kept)
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log can be written"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("a binary of ours can be started")
}

#[expect(clippy::print_stderr, reason = "shown with the failure of the test")]
fn print_log(name: &str, log: &Path, lines: usize) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(lines).collect();
    eprintln!("--- the last lines of {name}");
    for line in last.into_iter().rev() {
        eprintln!("{line}");
    }
}
