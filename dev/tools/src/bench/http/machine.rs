//! Processes as the machine sees them: on which core they run, what they use. Linux only; elsewhere nothing is pinned and
//! nothing is known.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
};

/// Where the server runs that is measured.
pub(super) const SERVER_CORE: u32 = 0;
/// Where everything else runs: PostgreSQL, Redis and the load.
pub(super) const LOAD_CORE: u32 = 1;

/// Whether processes are kept on cores of their own: a server that shares its core with the load is measured with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinning(bool);

/// Everything may run everywhere, as in an installation.
pub(super) const UNPINNED: Pinning = Pinning(false);

impl Pinning {
    /// With `taskset` (util-linux), on a machine with two cores or more.
    pub(super) fn find() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let taskset = Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
        Self(cores > 1 && taskset.is_ok_and(|status| status.success()))
    }

    pub(super) fn is_on(self) -> bool {
        self.0
    }

    /// A command that will run on this core.
    pub(super) fn on(self, core: u32, program: impl AsRef<OsStr>) -> Command {
        if !self.0 {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(core.to_string()).arg(program);
        command
    }

    /// Moves a running process with its threads and its children to this core.
    pub(super) fn hold(self, core: u32, pid: u32) {
        self.allow(&core.to_string(), pid);
    }

    /// Lets such a process run on every core again.
    pub(super) fn release(self, pid: u32) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.allow(&format!("0-{}", cores - 1), pid);
    }

    fn allow(self, cores: &str, pid: u32) {
        if !self.0 {
            return;
        }
        for pid in children(pid).into_iter().chain([pid]) {
            let mut command = Command::new("taskset");
            command.args(["--all-tasks", "--cpu-list", "--pid", cores, &pid.to_string()]);
            // One that has just ended needs no core.
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Seconds of CPU that a process has used, and those of its children that run or have ended.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let own = |pid| stat(pid, &[11, 12]);
    own(pid) + stat(pid, &[13, 14]) + children(pid).into_iter().map(own).sum::<f64>()
}

/// A sum of fields of proc_pid_stat(5), counted from behind the name, in ticks of 10 ms.
fn stat(pid: u32, fields: &[usize]) -> f64 {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let Some((_, rest)) = text.rsplit_once(')') else { return 0.0 };
    let all: Vec<&str> = rest.split_whitespace().collect();
    fields.iter().filter_map(|field| all.get(*field)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn children(pid: u32) -> Vec<u32> {
    let file = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// MiB of memory that a process alone has, with its share of what it shares.
pub(super) fn pss(pid: u32) -> Option<f64> {
    kib(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// MiB of memory that a process had in use at most.
pub(super) fn peak_rss(pid: u32) -> Option<f64> {
    kib(Path::new(&format!("/proc/{pid}/status")), "VmHWM:")
}

fn kib(file: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}
