//! `tasktracker-dev`: the command line of [`tools`]. Arguments, logging and signals only; the work is in the
//! library, so that tests drive it without a process.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use common::shutdown;
use tools::mail_sink::{Credentials, MailSink, Options};
use tools::{bench, check_dashboards, fuzz, seed, smoke};
use tracing_subscriber::EnvFilter;

/// Development programs of TaskTracker.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-dev", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept mail over SMTP, keep it in memory and show it on a page
    ///
    /// Recipients fail on purpose by the part before the @, which may carry a +tag: `bounce@` is refused with 550,
    /// `tempfail@` with 451, the mail to `slow@` is answered late, the mail to `silent@` never.
    MailSink(MailSinkArgs),
    /// Run the README's session against a running `cargo dev` and check what it printed and the mail it sent
    Smoke(smoke::Args),
    /// Fill a running system with a demo user and believable tasks
    Seed(seed::Args),
    /// Use a running `cargo dev --monitor`, and ask its Prometheus everything that the dashboards ask
    CheckDashboards(check_dashboards::Args),
    /// Let Schemathesis try the whole API of a running `cargo dev`
    Fuzz(fuzz::Args),
    /// Measure how fast it is, beside the limits of the servers
    Bench(bench::Args),
}

#[derive(Debug, clap::Args)]
struct MailSinkArgs {
    /// Where to listen for SMTP
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1025")]
    smtp: SocketAddr,
    /// Where to serve the page and its API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8025")]
    http: SocketAddr,
    /// Require this login; without it mail is taken from everybody, and every login is accepted
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Option<Credentials>,
    /// How long a mail to `slow@` waits for its answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    slow_for: u64,
    /// How many mails to keep; older ones are forgotten
    #[arg(long, value_name = "MAILS", default_value_t = Options::default().keep)]
    keep: usize,
    /// The largest mail accepted; a larger one is refused with 552
    #[arg(long, value_name = "BYTES", default_value_t = Options::default().max_size)]
    max_size: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let result = match Cli::parse().command {
        Command::MailSink(args) => mail_sink(args).await,
        Command::Smoke(args) => smoke::run(&args).await,
        Command::Seed(args) => seed::run(&args).await,
        Command::CheckDashboards(args) => check_dashboards::run(&args).await,
        Command::Fuzz(args) => fuzz::run(&args).await,
        Command::Bench(args) => bench::run(&args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // All causes in one line, and no backtrace: whoever reads it wants to know what to do. A terminal that is
            // gone cannot be told.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the sink until SIGTERM or SIGINT.
async fn mail_sink(args: MailSinkArgs) -> anyhow::Result<()> {
    // Before the ports open: a signal sent as soon as they answer must find its handler.
    let stop = shutdown::on_signal().context("cannot listen for signals")?;

    let sink = MailSink::start(Options {
        smtp: args.smtp,
        http: args.http,
        credentials: args.auth,
        slow_for: Duration::from_secs(args.slow_for),
        keep: args.keep,
        max_size: args.max_size,
        ..Options::default()
    })
    .await?;
    for addr in [sink.smtp_addr(), sink.http_addr()] {
        if !addr.ip().is_loopback() {
            tracing::warn!(%addr, "the mail sink is reachable from other machines, and shows every mail to anyone");
        }
    }
    tracing::info!("mail sink ready: SMTP on {}, page on {}", sink.smtp_addr(), sink.http_url());

    stop.cancelled().await;
    sink.stop().await;
    Ok(())
}
