//! Running Schemathesis. Its progress and what it finds is on the terminal; what it counted is read from its report.

use std::{fmt::Write as _, ops::AddAssign, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::account::Account;

/// Checks that are left out, and why.
const LEFT_OUT: &[(&str, &str)] = &[(
    "ensure_resource_availability",
    "what a replayed answer says was created (`Idempotency-Key`) may have been deleted since",
)];

/// Statuses that are fine beside those that a check expects, and why.
const ALSO_FINE: &[(&str, &str, &str)] = &[
    (
        "positive_data_acceptance",
        r#""2xx", "3xx", 400, 401, 403, 404, 409, 410, 412, 422, 429, 503"#,
        "no schema says which project the caller sees, which password is easy to guess, which cursor was signed, or which \
         version is current",
    ),
    (
        "negative_data_rejection",
        "400, 401, 403, 404, 405, 409, 410, 412, 413, 415, 422, 429",
        "what is not the current version (412) is not looked at further, and a link that is not good (410) neither",
    ),
];

/// Of requests by themselves.
const SINGLE: &str = "examples,coverage,fuzzing";
/// Of chains of requests.
const CHAINED: &str = "stateful";
/// So many chains in a round for one request that is tried of each operation. They follow the document's own links: those
/// that can be inferred beside them are a thousand, and would leave to chance which are tried.
const CHAINS: u32 = 10;
/// So many rounds: one ends early when a chain, repeated, goes otherwise, as what it makes is there already.
pub(super) const ROUNDS: u16 = 5;

/// How to run it.
pub(super) struct Schemathesis<'a> {
    /// Where it is installed.
    pub(super) installed: &'a Path,
    /// Where its files may be.
    pub(super) files: &'a Path,
    pub(super) api: &'a str,
    pub(super) max_examples: u32,
    pub(super) seed: u16,
}

/// What it found: kinds of failure by what they are about, and how many requests it made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) requests: u64,
    pub(super) server_errors: u64,
    /// The answer is not what the document says: its body, type or headers.
    pub(super) schema_violations: u64,
    pub(super) undocumented_statuses: u64,
    /// What another check says, or an error of Schemathesis itself.
    pub(super) other: u64,
}

impl Found {
    pub(super) fn count(self) -> u64 {
        self.server_errors + self.schema_violations + self.undocumented_statuses + self.other
    }
}

impl AddAssign for Found {
    fn add_assign(&mut self, more: Self) {
        self.requests += more.requests;
        self.server_errors += more.server_errors;
        self.schema_violations += more.schema_violations;
        self.undocumented_statuses += more.undocumented_statuses;
        self.other += more.other;
    }
}

/// The part of its JSON report that is needed here.
#[derive(Debug, Deserialize)]
struct Report {
    test_cases: Cases,
    failures: Vec<Failure>,
    errors: Vec<Failures>,
}

#[derive(Debug, Deserialize)]
struct Cases {
    generated: u64,
}

#[derive(Debug, Deserialize)]
struct Failure {
    code: String,
    count: u64,
}

#[derive(Debug, Deserialize)]
struct Failures {
    count: u64,
}

impl From<Report> for Found {
    fn from(report: Report) -> Self {
        let mut found = Self { requests: report.test_cases.generated, ..Self::default() };
        for Failure { code, count } in report.failures {
            // Its codes never change their meaning.
            *match code.as_str() {
                "ST101" | "ST102" => &mut found.server_errors,
                "ST103" => &mut found.undocumented_statuses,
                code if ("ST104"..="ST111").contains(&code) => &mut found.schema_violations,
                _ => &mut found.other,
            } += count;
        }
        found.other += report.errors.iter().map(|error| error.count).sum::<u64>();
        found
    }
}

/// By the session that the account has: it may not be able to log in once more.
fn session(account: &Account) -> String {
    format!("[auth.openapi.session]\nbearer = \"{}\"\n", account.access_token)
}

