use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use redis::{ConnectionInfo, IntoConnectionInfo as _};
use tokio::process::{Child, Command};

use super::{Signal, process, until};

/// A Redis of a test's own, on a socket in the cluster's folder, without any file: what is killed is lost. It is killed
/// on drop.
pub struct RedisServer {
    program: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl RedisServer {
    pub(super) async fn start(folder: &Path) -> Self {
        let mut server = Self { program: program(), folder: folder.to_owned(), child: None };
        server.start_again().await;
        server
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    /// Kills it, and waits until the system has taken it away.
    pub async fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("Redis can be killed");
        }
    }

    /// Starts it, empty, at the same place.
    pub async fn start_again(&mut self) {
        let child = Command::new(&self.program)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        self.child = Some(child);
        until("Redis answers", Duration::from_secs(10), async || {
            self.try_command(&["PING"]).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Sends its process a signal. One that is stopped takes connections and commands and answers none: a black hole.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.as_ref().and_then(Child::id), signal);
    }

    /// Runs a command.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let info: ConnectionInfo = self.url().into_connection_info()?;
        let mut conn = redis::Client::open(info)?.get_multiplexed_async_connection().await?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).query_async(&mut conn).await
    }

    /// How long the slowest command since the last `SLOWLOG RESET` took, of those that it keeps; zero if it keeps none.
    /// Which are kept is set by `CONFIG SET slowlog-log-slower-than`.
    pub async fn slowest(&self) -> (Duration, String) {
        let entries: Vec<redis::Value> =
            redis::from_redis_value(self.command(&["SLOWLOG", "GET", "-1"]).await).expect("a list");
        let mut slowest = (Duration::ZERO, String::new());
        for entry in entries {
            let fields: Vec<redis::Value> = redis::from_redis_value(entry).expect("an entry is a list");
            let [_, _, micros, words, ..] = fields.as_slice() else { panic!("an entry has six fields") };
            let took = Duration::from_micros(redis::from_redis_value(micros.clone()).expect("microseconds"));
            if took > slowest.0 {
                let words: Vec<Vec<u8>> = redis::from_redis_value(words.clone()).expect("words");
                let words: Vec<_> = words.iter().take(6).map(|word| String::from_utf8_lossy(word)).collect();
                slowest = (took, words.join(" "));
            }
        }
        slowest
    }
}

/// `TEST_REDIS_SERVER`, as `cargo dev test` sets it, or what this machine has.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || {
        std::env::split_paths(&path)
            .flat_map(|folder| ["valkey-server", "redis-server"].map(|name| folder.join(name)))
            .find(|program| program.exists())
    };
    std::env::var_os("TEST_REDIS_SERVER")
        .map(PathBuf::from)
        .or_else(found)
        .unwrap_or_else(|| panic!("TEST_REDIS_SERVER is not set: run the tests with `cargo dev test`"))
}
