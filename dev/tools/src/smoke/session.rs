//! The session in a README: fenced blocks that are commands to run, and what they print.
//!
//! ````text
//! ```sh session
//! # the commands of a step, as a person would type them
//! ```
//! ```text expected
//! what it prints, … for what differs from run to run
//! ```
//! ````
//! All steps share one shell. A step without an `expected` block only has to succeed. GitHub colours by an info string's
//! first word and hides the second.

use std::fmt;

use anyhow::{bail, ensure};

const COMMANDS: &str = "```sh session";
const EXPECTED: &str = "```text expected";
const FENCE: &str = "```";

/// Stands for any text within a line; alone in a line, for any line.
const ANY: char = '…';

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Where its commands start in the README, counted from 1.
    pub(super) line: usize,
    pub(super) commands: String,
    /// Lines that must be printed in this order; others may come between them.
    pub(super) expected: Vec<String>,
}

impl Session {
    /// # Errors
    /// When there is no session, a fence is left open, or an `expected` block follows no commands.
    pub(super) fn extract(readme: &str) -> anyhow::Result<Self> {
        let mut steps: Vec<Step> = Vec::new();
        let mut lines = readme.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let fence = line.trim_end();
            if fence != COMMANDS && fence != EXPECTED {
                continue;
            }
            let mut block = Vec::new();
            loop {
                match lines.next() {
                    Some((_, line)) if line.trim_end() == FENCE => break,
                    Some((_, line)) => block.push(line.to_owned()),
                    None => bail!("the block that line {} opens is not closed", number + 1),
                }
            }
            if fence == COMMANDS {
                steps.push(Step { line: number + 2, commands: block.join("\n"), expected: Vec::new() });
                continue;
            }
            match steps.last_mut() {
                Some(step) if step.expected.is_empty() => step.expected = block,
                _ => bail!("the block `{EXPECTED}` in line {} follows no `{COMMANDS}`", number + 1),
            }
        }
        ensure!(!steps.is_empty(), "there is no block `{COMMANDS}`");
        Ok(Self { steps })
    }

    /// The same session for a system whose addresses are others than the documented ones.
    pub(super) fn moved(mut self, addresses: &[(&str, &str)]) -> Self {
        for step in &mut self.steps {
            // In two rounds: an actual address may be another's documented one.
            for (number, (documented, _)) in addresses.iter().enumerate() {
                step.commands = step.commands.replace(documented, &placeholder(number));
            }
            for (number, (_, actual)) in addresses.iter().enumerate() {
                step.commands = step.commands.replace(&placeholder(number), actual);
            }
        }
        self
    }
}

impl Step {
    /// Compares what was printed with what was expected.
    ///
    /// # Errors
    /// The first expected line that is missing.
    pub(super) fn check(&self, printed: &str) -> Result<(), Missing> {
        let mut printed = printed.lines();
        for expected in &self.expected {
            if !printed.any(|line| matches(expected.trim_end(), line.trim_end())) {
                return Err(Missing(expected.clone()));
            }
        }
        Ok(())
    }
}

/// An expected line that was not printed after the ones before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing(pub(super) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this line was not printed, or not after the ones before it: {}", self.0)
    }
}

/// A text that no README contains.
fn placeholder(number: usize) -> String {
    format!("\u{1}{number}\u{1}")
}

/// Whether a whole line fits a pattern with [`ANY`].
fn matches(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split(ANY);
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# Title\n```sh\nnot run\n```\n```sh session\nA=1\n# why\necho 127.0.0.1:8000 127.0.0.1:8025\n```\n\
                          It says:\n```text expected\n127…\n…\nend\n```\n```sh session\ntrue\n```\n";

    #[test]
    fn steps_are_the_marked_blocks_in_order() {
        let session = Session::extract(README).unwrap();
        assert_eq!(
            session.steps,
            [
                Step {
                    line: 6,
                    commands: "A=1\n# why\necho 127.0.0.1:8000 127.0.0.1:8025".into(),
                    expected: vec!["127…".into(), "…".into(), "end".into()],
                },
                Step { line: 17, commands: "true".into(), expected: vec![] },
            ]
        );
    }

    #[test]
    fn a_readme_without_a_sound_session_is_refused() {
        for (readme, message) in [
            ("# Title\n", "there is no block"),
            ("```sh session\ntrue\n", "line 1 opens is not closed"),
            ("```text expected\na\n```\n", "line 1 follows no"),
            (
                "```sh session\ntrue\n```\n```text expected\na\n```\n```text expected\nb\n```\n",
                "line 7 follows no",
            ),
        ] {
            let error = Session::extract(readme).unwrap_err().to_string();
            assert!(error.contains(message), "{readme:?}: {error}");
        }
    }

    #[test]
    fn addresses_are_moved_even_onto_each_other() {
        let session = Session::extract(README).unwrap();
        let moved =
            session.moved(&[("127.0.0.1:8000", "127.0.0.1:8025"), ("127.0.0.1:8025", "127.0.0.1:9025")]);
        assert!(
            moved.steps[0].commands.ends_with("echo 127.0.0.1:8025 127.0.0.1:9025"),
            "{}",
            moved.steps[0].commands
        );
    }

    #[test]
    fn a_pattern_fits_the_whole_line() {
        for (pattern, line, expected) in [
            ("", "", true),
            ("", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a…c", "ac", true),
            ("a…c", "abcbc", true),
            ("a…c", "abcd", false),
            ("…", "", true),
            ("…\"id\":…", "{\"id\":1}", true),
            ("a…b…c", "a-c-b", false),
            ("ab…bc", "abc", false),
        ] {
            assert_eq!(matches(pattern, line), expected, "{pattern:?} {line:?}");
        }
    }

    #[test]
    fn expected_lines_come_in_order_with_others_between() {
        let expected = |lines: &[&str]| Step {
            line: 1,
            commands: String::new(),
            expected: lines.iter().map(|&line| line.to_owned()).collect(),
        };
        assert_eq!(expected(&["a", "c"]).check("a\nb\nc\n"), Ok(()));
        assert_eq!(expected(&["c", "a"]).check("a\nb\nc\n"), Err(Missing("a".into())));
        assert_eq!(expected(&["a", "a"]).check("a\nb\n"), Err(Missing("a".into())));
    }
}
