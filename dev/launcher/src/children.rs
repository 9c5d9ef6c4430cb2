//! The programs that the launcher starts. Each leads a process group of its own, so that a Ctrl-C of the terminal
//! reaches the launcher alone, which ends them in order; none outlives the launcher.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::os::{self, Signal, Signals, Stop};
use crate::terminal;

/// How many lines are remembered of each program, to be shown when it fails.
const REMEMBERED: usize = 40;

/// What becomes of the lines that a program prints.
pub(crate) enum Output {
    /// It shares our terminal.
    Terminal,
    /// They are shown only if it fails.
    Remembered,
    /// They go to a file; and, if `shown`, to the terminal with the name before each.
    Logged { file: PathBuf, shown: bool },
}

/// The signals that end a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// Asks it to finish its work.
    pub(crate) asked: Signal,
    /// Ends it when the launcher was killed.
    pub(crate) orphaned: Signal,
    /// Whether it starts programs that would outlive it.
    starts_others: bool,
}

impl Ending {
    /// Our own processes may be killed at any time; orphans that drain would hold their ports.
    pub(crate) const OURS: Ending = Ending::new(Signal::Terminate, Signal::Kill);
    /// SIGTERM flushes the append-only file.
    pub(crate) const REDIS: Ending = Ending::new(Signal::Terminate, Signal::Terminate);
    /// SIGINT is a fast shutdown, SIGQUIT an immediate one with recovery at the next start.
    pub(crate) const POSTGRES: Ending = Ending::new(Signal::Interrupt, Signal::Quit);
    /// A tool that runs beside or instead of them.
    pub(crate) const TOOL: Ending =
        Ending { starts_others: true, ..Ending::new(Signal::Interrupt, Signal::Kill) };

    const fn new(asked: Signal, orphaned: Signal) -> Self {
        Ending { asked, orphaned, starts_others: false }
    }
}

/// A program about to be started, which has nothing to read from us.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// A running program.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    ending: Ending,
    log: Option<PathBuf>,
    lines: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
    _guard: Option<Guard>,
}

impl Child {
    /// Starts a program. Only the main thread may do this, see [`os::die_with_parent`].
    pub(crate) fn spawn(name: &str, mut command: Command, output: Output, ending: Ending) -> Result<Child> {
        command.process_group(0);
        os::die_with_parent(&mut command, ending.orphaned);
        let file = match &output {
            Output::Logged { file, .. } => Some(open_log(file)?),
            _ => None,
        };
        if !matches!(output, Output::Terminal) {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut process = command.spawn().context(|| format!("start {}", command.get_program().display()))?;
        let prefix = match output {
            Output::Logged { shown: true, .. } => Some(next_prefix(name)),
            _ => None,
        };
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let sink = Arc::new(Lines { prefix, file: file.map(Mutex::new), last: Arc::clone(&lines) });
        let mut readers = Vec::new();
        if let Some(stdout) = process.stdout.take() {
            readers.push(read_lines(stdout, Arc::clone(&sink)));
        }
        if let Some(stderr) = process.stderr.take() {
            readers.push(read_lines(stderr, sink));
        }
        let log = match output {
            Output::Logged { file, .. } => Some(file),
            _ => None,
        };
        let _guard = Guard::for_child(process.id(), ending)?;
        Ok(Child { name: name.to_owned(), process, ending, log, lines, readers, _guard })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Fails if the program has ended, with its last lines.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.exited() {
            Some(status) => Err(self.failure(&format!("{} ended unexpectedly ({status})", self.name))),
            None => Ok(()),
        }
    }

    /// Waits for the end of a program that is expected to end. One that fails is an error with its last lines, unless
    /// it shares our terminal. A request to stop ends it, with all that it started.
    pub(crate) fn wait(mut self, signals: &Signals) -> Result<ExitStatus> {
        let status = self.wait_for_end(signals)?;
        if status.success() || self.readers.is_empty() {
            return Ok(status);
        }
        Err(self.failure(&format!("{} failed ({status})", self.name)))
    }

    fn wait_for_end(&mut self, signals: &Signals) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if signals.stop_requested() {
                self.end_group(signals);
                return Err(Error::Interrupted);
            }
            signals.wait(Duration::from_secs(1));
        }
    }

    /// Ends a program together with everything that it started.
    pub(crate) fn end_group(&mut self, signals: &Signals) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let stop = signals.begin_stop();
        os::send_to_group(self.pid(), self.ending.asked);
        while self.exited().is_none() && Instant::now() < deadline && !stop.is_urgent() {
            stop.wait();
        }
        os::send_to_group(self.pid(), Signal::Kill);
        let _reaped = self.process.wait();
    }

    /// An error that shows what the program printed last.
    pub(crate) fn failure(&mut self, problem: &str) -> Error {
        let error = Error::new(format!("{problem}{}", self.last_lines()));
        match &self.log {
            Some(log) => error.fix(format!("the whole log is in {}", log.display())),
            None => error,
        }
    }

    /// What the program printed last, as the end of a sentence.
    pub(crate) fn last_lines(&mut self) -> String {
        // What it printed before it died may still be in the pipe. Not longer: a descendant may hold it open.
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "; it printed nothing".to_owned();
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        format!("; its last lines:\n    {}", lines.join("\n    "))
    }
}

