//! Proof that the README tells the truth: its session is run as it stands there, what it prints is compared with what
//! the README says, and the mail it promises has to come.
//!
//! - `session`: the commands and the expected output, as the README has them.
//! - `shell`: running them.
//! - `reminder`: the mail, and its time.

mod reminder;
mod session;
mod shell;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use reminder::Reminder;
use session::Session;

/// Where the README says the API is.
const DOCUMENTED_API: &str = "127.0.0.1:8000";
/// Where the README says the mail page is.
const DOCUMENTED_MAIL: &str = "127.0.0.1:8025";

/// Arguments of `tasktracker-dev smoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The README with the session
    #[arg(long, value_name = "FILE", default_value = "README.md")]
    pub readme: PathBuf,
    /// What `cargo dev` wrote about the running system
    #[arg(long, value_name = "FILE", default_value = ".data/run/dev.json")]
    pub dev_json: PathBuf,
}

/// The part of `.data/run/dev.json` that is needed here.
#[derive(Debug, Deserialize)]
struct Dev {
    /// `null` where only a part of the system was started.
    api_url: Option<String>,
    mail_url: Option<String>,
}

/// Runs the README's session against the system that `dev_json` describes.
///
/// # Errors
/// When a file cannot be read, a command fails, something expected is not printed, or the reminder's mail is early, or
/// later than 30 s, or missing. The message shows the command, what was printed and what was expected.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let readme = read(&args.readme)?;
    let dev: Dev = serde_json::from_str(&read(&args.dev_json)?)
        .with_context(|| format!("{} is not what `cargo dev` writes", args.dev_json.display()))?;
    let needed = |url: Option<String>, what: &str| {
        url.with_context(|| {
            format!("{} names no {what}; start `cargo dev` without --only", args.dev_json.display())
        })
    };
    let api_url = needed(dev.api_url, "api_url")?;
    let mail_url = needed(dev.mail_url, "mail_url")?;

    let name = args.readme.display().to_string();
    let session = Session::extract(&readme).with_context(|| name.clone())?;
    let session =
        session.moved(&[(DOCUMENTED_API, authority(&api_url)), (DOCUMENTED_MAIL, authority(&mail_url))]);

    let printed = shell::run(&session).await.with_context(|| format!("{name} does not work as written"))?;
    let reminder = Reminder::find(&printed)?;
    let late = reminder.await_mail(&mail_url).await?;

    writeln!(
        std::io::stdout(),
        "smoke: the {} steps of {name} work as written; the mail came {:.1} s after its time",
        session.steps.len(),
        late.as_seconds_f64(),
    )?;
    Ok(())
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `host:port` of a URL without a path.
fn authority(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}
