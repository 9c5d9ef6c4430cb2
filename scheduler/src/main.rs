//! The scheduler process; everything is in the library, so that tests can drive it.

use std::process::ExitCode;

use common::config::{healthcheck, parse};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    if std::env::args_os().nth(1).is_some_and(|command| command == "healthcheck") {
        return Ok(healthcheck("tasktracker-scheduler", "127.0.0.1:9466"));
    }
    scheduler::run(parse()).await?;
    Ok(ExitCode::SUCCESS)
}
