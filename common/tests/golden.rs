//! Golden payloads (goals R41): during a deploy, and for as long as a job may wait, this build reads what an earlier one
//! has written. `golden/jobs/<kind>.json` lists the arguments of a kind in every form that was ever released, the
//! newest last.

use std::{collections::BTreeSet, fs, path::PathBuf};

use common::jobs::{AnyJob, KINDS};
use serde_json::Value;

/// Kinds of test builds, which are never released.
const UNRELEASED: &[&str] = &["probe"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jobs")
}

fn released() -> impl Iterator<Item = &'static str> {
    KINDS.iter().copied().filter(|kind| !UNRELEASED.contains(kind))
}

/// The forms of a kind's arguments, the newest last.
fn forms(kind: &str) -> Result<Vec<Value>, String> {
    let path = format!("common/tests/golden/jobs/{kind}.json");
    let text = fs::read_to_string(folder().join(format!("{kind}.json"))).map_err(|_| {
        format!(
            "{path} is missing. A new kind needs it: a JSON array with one example of its arguments, every field set, \
             as `serde_json::to_value` writes them. It is what a later build has to read."
        )
    })?;
    let forms: Vec<Value> =
        serde_json::from_str(&text).map_err(|error| format!("{path} is not a JSON array: {error}"))?;
    if forms.is_empty() { Err(format!("{path} is empty: add an example")) } else { Ok(forms) }
}

/// What is wrong with the golden file of a kind.
fn problem(kind: &str, forms: &[Value]) -> Option<String> {
    let path = format!("common/tests/golden/jobs/{kind}.json");
    for (index, form) in forms.iter().enumerate() {
        let decoded = match AnyJob::decode(kind, form.clone()) {
            Some(Ok(job)) => job,
            Some(Err(error)) => {
                return Some(format!(
                    "{path}, entry {index}, cannot be read any more: {error}. Such jobs may be waiting. Keep the field \
                     (`#[serde(alias)]`, `#[serde(default)]`), or make a new kind; never change what the file holds."
                ));
            }
            None => return Some(format!("{path}: there is no kind `{kind}` any more")),
        };
        let is_newest = index + 1 == forms.len();
        let written = serde_json::to_value(&decoded).unwrap_or_default()["args"].clone();
        if is_newest && written != *form {
            return Some(format!(
                "the payload of `{kind}` has changed: this build writes {written}, and the newest form in {path} is \
                 {form}. Append the new form there, every field set, and leave the others as they are."
            ));
        }
    }
    None
}

#[test]
fn every_payload_that_was_ever_released_can_be_read() {
    let problems: Vec<String> = released()
        .filter_map(|kind| match forms(kind) {
            Ok(forms) => problem(kind, &forms),
            Err(problem) => Some(problem),
        })
        .collect();
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

#[test]
fn no_released_kind_has_gone() {
    let kinds: BTreeSet<String> = released().map(str::to_owned).collect();
    let entries = fs::read_dir(folder()).unwrap_or_else(|error| panic!("{}: {error}", folder().display()));
    let files = entries.map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().trim_end_matches(".json").to_owned()
    });
    for kind in files {
        assert!(
            kinds.contains(&kind),
            "`{kind}` was released and is no kind any more: jobs of it may be waiting, and would be parked for ever. Keep \
             it in `jobs!` until none is left; then remove its golden file with it."
        );
    }
}

#[test]
fn a_change_of_a_payload_is_caught() {
    let golden = forms("send_reminder").unwrap();
    assert_eq!(problem("send_reminder", &golden), None);
    let renamed: Value =
        serde_json::from_str(&golden[0].to_string().replace("user_id", "person_id")).unwrap();
    assert!(problem("send_reminder", &[renamed]).unwrap().contains("cannot be read any more"));
    let mut lost = golden[0].clone();
    lost["channel"] = "email".into();
    assert!(problem("send_reminder", &[lost.clone()]).unwrap().contains("has changed"));
    // Only the newest form has to be what this build writes.
    assert_eq!(problem("send_reminder", &[lost, golden[0].clone()]), None);
    assert!(forms("teleport").unwrap_err().contains("A new kind needs it"));
}
