use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::machine::{self, Pinning, SERVER_CORE};

/// What an API needs to run.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) folder: PathBuf,
    pub(super) pinning: Pinning,
    pub(super) variables: Vec<(&'static str, String)>,
}

/// A server on the core of servers. It is killed on drop.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Server {
    /// An API as an installation has it, but for the rate limit and these variables. What it logs is written, and read by nobody.
    pub(super) fn api(settings: &Settings, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let address = free()?;
        let program = settings.folder.join("tasktracker-api");
        let mut command = settings.pinning.on(SERVER_CORE, &program);
        command
            .envs(settings.variables.iter().map(|(name, value)| (*name, value)))
            .envs(variables.iter().copied())
            .env("RATE_LIMIT_PER_MINUTE", "0")
            .env("BIND", address.to_string())
            .env("INTERNAL_BIND", free()?.to_string());
        Self::start(command, &program, address)
    }

    /// The bare endpoint.
    pub(super) fn bare(pinning: Pinning) -> anyhow::Result<Self> {
        let address = free()?;
        let program = std::env::current_exe()?;
        let mut command = pinning.on(SERVER_CORE, &program);
        command.args(["bench", "bare", "--bind", &address.to_string()]);
        Self::start(command, &program, address)
    }

    fn start(mut command: Command, program: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, address })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers this request with 200. `taskset` becomes the program that it starts, so this is the same process.
    pub(super) async fn answers(&mut self, request: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(answer) = self.ask(request).await
                && answer.starts_with("HTTP/1.1 200")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a server has ended: {status}");
            }
            ensure!(Instant::now() < deadline, "a server answers nothing: {:?}", self.ask(request).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a whole request and reads the whole answer.
    pub(super) async fn ask(&self, request: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        let (head, rest) = request.split_once("\r\n").context("a request")?;
        stream.write_all(format!("{head}\r\nconnection: close\r\n{rest}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Its memory, in MiB.
    pub(super) fn pss(&self) -> f64 {
        machine::pss(self.pid()).unwrap_or(f64::NAN)
    }

    /// Its memory when that was most, in MiB.
    pub(super) fn peak_rss(&self) -> f64 {
        machine::peak_rss(self.pid()).unwrap_or(f64::NAN)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
