//! How fast the API and the job system are, beside what their servers alone could do on the same machine in the same minutes.
//! Absolute figures depend on the machine and its mood: each round measures everything in turn, and the medians are
//! compared. Nothing here fails by being slow; it prints a table.
//!
//! - `http`: the API.
//! - `jobs`: the job system: what is measured, and against which goal.
//! - `reminders`: how late a thousand reminders of the same instant are.
//! - `history`: what was finished long ago.
//! - `fixture`: a database, a part of Redis, the real worker.
//! - `raw`: the limits, without any code of ours.
//! - `table`: medians and how they are shown.

mod fixture;
mod history;
mod http;
mod jobs;
mod raw;
mod reminders;
mod table;

use std::io::Write as _;

/// Arguments of `tasktracker-dev bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// The job system: jobs a second, and how soon after its commit a job starts
    ///
    /// Needs TEST_DATABASE_URL, TEST_REDIS_URL and TASKTRACKER_BIN_DIR with release binaries of a test build, as
    /// `cargo dev bench jobs` provides them.
    Jobs(jobs::Args),
    /// The API: requests a second, beside pgbench with the same SQL and a bare endpoint
    ///
    /// Needs what `jobs` needs, TEST_POSTGRES_BIN and TASKTRACKER_WRK, as `cargo dev bench http` provides them.
    Http(http::Args),
    /// The endpoint with nothing behind it that `http` compares with
    #[command(hide = true)]
    Bare(http::bare::Args),
}

/// Measures, and prints the table.
///
/// # Errors
/// If a server or the worker fails, or a job was lost or done twice.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    match &args.subject {
        Subject::Jobs(args) => jobs::run(args).await,
        Subject::Http(args) => http::run(args).await,
        Subject::Bare(args) => http::bare::run(args).await,
    }
}

/// A line of progress; nobody has to read it.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
