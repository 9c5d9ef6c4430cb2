//! The scheduler process; everything is in the library, so that tests can drive it.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    scheduler::run(common::config::parse()).await
}
