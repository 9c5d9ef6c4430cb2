//! The settings of this process.

use common::{
    config::{Database, Installation, InternalBind, RedisServer, Telemetry},
    reminders::CATCH_UP_PER_SECOND,
};

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
    /// Mail.
    #[command(flatten)]
    pub mail: Mail,
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
    /// Every minute, enqueue three jobs that leave a line in the files `skip`, `latest` and `all` of this folder, each with
    /// the catch-up policy of that name
    #[cfg(feature = "testing")]
    #[arg(long, value_name = "FOLDER", help_heading = "Test builds")]
    pub probe_every_minute: Option<std::path::PathBuf>,
}

/// What the scheduler lets leave.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mail")]
pub struct Mail {
    /// How many people a second get reminders that are late by more than a minute, after downtime; the others wait their turn
    #[arg(long, env = "CATCH_UP_MAILS_PER_SECOND", default_value_t = CATCH_UP_PER_SECOND, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub catch_up_mails_per_second: u16,
}
