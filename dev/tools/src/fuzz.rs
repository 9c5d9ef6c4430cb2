//! Proof that the API does what its document says: Schemathesis makes requests from `openapi.json` and looks at every
//! answer, as a user and as an administrator. A server error fails, an answer that is not described fails, and so does
//! reaching too little: what is never answered 2xx was hardly tried.
//!
//! - `account`: who asks.
//! - `reached`: which operations answered 2xx, by the API's own count.
//! - `schemathesis`: running it.

mod account;
mod reached;
mod schemathesis;

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use account::{Account, Role};
use reached::{Operation, Reached};
use schemathesis::{Found, ROUNDS, Schemathesis};

/// Operations that would end, lock out or demote whoever tries them. Each line is tried by an account that is made for it
/// and can be spared, after everything else.
const APART: &[(&[&str], &str)] = &[
    (&["logout"], "ends the session that asks"),
    (&["list_sessions", "end_session"], "may end the session that asks"),
    (&["change_password"], "nobody can log in with the password of before"),
    (&["delete_me", "restore_me"], "deletes who asks"),
    (&["list_users", "update_user"], "may disable or demote who asks, and everybody else"),
];

/// Of all operations, so many per cent have to answer 2xx at least once.
const REACHED: usize = 60;

/// Arguments of `tasktracker-dev fuzz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory in which Schemathesis is installed (`pip install --target`)
    #[arg(long, value_name = "FOLDER")]
    pub schemathesis: PathBuf,
    /// What `cargo dev` wrote about the running system, which should have no data that anybody wants to keep
    #[arg(long, value_name = "FILE", default_value = ".data/run/dev.json")]
    pub dev_json: PathBuf,
    /// Random requests for each operation, and chains of requests
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_examples: u32,
    /// Repeats what chance decided
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u16>,
}

/// The part of `.data/run/dev.json` that is needed here.
#[derive(Debug, Deserialize)]
struct Dev {
    api_url: Option<String>,
    database_url: Option<String>,
    metrics_urls: Vec<String>,
}

/// What one role came to.
#[derive(Default)]
struct Outcome {
    found: Found,
    reached: BTreeSet<Operation>,
}

/// Tries the API of the system that `dev_json` describes.
///
/// # Errors
/// If Schemathesis found something, which it has printed, or too few operations answered 2xx; or if one of the programs
/// cannot be reached.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let dev = std::fs::read_to_string(&args.dev_json)
        .with_context(|| format!("cannot read {}", args.dev_json.display()))?;
    let dev: Dev = serde_json::from_str(&dev)
        .with_context(|| format!("{} is not what `cargo dev` writes", args.dev_json.display()))?;
    let missing = || format!("{} names no API: start `cargo dev` without --only", args.dev_json.display());
    let api = dev.api_url.as_deref().with_context(missing)?;
    let database = dev.database_url.as_deref().with_context(missing)?;
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_fields().1);
    let schemathesis = Schemathesis {
        installed: &args.schemathesis,
        // Beside the description of the system, where nobody else reads.
        files: args.dev_json.parent().unwrap_or(Path::new(".")),
        api,
        max_examples: args.max_examples,
        seed,
    };
    let reached = Reached::new(api, &dev.metrics_urls).await?;
    say(format_args!("{} operations, seed {seed}", reached.operations.len()))?;

    let mut outcomes = Vec::new();
    let mut numbers = 1..;
    let mut account = async |role, purpose: &str| {
        let number = numbers.next().context("there are fewer accounts than numbers")?;
        Account::make(api, database, role, purpose, number).await
    };
    for role in [Role::User, Role::Admin] {
        let mut outcome = Outcome::default();
        let spared: Vec<&str> = APART.iter().flat_map(|(operations, _)| *operations).copied().collect();
        let who = account(role, "fuzz").await?;
        let before = reached.counted().await?;
        outcome.found += schemathesis.try_all_but(&spared, &who).await?;
        // Each by somebody of their own: nobody can log in again and again.
        for round in 0..ROUNDS {
            let who = account(role, &format!("round-{round}")).await?;
            outcome.found += schemathesis.try_chains_of_all_but(&spared, &who, round).await?;
        }
        outcome.reached.extend(reached.since(&before).await?);
        for (operations, why) in APART {
            say(format_args!("{} apart, which {why}", operations.join(", ")))?;
            let who = account(role, &operations.join("-")).await?;
            let before = reached.counted().await?;
            outcome.found += schemathesis.try_only(operations, &who).await?;
            outcome.reached.extend(reached.since(&before).await?);
        }
        outcomes.push((role, outcome));
    }

    say(format_args!(
        "\n{:<6} {:>8}  {:>13}  {:>17}  {:>21}  {:>5}  answered 2xx",
        "", "requests", "server errors", "schema violations", "undocumented statuses", "other"
    ))?;
    let mut wrong = Vec::new();
    for (role, Outcome { found, reached: answered }) in &outcomes {
        let (of, some) = (reached.operations.len(), answered.len());
        let percent = some * 100 / of.max(1);
        say(format_args!(
            "{role:<6} {:>8}  {:>13}  {:>17}  {:>21}  {:>5}  {some} of {of} ({percent} %)",
            found.requests,
            found.server_errors,
            found.schema_violations,
            found.undocumented_statuses,
            found.other
        ))?;
        if found.count() > 0 {
            wrong.push(format!("{} kinds of failure as {role}", found.count()));
        }
        if percent < REACHED {
            wrong.push(format!("{percent} % of the operations answered 2xx as {role}, {REACHED} % have to"));
        }
    }
    for (role, Outcome { reached: answered, .. }) in &outcomes {
        let never: Vec<String> = reached.operations.difference(answered).map(ToString::to_string).collect();
        say(format_args!("\nnever 2xx as {role}:\n  {}", never.join("\n  ")))?;
    }
    let again = format!("cargo dev fuzz --seed {seed} --max-examples {}", args.max_examples);
    ensure!(wrong.is_empty(), "{}; this repeats it: {again}", wrong.join("; "));
    Ok(())
}

fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
