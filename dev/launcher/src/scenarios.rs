//! `cargo dev chaos --scenario R12`: a row of the goals, shown alone. A scenario is a reliability test whose name begins
//! with its row, `r12_…`; what it shows stands in its documentation, and is read from there.

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::os::Signals;
use crate::private;
use crate::servers::postgres::Durability;
use crate::terminal;
use crate::workspace::Workspace;

/// Where they are.
const SOURCES: &str = "tests/tests/reliability";

/// A test that shows a row of the goals.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scenario {
    /// The number of its row.
    row: u32,
    test: String,
    /// The first sentence of its documentation.
    summary: String,
}

/// Runs the scenarios of a row (`R12`, `r12`) against private servers, optimised for `release`; with `list`, says which there are.
pub(crate) fn run(name: &str, release: bool, workspace: &Workspace, signals: &Signals) -> Result<()> {
    let all = find_all(&workspace.root().join(SOURCES))?;
    if name == "list" {
        for Scenario { row, test, summary } in all {
            terminal::say(format_args!("R{row:<3} {test}\n     {summary}"));
        }
        return Ok(());
    }
    let wanted = name.strip_prefix(['R', 'r']).and_then(|number| number.parse::<u32>().ok());
    if !all.iter().any(|scenario| Some(scenario.row) == wanted) {
        let mut rows: Vec<u32> = all.iter().map(|scenario| scenario.row).collect();
        rows.dedup();
        let rows: Vec<String> = rows.iter().map(|row| format!("R{row}")).collect();
        return Err(Error::new(format!("there is no scenario {name:?}"))
            .fix(format!("choose from {}, or list", rows.join(", "))));
    }
    private::run_with_servers("scenario", Durability::None, release, workspace, signals, || {
        let mut command = workspace.cargo();
        command.args(["test", "--package", "tests", "--test", "reliability"]);
        command.args(release.then_some("--release"));
        // One after the other: some measure.
        command.arg(format!("::{}_", name.to_ascii_lowercase())).args(["--", "--test-threads=1"]);
        Ok(command)
    })
}

/// Those in a directory of tests, by row.
fn find_all(directory: &Path) -> Result<Vec<Scenario>> {
    let mut all = Vec::new();
    for file in fs::read_dir(directory).context(|| format!("read {}", directory.display()))? {
        let path = file.context(|| format!("read {}", directory.display()))?.path();
        let source = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        all.extend(find(&source));
    }
    all.sort_by(|a, b| (a.row, &a.test).cmp(&(b.row, &b.test)));
    Ok(all)
}

/// Those of a file.
fn find(source: &str) -> Vec<Scenario> {
    let mut found = Vec::new();
    let mut documentation = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            documentation += if documentation.is_empty() { "" } else { " " };
            documentation += text;
        } else if !line.starts_with("#[") {
            let test = line.strip_prefix("async fn ").and_then(|rest| rest.split('(').next());
            let row = test.and_then(|test| test.strip_prefix('r')?.split_once('_')?.0.parse().ok());
            if let (Some(test), Some(row)) = (test, row) {
                let end = documentation.find(". ").map_or(documentation.len(), |end| end + 1);
                found.push(Scenario { row, test: test.to_owned(), summary: documentation[..end].to_owned() });
            }
            documentation.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_its_row_and_its_first_sentence() {
        let source = "/// R12: a flush\n/// loses nothing. More.\n#[tokio::test]\nasync fn r12_a_flush() {}\n\n\
                      /// No row.\n#[tokio::test]\nasync fn another() {}\nasync fn ready(_: u8) {}\n";
        let expected = Scenario {
            row: 12,
            test: "r12_a_flush".to_owned(),
            summary: "R12: a flush loses nothing.".to_owned(),
        };
        assert_eq!(find(source), [expected]);
    }

    #[test]
    fn every_row_that_promises_one_has_a_scenario() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(SOURCES);
        let rows: Vec<u32> = find_all(&tests).unwrap().iter().map(|scenario| scenario.row).collect();
        for row in (1..=17).chain([19]).chain(25..=29).chain([31, 33, 37, 38]) {
            assert!(rows.contains(&row), "R{row} has no scenario");
        }
    }
}
