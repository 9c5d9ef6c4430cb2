use std::{net::SocketAddr, path::Path, process::Stdio};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use super::machine::{LOAD_CORE, Pinning};

/// What wrk does with each request.
const SCRIPT: &str = include_str!("load.lua");

/// What came of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// A file of requests for wrk.
#[derive(Clone, Copy)]
pub(super) struct Requests<'a> {
    pub(super) wrk: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) pinning: Pinning,
}

impl Requests<'_> {
    /// Writes down what `send` will send.
    pub(super) fn keep(&self, name: &str, requests: &[String]) -> anyhow::Result<()> {
        ensure!(!requests.is_empty(), "{name}: there is nothing to send");
        let file = self.folder.join(name);
        std::fs::write(&file, requests.join("\0")).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Sends them to `address` over so many connections for so long. Fails if one is not answered well: figures of refusals
    /// would say nothing.
    pub(super) async fn send(
        &self,
        name: &str,
        address: SocketAddr,
        connections: u32,
        seconds: u32,
    ) -> anyhow::Result<Load> {
        let script = self.folder.join("load.lua");
        std::fs::write(&script, SCRIPT)?;
        let mut command: Command = self.pinning.on(LOAD_CORE, self.wrk).into();
        command
            .args(["--threads", "1", "--timeout", "10s", "--script"])
            .arg(&script)
            .arg(format!("--connections={connections}"))
            .arg(format!("--duration={seconds}s"))
            .arg(format!("http://{address}/"))
            .env("BENCH_REQUESTS", self.folder.join(name))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.context("cannot start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(load) = read(&text) else {
            bail!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        };
        let (load, refused) = load;
        ensure!(refused == 0, "{name}: {refused} requests failed at {connections} connections: {text}");
        Ok(load)
    }
}

/// The line that the script writes, and how many requests failed.
fn read(text: &str) -> Option<(Load, u64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "))?;
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [requests, micros, p50, p99, failed] = numbers.try_into().ok()?;
    let load = Load {
        per_second: requests as f64 / (micros as f64 / 1e6),
        p50_ms: p50 as f64 / 1e3,
        p99_ms: p99 as f64 / 1e3,
    };
    Some((load, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_script_is_read() {
        let (load, failed) = read("Running\nRESULT 30000 2000000 500 2500 3\n").unwrap();
        assert_eq!((load.per_second, load.p50_ms, load.p99_ms, failed), (15_000.0, 0.5, 2.5, 3));
        assert!(read("RESULT 1 2\n").is_none() && read("unable to connect\n").is_none());
    }
}
