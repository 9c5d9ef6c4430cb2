//! The settings of this process.

use common::config::{Database, Installation, InternalBind, RedisServer, Telemetry};

/// Says when: cron jobs, due reminders, and that no job is forgotten. Any number of them may run.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tasktracker-scheduler", version)]
pub struct Config {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: Database,
    /// Redis.
    #[command(flatten)]
    pub redis: RedisServer,
    /// Whose clock the daily jobs follow.
    #[command(flatten)]
    pub installation: Installation,
    /// Logs.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "INTERNAL_BIND",
        default_value = "127.0.0.1:9466",
        value_name = "ADDRESS",
        help_heading = "Logs and probes"
    )]
    pub internal_bind: InternalBind,
    /// Every second, enqueue a job that leaves a line in this file: how tests count the ticks of real processes
    #[cfg(feature = "testing")]
    #[arg(long, value_name = "FILE", help_heading = "Test builds")]
    pub probe_every_second: Option<std::path::PathBuf>,
}
