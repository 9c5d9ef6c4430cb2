//! Running a session in one bash, and telling which step printed what.

use std::fmt::Write as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use uuid::Uuid;

use super::session::{Session, Step};

/// The whole session: it waits for a reminder some seconds ahead, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs every step and checks what it printed. Returns all that was printed.
///
/// # Errors
/// When a command fails or an expected line is missing.
pub(super) async fn run(session: &Session) -> anyhow::Result<String> {
    // Printed between the steps; random, so that nothing a command prints can be taken for it.
    let boundary = Uuid::new_v4().simple().to_string();
    let bash = Command::new("bash")
        .args(["-Eeuo", "pipefail", "-c", &script(session, &boundary)])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, bash)
        .await
        .with_context(|| format!("the session took longer than {} s", LIMIT.as_secs()))?
        .context("cannot run bash")?;
    let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
    check(session, &output_text, &boundary, output.status)
}

/// The steps in one script, each followed by the boundary in a line of its own.
fn script(session: &Session, boundary: &str) -> String {
    let mut script = format!(
        "exec 2>&1\ntrap 'status=$?; printf \"\\n%s failed: %s\\n\" {boundary} \"$BASH_COMMAND\"; exit $status' ERR\n"
    );
    for step in &session.steps {
        script.push_str(&step.commands);
        script.push_str("\nprintf '\\n%s\\n' ");
        script.push_str(boundary);
        script.push('\n');
    }
    script
}

fn check(session: &Session, output: &str, boundary: &str, status: ExitStatus) -> anyhow::Result<String> {
    let mut printed_by_step = output.split(boundary);
    let mut all = String::new();
    for step in &session.steps {
        let printed = printed_by_step.next().unwrap_or_default().trim_start_matches('\n');
        let ended = printed_by_step.clone().next();
        match ended {
            Some(rest) if !rest.starts_with(" failed: ") => {}
            rest => {
                let command = rest.and_then(|rest| rest.strip_prefix(" failed: ")).map_or("", str::trim_end);
                let what = format!("a command failed ({status}), at: {command}");
                bail!(report(step, printed, &what));
            }
        }
        if let Err(missing) = step.check(printed) {
            bail!(report(step, printed, &missing.to_string()));
        }
        all.push_str(printed);
    }
    Ok(all)
}

/// The step, what it printed and what it should have printed.
fn report(step: &Step, printed: &str, what: &str) -> String {
    let mut report = format!("line {}: {what}", step.line);
    for (title, text) in
        [("ran", &step.commands), ("printed", &printed.to_owned()), ("expected", &step.expected.join("\n"))]
    {
        if text.trim().is_empty() {
            continue;
        }
        let _ = write!(report, "\n{title}:");
        for line in text.trim_end().lines() {
            let _ = write!(report, "\n  │ {line}");
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_readme(readme: &str) -> Result<String, String> {
        run(&Session::extract(readme).unwrap()).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn steps_share_a_shell_and_are_checked_one_by_one() {
        let printed = run_readme(
            "```sh session\nA=7\nprintf 'no line end'\n```\n```text expected\nno line end\n```\n\
             ```sh session\necho \"A is $A\"\n```\n```text expected\nA is …\n```\n",
        );
        assert_eq!(printed.await.unwrap(), "no line end\nA is 7\n\n");
    }

    #[tokio::test]
    async fn a_failing_command_is_named_with_its_output() {
        let error = run_readme(
            "```sh session\necho before\n```\n```sh session\necho hm >&2\nls /no/such\necho on\n```\n",
        )
        .await
        .unwrap_err();
        assert!(error.starts_with("line 5: a command failed (exit status: 2), at: ls /no/such"), "{error}");
        assert!(error.contains("printed:\n  │ hm\n  │ ls: "), "{error}");
        assert!(!error.contains("│ before"), "{error}");
    }

    #[tokio::test]
    async fn an_unset_variable_is_named() {
        let error = run_readme("```sh session\necho \"$TOKEN_IS_NOT_SET\"\n```\n").await.unwrap_err();
        assert!(error.contains("TOKEN_IS_NOT_SET: unbound variable"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_line_is_shown_with_what_came_instead() {
        let error =
            run_readme("```sh session\necho 401\n```\n```text expected\n201 …\n```\n").await.unwrap_err();
        assert!(error.contains("was not printed, or not after the ones before it: 201 …"), "{error}");
        assert!(error.ends_with("ran:\n  │ echo 401\nprinted:\n  │ 401\nexpected:\n  │ 201 …"), "{error}");
    }
}
