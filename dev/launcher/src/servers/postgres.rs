//! A private PostgreSQL: a cluster in the data directory that listens on a Unix socket only.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::children::{Child, Ending, Output, program};
use crate::data::{DataDir, make_private, remove};
use crate::encoding::percent;
use crate::error::{Context, Error, Result};
use crate::os::{self, Signal, Signals};
use crate::programs::Program;
use crate::terminal::step;

/// What a new cluster gets, statement by line. Migrations do the rest, as `tasktracker_owner`.
const ROLES: &str = "\
CREATE ROLE tasktracker_owner LOGIN CREATEDB CREATEROLE;
CREATE ROLE tasktracker_app LOGIN;
CREATE DATABASE tasktracker OWNER tasktracker_owner TEMPLATE template0;
";

/// Whether commits survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// As in production.
    Full,
    /// For tests, whose data dies with them.
    None,
}

/// The URL of a database for tokio-postgres and libpq alike. The socket's directory stands percent-encoded in the
/// place of the host; as a parameter beside a host it would only be tried second.
pub(crate) fn url(sockets: &Path, role: &str, database: &str) -> String {
    format!("postgres://{role}@{}/{database}", percent(&sockets.to_string_lossy(), ""))
}

/// The major version of the cluster in the data directory, if there is one.
pub(crate) fn cluster_version(data: &DataDir) -> Option<u32> {
    fs::read_to_string(data.postgres().join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Starts the server; makes its cluster first if there is none.
pub(crate) fn start(
    found: &Program,
    data: &DataDir,
    durability: Durability,
    signals: &Signals,
) -> Result<Child> {
    let cluster = data.postgres();
    if !cluster.exists() {
        make_cluster(found, data, signals)?;
    }
    end_leftover(data, signals)?;
    step("Starting", format_args!("PostgreSQL {} ({})", found.major, found.path.display()));
    let mut command = as_server_user(&found.path, data);
    command.arg("-D").arg(&cluster);
    let mut set = |name: &str, value: &str| {
        command.arg("-c").arg(format!("{name}={value}"));
    };
    set("listen_addresses", "");
    set("port", "5432");
    set("unix_socket_directories", &data.sockets().to_string_lossy());
    set("max_connections", "300");
    set("timezone", "UTC");
    set("log_timezone", "UTC");
    if durability == Durability::None {
        set("fsync", "off");
        set("synchronous_commit", "off");
        set("full_page_writes", "off");
    }
    let output = Output::Logged { file: data.log("postgres"), shown: false };
    Child::spawn("postgres", command, output, Ending::POSTGRES)
}

/// Whether the server with this pid accepts connections.
pub(crate) fn is_ready(data: &DataDir, pid: u32) -> bool {
    // Line 8 is the state: https://www.postgresql.org/docs/current/storage-file-layout.html, src/include/utils/pidfile.h
    let Ok(file) = fs::read_to_string(pid_file(data)) else {
        return false;
    };
    let mut lines = file.lines();
    lines.next().is_some_and(|line| line.trim() == pid.to_string())
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
        && UnixStream::connect(socket(data)).is_ok()
}

fn pid_file(data: &DataDir) -> PathBuf {
    data.postgres().join("postmaster.pid")
}

fn socket(data: &DataDir) -> PathBuf {
    data.sockets().join(".s.PGSQL.5432")
}

/// A cluster with our roles, whole or not at all: it is made under another name.
fn make_cluster(found: &Program, data: &DataDir, signals: &Signals) -> Result<()> {
    let cluster = data.postgres();
    let unfinished = cluster.with_extension("new");
    step("Creating", format_args!("a PostgreSQL {} cluster in {}", found.major, cluster.display()));
    // C.UTF-8 sorts by code point and knows the letters of all scripts; systems without it have C.
    init(found, data, &unfinished, "C.UTF-8", signals).or_else(|error| match error {
        Error::Interrupted => Err(error),
        _ => init(found, data, &unfinished, "C", signals),
    })?;
    create_roles(found, data, &unfinished, signals)?;
    fs::rename(&unfinished, &cluster).context(|| format!("create {}", cluster.display()))
}

fn init(found: &Program, data: &DataDir, cluster: &Path, locale: &str, signals: &Signals) -> Result<()> {
    remove(cluster)?;
    make_private(cluster, data.account(), 0o700)?;
    let mut command = as_server_user(&found.path.with_file_name("initdb"), data);
    command
        .arg("--pgdata")
        .arg(cluster)
        // The socket's directory is private, so whoever reaches the socket is trusted.
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"])
        .arg(format!("--locale={locale}"));
    Child::spawn("initdb", command, Output::Remembered, Ending::TOOL)?.wait(signals).map(drop)
}

/// Runs [`ROLES`] in single-user mode, which needs neither a running server nor a client.
fn create_roles(found: &Program, data: &DataDir, cluster: &Path, signals: &Signals) -> Result<()> {
    let statements = data.root().join("run/roles.sql");
    fs::write(&statements, ROLES).context(|| format!("write {}", statements.display()))?;
    let input = File::open(&statements).context(|| format!("read {}", statements.display()))?;
    let mut command = as_server_user(&found.path, data);
    command
        .arg("--single")
        .args(["-c", "exit_on_error=on", "-c", "log_checkpoints=off", "-D"])
        .arg(cluster)
        .arg("postgres")
        .stdin(input);
    Child::spawn("postgres --single", command, Output::Remembered, Ending::TOOL)?.wait(signals)?;
    fs::remove_file(&statements).context(|| format!("remove {}", statements.display()))
}

/// A command with the server's user and directory, and without settings that libpq or the locale would take from us.
fn as_server_user(path: &Path, data: &DataDir) -> Command {
    let mut command = program(path);
    if let Some(account) = data.account() {
        command.uid(account.uid).gid(account.gid);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").current_dir(data.sockets());
    command
}

/// Ends a server that a killed launcher left behind, and removes its traces. We hold the lock of the data directory,
/// so nobody else uses its cluster.
fn end_leftover(data: &DataDir, signals: &Signals) -> Result<()> {
    let Ok(file) = fs::read_to_string(pid_file(data)) else {
        return Ok(());
    };
    let pid = file.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    if let Some(pid) = pid.filter(|pid| is_postgres(*pid, data)) {
        step("Stopping", format_args!("a PostgreSQL (process {pid}) that was left behind"));
        os::send(pid, Signal::Interrupt);
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_postgres(pid, data) {
            if Instant::now() > deadline {
                return Err(Error::new(format!(
                    "PostgreSQL (process {pid}) still uses {}",
                    data.postgres().display()
                ))
                .fix(format!("end it: kill -QUIT {pid}")));
            }
            signals.wait(Duration::from_millis(20));
        }
    }
    // The number in a stale file may by now belong to another program, for which PostgreSQL would refuse to start.
    for stale in [pid_file(data), socket(data), data.sockets().join(".s.PGSQL.5432.lock")] {
        let _was_not_there = fs::remove_file(stale);
    }
    Ok(())
}

/// Whether this process is a PostgreSQL that runs our cluster.
fn is_postgres(pid: u32, data: &DataDir) -> bool {
    if cfg!(target_os = "linux") {
        let process = PathBuf::from(format!("/proc/{pid}"));
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data.postgres())
            && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres")
    } else {
        UnixStream::connect(socket(data)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_directory_is_the_host_of_the_url() {
        assert_eq!(
            url(Path::new("/tmp/tasktracker-1a"), "tasktracker_app", "tasktracker"),
            "postgres://tasktracker_app@%2Ftmp%2Ftasktracker-1a/tasktracker"
        );
    }
}
