//! What source files may say, and how they may be called (CONTRIBUTING.md).

use crate::{
    lexer::parts,
    workspace::{File, paths, read, rust_files},
};

/// The one file that asks for the time (design §4.4).
const CLOCK: &str = "common/src/clock.rs";

/// Whether a file holds tests and nothing else.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/testing")
}

/// The text in front of `#[cfg(test)] mod …`: what is compiled into programs.
fn without_unit_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// Fails with all findings at once.
fn refuse(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}

/// What `find` says about each line of code.
fn lines(files: &[File], find: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let found = |file: &File| -> Vec<String> {
        let code = parts(&file.text).code;
        let hits = code.iter().filter(|(_, line)| find(file, line));
        hits.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())).collect()
    };
    files.iter().flat_map(found).collect()
}

#[test]
fn only_the_clock_asks_for_the_time() {
    let asks = ["Utc::now", "Local::now", "SystemTime::now", "dsl::now"];
    let mut findings = Vec::new();
    for file in rust_files().iter().filter(|file| file.path != CLOCK) {
        let code = parts(&file.text).code;
        for (index, (number, line)) in code.iter().enumerate() {
            // An argued exception stands right above: #[expect(clippy::disallowed_methods, reason = …)].
            let argued = code[index.saturating_sub(5)..=index]
                .iter()
                .any(|(_, l)| l.contains("clippy::disallowed_methods"));
            if asks.iter().any(|ask| line.contains(ask)) && !argued {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    refuse("time is an argument: take it from common::clock::Clock", findings);
}

/// Whether SQL asks the server for the time, other than by the expression of `clock.rs`.
fn asks_the_server(sql: &str) -> bool {
    let sql = sql.to_lowercase();
    let functions =
        ["now()", "transaction_timestamp()", "statement_timestamp()", "current_timestamp", "current_date"];
    functions.iter().any(|function| {
        sql.match_indices(function).any(|(at, _)| {
            let before = sql[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "_.:`".contains(c))
        })
    })
}

fn in_strings(allowed: impl Fn(&str) -> bool, find: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for file in rust_files().iter().filter(|file| !is_test(&file.path) && !allowed(&file.path)) {
        for (line, text) in parts(without_unit_tests(&file.text)).strings {
            if find(&text) {
                let head: String = text.trim().chars().take(60).collect();
                findings.push(format!("{}:{line}: {}", file.path, head.replace('\n', " ")));
            }
        }
    }
    findings
}

#[test]
fn sql_decides_by_the_clock_that_it_is_given() {
    let findings = in_strings(|path| path == CLOCK, asks_the_server);
    refuse("write {now} and pass clock.now(), which is coalesce($n, now()) (design §4.4)", findings);
}

#[test]
fn only_leases_use_real_time() {
    // Whether a worker lives is measured by real time also in a test; when something is due is not.
    let findings =
        in_strings(|_| false, |text| text.contains("clock_timestamp") && !text.contains("alive_until"));
    refuse("clock_timestamp() is for alive_until alone (design §4.4)", findings);
}

#[test]
fn the_server_is_caught_asking() {
    for sql in ["WHERE fire_at <= now()", "now()", "(now() - x)", "SELECT CURRENT_TIMESTAMP", "x =\nnow()"] {
        assert!(asks_the_server(sql), "{sql}");
    }
    for sql in ["coalesce({now}, x)", "clock.now()", "pg_now()", "use `now()`", "Utc::now()"] {
        assert!(!asks_the_server(sql), "{sql}");
    }
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let long =
        rust_files().into_iter().filter(|file| file.path != "common/src/schema.rs").filter_map(|file| {
            let lines = file.text.lines().count();
            (lines > 500).then(|| format!("{} has {lines} lines", file.path))
        });
    refuse("split the noun into a folder of the same name", long.collect());
}

#[test]
fn nothing_is_named_after_a_kind_of_code() {
    let refused = [
        "dto",
        "dtos",
        "handler",
        "handlers",
        "helper",
        "helpers",
        "misc",
        "model",
        "models",
        "repositories",
        "repository",
        "service",
        "services",
        "shared",
        "type",
        "types",
        "util",
        "utils",
    ];
    let findings = paths().into_iter().filter(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        refused.contains(&name.split('.').next().unwrap_or(name))
    });
    refuse("name it after what it is about (CONTRIBUTING.md)", findings.collect());
}

#[test]
fn lints_are_not_silenced() {
    let findings = lines(&rust_files(), |_, line| line.contains("[allow(") || line.contains("[ignore"));
    refuse("write #[expect(lint, reason = \"…\")]; a test is mended, not ignored", findings);
}

/// Fields that would show a secret, in structs that derive a `Debug`. What is a `SecretString` shows nothing.
fn shown_secrets(code: &[(usize, String)]) -> Vec<usize> {
    const SECRET: [&str; 6] =
        ["password", "current_password", "new_password", "token", "refresh_token", "access_token"];
    let (mut derives, mut inside, mut found) = (false, false, Vec::new());
    for (number, line) in code {
        let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if line.starts_with("#[derive(") {
            derives = line.contains("Debug");
        } else if line.starts_with("struct ") {
            inside = derives && line.ends_with('{');
            derives = false;
        } else if line.starts_with('}') {
            inside = false;
        }
        let field = line
            .split_once(": ")
            .filter(|(_, kind)| kind.contains("String") && !kind.contains("SecretString"));
        if inside && field.is_some_and(|(name, _)| SECRET.contains(&name)) {
            found.push(*number);
        }
    }
    found
}

#[test]
fn no_struct_with_a_secret_can_be_printed() {
    let findings = rust_files()
        .into_iter()
        .filter(|file| !is_test(&file.path) && !file.path.starts_with("dev/"))
        .flat_map(|file| {
            let numbers = shown_secrets(&parts(without_unit_tests(&file.text)).code);
            numbers.into_iter().map(move |number| format!("{}:{number}", file.path)).collect::<Vec<_>>()
        });
    refuse("leave `Debug` out of its derive: it would end up in a log", findings.collect());

    let code = |text: &str| -> Vec<(usize, String)> { parts(text).code };
    let secret =
        "#[derive(Debug, Deserialize)]\nstruct Login {\n    email: String,\n    password: String,\n}\n";
    assert_eq!(shown_secrets(&code(secret)).len(), 1);
    assert!(shown_secrets(&code(&secret.replace("Debug, ", ""))).is_empty());
    assert!(shown_secrets(&code(&secret.replace("password: String", "password: SecretString"))).is_empty());
}

#[test]
fn only_backend_and_runner_know_apalis() {
    let knows = |path: &str| {
        path.starts_with("worker/src/backend") || path == "worker/src/runner.rs" || path.starts_with("tests/")
    };
    let findings = lines(&rust_files(), |file, line| !knows(&file.path) && line.contains("apalis"));
    refuse("the queue is apalis's only in worker/src/backend.rs and runner.rs (ADR 2)", findings);
}

#[test]
fn processes_do_not_depend_on_each_other() {
    let processes = ["api", "worker", "scheduler"];
    let mut findings = Vec::new();
    for process in processes {
        let manifest = read(&format!("{process}/Cargo.toml"));
        let dependencies = manifest.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        for other in processes.iter().filter(|other| **other != process) {
            let named =
                |line: &str| line.strip_prefix(other).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
            if dependencies.lines().any(named) {
                findings.push(format!("{process} depends on {other}"));
            }
        }
    }
    refuse("what two processes share is in common (design §1)", findings);
}