/// Ends programs together: asks, waits up to `patience`, then kills.
pub(crate) fn end(children: &mut [Child], patience: Duration, stop: &Stop<'_>) {
    let deadline = Instant::now() + patience;
    for child in children.iter_mut() {
        if child.exited().is_none() {
            os::send(child.pid(), child.ending.asked);
        }
    }
    while children.iter_mut().any(|child| child.exited().is_none()) {
        if stop.is_urgent() || Instant::now() > deadline {
            children.iter_mut().for_each(kill);
            return;
        }
        stop.wait();
    }
}

fn kill(child: &mut Child) {
    if child.exited().is_some() {
        return;
    }
    // The backends of PostgreSQL lead groups of their own: only the server itself can end them.
    if child.ending.orphaned != Signal::Kill {
        os::send(child.pid(), child.ending.orphaned);
        let deadline = Instant::now() + Duration::from_secs(3);
        while child.exited().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    terminal::step("Killed", child.name());
    os::send_to_group(child.pid(), Signal::Kill);
    let _reaped = child.process.wait();
}

/// A shell that waits for the launcher's end of a pipe to close, and then ends a process group. The kernel's death
/// signal reaches only the program that was started: a tool such as `cargo test` starts others, which would live on.
/// Systems without death signals need it for every program.
struct Guard {
    shell: process::Child,
}

impl Guard {
    fn for_child(leader: u32, ending: Ending) -> Result<Option<Self>> {
        if cfg!(target_os = "linux") && !ending.starts_others {
            return Ok(None);
        }
        let script = format!("read line || kill -{} -{leader}", ending.orphaned as i32);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(|shell| Some(Guard { shell })).context(|| "start sh")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _was_gone = self.shell.kill();
        let _reaped = self.shell.wait();
    }
}

/// Starts a new log and keeps the one before it beside it, with the ending `.1`.
fn open_log(path: &Path) -> Result<File> {
    let before = path.with_extension("log.1");
    if path.exists() {
        fs::rename(path, &before).context(|| format!("rename {}", path.display()))?;
    }
    File::create(path).context(|| format!("create {}", path.display()))
}

fn next_prefix(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    terminal::prefix(name, NEXT.fetch_add(1, Ordering::Relaxed))
}

struct Lines {
    prefix: Option<String>,
    file: Option<Mutex<File>>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Lines {
    fn take(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        if let Some(prefix) = &self.prefix {
            terminal::say(format_args!("{prefix} {text}"));
        }
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop the program whose lines these are.
            let _lost = writeln!(file, "{text}");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(text.to_owned());
    }
}

fn read_lines(pipe: impl Read + Send + 'static, lines: Arc<Lines>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            lines.take(&line);
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, ending: Ending) -> Child {
        let mut command = program("sh");
        command.args(["-c", script]);
        Child::spawn("script", command, Output::Remembered, ending).unwrap()
    }

    #[test]
    fn a_failure_shows_what_was_printed_last() {
        let signals = Signals::install().unwrap();
        assert!(shell("echo fine", Ending::TOOL).wait(&signals).unwrap().success());
        let error = shell("for i in $(seq 50); do echo line $i; done; exit 3", Ending::TOOL)
            .wait(&signals)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("script failed (exit status: 3)"), "{error}");
        assert!(error.contains("line 50") && !error.contains("line 10\n"), "{error}");
    }

    #[test]
    fn who_does_not_stop_is_killed() {
        let signals = Signals::install().unwrap();
        let mut children =
            [shell("exec sleep 60", Ending::OURS), shell("trap '' TERM; echo up; sleep 60", Ending::OURS)];
        let deadline = Instant::now() + Duration::from_secs(10);
        while children[1].lines.lock().unwrap().is_empty() && Instant::now() < deadline {
            signals.wait(Duration::from_millis(10));
        }
        end(&mut children, Duration::from_millis(200), &signals.begin_stop());
        let ends = children.each_mut().map(|child| child.exited().unwrap().to_string());
        assert_eq!(ends, ["signal: 15 (SIGTERM)", "signal: 9 (SIGKILL)"]);
    }
}
