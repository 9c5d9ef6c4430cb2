//! What an operator relies on, shown with the real programs: alerts arrive, backups can be restored, connections are
//! encrypted, and nothing secret is in a log. A test whose tools are not on the machine says so and is skipped; in CI they
//! are there.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "all of this is test code, also what stands outside of a test's function"
)]

mod alerts;
mod backup;
mod image;
mod keys;
mod logs;
mod tls;
mod trouble;
mod versions;

use std::path::PathBuf;

/// What a test cannot do without; `None`, and a line that says so, where it is not to be had.
///
/// # Panics
/// In CI, where nothing may be skipped.
fn tool(what: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no {what}, and in CI no test is skipped");
        eprintln!("SKIPPED: there is no {what} on this machine");
    }
    found
}

/// Makes a user of the tests' Redis, or gives it another password and ends its connections.
async fn redis_user(name: &str, password: &str) {
    let client = redis::Client::open(common::testing::setting("TEST_REDIS_URL")).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let user =
        ["SETUSER", name, "on", "resetpass", &format!(">{password}"), "~*", "&*", "+@all"].map(str::to_owned);
    redis::cmd("ACL").arg(&user).exec_async(&mut conn).await.unwrap();
    redis::cmd("CLIENT").arg(&["KILL", "USER", name]).exec_async(&mut conn).await.unwrap();
}

/// A program on `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}