impl Schemathesis<'_> {
    /// Tries all operations but these, each by itself. It may take longer than an access token lives, so it logs in by itself.
    pub(super) async fn try_all_but(&self, spared: &[&str], account: &Account) -> anyhow::Result<Found> {
        let login = format!(
            "[auth.dynamic.openapi.session]\npath = \"/api/v1/auth/login\"\nextract_selector = \"/access_token\"\n\
             payload = {{ email = \"{}\", password = \"{}\" }}\n",
            account.email, account.password
        );
        self.run(account, &login, SINGLE, self.seed, "--exclude-operation-id", spared).await
    }

    /// Tries chains of all operations but these.
    pub(super) async fn try_chains_of_all_but(
        &self,
        spared: &[&str],
        account: &Account,
        round: u16,
    ) -> anyhow::Result<Found> {
        let seed = self.seed.wrapping_add(round);
        self.run(account, &session(account), CHAINED, seed, "--exclude-operation-id", spared).await
    }

    /// Tries these operations alone.
    pub(super) async fn try_only(&self, operations: &[&str], account: &Account) -> anyhow::Result<Found> {
        // One alone leads nowhere.
        let phases = if operations.len() > 1 { format!("{SINGLE},{CHAINED}") } else { SINGLE.to_owned() };
        self.run(account, &session(account), &phases, self.seed, "--include-operation-id", operations).await
    }

    /// `filter` is the option before the name of each of the `operations`.
    async fn run(
        &self,
        account: &Account,
        auth: &str,
        phases: &str,
        seed: u16,
        filter: &str,
        operations: &[&str],
    ) -> anyhow::Result<Found> {
        let (config, report) = (self.files.join("schemathesis.toml"), self.files.join("schemathesis.json"));
        let address = account.address;
        let (requests, chains) = (self.max_examples, self.max_examples.saturating_mul(CHAINS));
        let mut text = format!(
            "[cache]\nenabled = false\n[headers]\nX-Forwarded-For = \"{address}\"\n{auth}\
             [generation]\nmax-examples = {requests}\n\
             [phases.stateful]\ninference = {{ algorithms = [] }}\ngeneration = {{ max-examples = {chains} }}\n"
        );
        for (check, _) in LEFT_OUT {
            writeln!(text, "[checks.{check}]\nenabled = false")?;
        }
        for (check, statuses, _) in ALSO_FINE {
            writeln!(text, "[checks.{check}]\nexpected-statuses = [{statuses}]")?;
        }
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", self.installed)
            .args(["-m", "schemathesis.cli", "--config-file"])
            .arg(&config)
            .args(["run", &format!("{}/openapi.json", self.api)])
            .args(["--seed", &seed.to_string(), "--phases", phases])
            .args(["--continue-on-failure", "--generation-database", "none", "--request-timeout", "30"])
            .args(["--warnings", "off", "--report", "json", "--report-json-path"])
            .arg(&report)
            .args(operations.iter().flat_map(|operation| [filter, operation]))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let status = command.status().await.context("cannot run python3")?;
        ensure!(
            matches!(status.code(), Some(0 | 1)),
            "Schemathesis could not do its work ({status}); is {} for another Python than python3 is now?",
            self.installed.display()
        );
        let report =
            std::fs::read(&report).with_context(|| format!("Schemathesis wrote no {}", report.display()))?;
        let report: Report = serde_json::from_slice(&report).context("the report of Schemathesis")?;
        Ok(report.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind() {
        let report = r#"{"test_cases": {"generated": 9, "errored": 0}, "errors": [{"title": "Network", "count": 2}],
            "failures": [{"code": "ST101", "count": 3}, {"code": "ST108", "count": 4},
                         {"code": "ST103", "count": 5}, {"code": "ST301", "count": 6}]}"#;
        let report: Report = serde_json::from_str(report).unwrap();
        let mut found = Found::from(report);
        found += Found { requests: 1, ..Found::default() };
        let expected = Found {
            requests: 10,
            server_errors: 3,
            schema_violations: 4,
            undocumented_statuses: 5,
            other: 8,
        };
        assert_eq!((found, found.count()), (expected, 20));
    }
}
