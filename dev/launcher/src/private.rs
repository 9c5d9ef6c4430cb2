//! Servers for one run of tests or of a benchmark: empty, and removed afterwards.

use std::path::Path;
use std::process::Command;

use crate::data::TemporaryDir;
use crate::error::{Error, Result};
use crate::monitor::Programs;
use crate::os::Signals;
use crate::programs::Sources;
use crate::servers::postgres::Durability;
use crate::servers::{Servers, Wanted};
use crate::settings::Settings;
use crate::terminal::step;
use crate::workspace::{Workspace, run};

/// Builds the workspace, and runs `command` with `TEST_DATABASE_URL`, `TEST_POSTGRES_BIN` (the directory of the server's
/// programs), `TEST_REDIS_URL`, `TEST_REDIS_SERVER` (the program) and `TASKTRACKER_BIN_DIR`.
pub(crate) fn run_with_servers(
    purpose: &str,
    durability: Durability,
    release: bool,
    workspace: &Workspace,
    signals: &Signals,
    command: impl FnOnce() -> Result<Command>,
) -> Result<()> {
    let directory = TemporaryDir::new(purpose)?;
    let data = directory.data();
    let mut servers = Servers::default();
    let wanted = Wanted { postgres: true, redis: true, durability };
    let result = servers
        .start(wanted, Settings::Ours, data, &workspace.tools()?, signals)
        .and_then(|()| workspace.build(release, signals))
        .and_then(|()| servers.wait_ready(data, signals))
        .and_then(|()| {
            let postgres_bin = servers.postgres_program.as_deref().and_then(Path::parent);
            let (Some(database), Some(postgres_bin), Some(redis), Some(redis_program)) =
                (&servers.superuser_url, postgres_bin, &servers.redis_url, &servers.redis_program)
            else {
                return Err(Error::new("the private servers have no URL"));
            };
            let mut command = command()?;
            if purpose == "test" {
                // Tests of alerts are skipped where nothing can be had.
                match Programs::find(&workspace.tools()?, signals) {
                    Ok(found) => {
                        command.env("TEST_PROMETHEUS", found.prometheus);
                        command.env("TEST_ALERTMANAGER", found.alertmanager);
                    }
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => step("Skipping", format_args!("tests of alerts: {error}")),
                }
            }
            if ["test", "scenario"].contains(&purpose) {
                // So is the one behind nginx.
                match Sources::from_env()?.nginx(&workspace.tools()?, signals) {
                    Ok(found) => drop(command.env("TEST_NGINX", found)),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => step("Skipping", format_args!("tests behind nginx: {error}")),
                }
            }
            let binaries = workspace.binaries(release).display().to_string();
            Settings::Ours.apply(
                &mut command,
                &[
                    ("TEST_DATABASE_URL", database.clone()),
                    ("TEST_POSTGRES_BIN", postgres_bin.display().to_string()),
                    ("TEST_REDIS_URL", redis.clone()),
                    ("TEST_REDIS_SERVER", redis_program.display().to_string()),
                    ("TASKTRACKER_BIN_DIR", binaries),
                ],
            );
            run(purpose, command, signals)
        });
    servers.stop(&signals.begin_stop());
    if matches!(result, Err(Error::Told { .. })) {
        directory.keep_logs();
    }
    result
}
