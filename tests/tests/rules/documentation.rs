//! The documents beside the code name tests that exist.

use std::collections::BTreeSet;

use crate::workspace::{read, rust_files};

/// What stands in backticks and looks like a path to a test: `it::tasks::what_is_not_yours_is_not_found`.
fn tests_named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let is_path =
            name.contains("::") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
        is_path && name.rsplit("::").next().is_some_and(|last| last.matches('_').count() >= 2)
    })
}

#[test]
fn the_tests_that_documents_name_exist() {
    let mut functions = BTreeSet::new();
    for file in rust_files() {
        let named = file.text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
        functions.extend(named.map(str::to_owned));
    }
    for document in ["ARCHITECTURE.md", "docs/operations.md", "docs/reliability.md", "docs/security.md"] {
        for name in tests_named(&read(document)) {
            let function = name.rsplit("::").next().unwrap();
            assert!(functions.contains(function), "{document} names the test {name}, which is not there");
        }
    }
    assert!(tests_named(&read("docs/security.md")).count() > 15);
}

/// Of two types with one name, the OpenAPI document holds one, and describes the answers of the other by it.
#[test]
fn every_type_of_the_document_has_a_name_of_its_own() {
    let mut names = BTreeSet::new();
    for file in rust_files() {
        if !file.path.starts_with("api/src") && !file.path.starts_with("common/src") {
            continue;
        }
        for derived in file.text.split("derive(").skip(1) {
            let Some((traits, rest)) = derived.split_once(")]") else { continue };
            if !traits.contains("ToSchema") {
                continue;
            }
            let declared = rest.lines().find_map(|line| {
                let mut words = line.trim().split([' ', '<', '(', '{', ';']);
                words.find(|word| ["struct", "enum"].contains(word)).and_then(|_| words.next())
            });
            let name = declared.unwrap().to_owned();
            // A macro's own.
            if !name.starts_with('$') {
                assert!(names.insert(name.clone()), "{}: there is another {name}", file.path);
            }
        }
    }
    assert!(names.len() > 60, "the walk finds them: {}", names.len());
}
