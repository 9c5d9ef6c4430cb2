//! `tasktracker-worker`: runs jobs, or one of its commands.

use std::{ffi::OsString, process::ExitCode, time::Duration};

use common::config::{healthcheck, parse_from};

fn main() -> anyhow::Result<ExitCode> {
    // Fails only if it was called before, and there is no other provider in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let command = arguments.get(1).and_then(|argument| argument.to_str()).unwrap_or_default().to_owned();
    if matches!(&*command, "jobs" | "queues") {
        arguments.remove(1);
    }
    if command == "healthcheck" {
        return Ok(healthcheck("tasktracker-worker", "127.0.0.1:9465"));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let result = match &*command {
        "jobs" => runtime.block_on(worker::shell::jobs(parse_from(arguments))),
        "queues" => runtime.block_on(worker::shell::queues(parse_from(arguments))),
        _ => runtime.block_on(worker::serve(parse_from(arguments))),
    };
    // A handler that holds its thread does not end; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}
