//! A private Redis or Valkey on a Unix socket, with an append-only file and without eviction.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::children::{Child, Ending, Output, program};
use crate::data::{DataDir, make_shared};
use crate::encoding::percent;
use crate::error::{Error, Result};
use crate::probe;
use crate::programs::Program;
use crate::terminal::step;

/// The URL of the server as the crate `redis` reads it.
pub(crate) fn url(sockets: &Path) -> String {
    format!("redis+unix://{}", percent(&socket(sockets).to_string_lossy(), "/"))
}

/// Where the server listens.
pub(crate) fn socket(sockets: &Path) -> PathBuf {
    sockets.join("redis.sock")
}

/// Starts the server.
pub(crate) fn start(found: &Program, data: &DataDir) -> Result<Child> {
    let directory = data.redis();
    make_shared(&directory)?;
    let socket = socket(data.sockets());
    end_leftover(&socket)?;
    step("Starting", format_args!("Redis {} ({})", found.major, found.path.display()));
    let mut command = program(&found.path);
    command.args(["--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--unixsocket"]).arg(socket);
    command.arg("--dir").arg(directory);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    command.args(["--maxmemory-policy", "noeviction"]);
    let output = Output::Logged { file: data.log("redis"), shown: false };
    Child::spawn("redis", command, output, Ending::REDIS)
}

/// Ends a server that a killed launcher left behind: two would write the same append-only file.
fn end_leftover(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while probe::redis_command(socket, "SHUTDOWN").is_ok() {
        if Instant::now() > deadline {
            return Err(Error::new(format!(
                "a Redis that was left behind still answers at {}",
                socket.display()
            ))
            .fix("find it with `pgrep -a redis-server; pgrep -a valkey-server`, and end it"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_path_of_the_url() {
        assert_eq!(url(Path::new("/tmp/tasktracker-1a")), "redis+unix:///tmp/tasktracker-1a/redis.sock");
    }
}
