//! `tasktracker-worker`: runs jobs.

use std::time::Duration;

fn main() -> anyhow::Result<()> {
    // Fails only if it was called before, and there is no other provider in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = common::config::parse::<worker::Config>();
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(worker::serve(config));
    // A handler that holds its thread does not end; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
