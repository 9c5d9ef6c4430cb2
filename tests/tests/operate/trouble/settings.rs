use std::net::{Ipv4Addr, TcpListener};

use chaos::cluster::Program;
use common::testing::setting;
use tokio::process::Command;

const PROGRAMS: [Program; 3] = [Program::Api, Program::Worker, Program::Scheduler];

/// Settings that each program takes.
fn good() -> Vec<(&'static str, String)> {
    let texts = [
        ("DATABASE_URL", "postgres://tasktracker_app@127.0.0.1:1/tasktracker"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("SECRET_KEYS", "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("PUBLIC_URL", "https://tasks.example.com"),
        ("INTERNAL_BIND", "127.0.0.1:0"),
        ("BIND", "127.0.0.1:0"),
    ];
    texts.map(|(name, value)| (name, value.to_owned())).into()
}

/// Runs a program until it ends by itself: its exit code, and what it said.
async fn ends(
    program: Program,
    arguments: &[&str],
    further: &[(&'static str, String)],
) -> (Option<i32>, String) {
    let mut settings = good();
    settings.retain(|(name, _)| further.iter().all(|(other, _)| other != name));
    settings.extend(further.iter().filter(|(_, value)| !value.is_empty()).cloned());
    let running = Command::new(program.binary())
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)))
        .envs(settings)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(chaos::cluster::secs(20), running).await;
    let output = output.unwrap_or_else(|_| panic!("{program:?} goes on with {further:?}")).unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), said.concat())
}

/// Everything that is wrong is said at once, with what would be right and without the secrets; the exit code is 2, for a
/// supervisor that should not try again.
#[tokio::test]
async fn wrong_and_missing_settings_end_each_program_and_are_all_named() {
    let wrong = [
        ("DATABASE_URL", "mysql://ann:hunter2@db/tasks".to_owned()),
        ("REDIS_URL", "memcached://:hunter3@cache".to_owned()),
        ("SECRET_KEYS", "k:aHVudGVyNA==".to_owned()),
        ("PUBLIC_URL", String::new()),
        ("DEFAULT_TIME_ZONE", "Mars/Base".to_owned()),
        ("LOG", "loud=very=much".to_owned()),
    ];
    for program in PROGRAMS {
        let (code, said) = ends(program, &[], &wrong).await;
        assert_eq!(code, Some(2), "{program:?}: {said}");
        let mut parts = vec![
            "DATABASE_URL is wrong (not postgres://user:password@host/database",
            "REDIS_URL is wrong (not redis://",
            "DEFAULT_TIME_ZONE is wrong (not a name of the IANA time zone database",
            "LOG is wrong",
            "--help",
        ];
        if program != Program::Scheduler {
            parts.extend(["SECRET_KEYS is wrong", "PUBLIC_URL is missing"]);
        }
        for part in parts {
            assert!(said.contains(part), "{program:?} does not say {part}: {said}");
        }
        for secret in ["hunter", "aHVudGVyNA"] {
            assert!(!said.contains(secret), "{program:?} says {secret}: {said}");
        }
    }
}

/// What shows only when it is used ends the program as well, and names the setting.
#[tokio::test]
async fn what_cannot_be_used_ends_each_program_and_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nowhere = "/nowhere/ca.pem";
    let database = format!("postgres://tasktracker_app@127.0.0.1:1/tasktracker?sslrootcert={nowhere}");
    for program in PROGRAMS {
        for (name, value, parts) in [
            ("INTERNAL_BIND", taken.as_str(), ["INTERNAL_BIND: cannot listen on", &taken]),
            ("REDIS_CA_FILE", nowhere, ["REDIS_CA_FILE", nowhere]),
            ("DATABASE_URL", database.as_str(), ["sslrootcert", nowhere]),
        ] {
            let (code, said) = ends(program, &[], &[(name, value.to_owned())]).await;
            assert_eq!(code, Some(1), "{program:?} with {name}: {said}");
            assert!(parts.iter().all(|part| said.contains(part)), "{program:?} with {name}: {said}");
        }
    }
    let (code, said) = ends(Program::Api, &[], &[("BIND", taken.clone())]).await;
    assert!(code == Some(1) && said.contains("BIND: cannot listen on"), "{said}");
    let mail = [("SMTP_URL", "smtps://mail.example.com"), ("MAIL_FROM", "tasks@example.com")];
    let mut mail = mail.map(|(name, value)| (name, value.to_owned())).to_vec();
    mail.push(("SMTP_CA_FILE", nowhere.to_owned()));
    let (code, said) = ends(Program::Worker, &[], &mail).await;
    assert!(code == Some(1) && said.contains("SMTP_CA_FILE") && said.contains(nowhere), "{said}");
}

/// A command does not wait: whoever typed it is told.
#[tokio::test]
async fn a_migration_that_cannot_begin_says_why() {
    let url = "postgres://tasktracker_owner:hunter2@127.0.0.1:1/tasktracker";
    let (code, said) = ends(Program::Api, &["migrate"], &[("MIGRATE_DATABASE_URL", url.to_owned())]).await;
    assert_eq!(code, Some(1), "{said}");
    for part in
        ["no connection to PostgreSQL at 127.0.0.1:1", "role tasktracker_owner", "MIGRATE_DATABASE_URL"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let standby = setting("TEST_DATABASE_URL").replace("//postgres@", "//tasktracker_owner@");
    let nowhere = standby.rsplit_once('/').unwrap().0.to_owned() + "/no_such_database";
    let (code, said) = ends(Program::Api, &["migrate"], &[("MIGRATE_DATABASE_URL", nowhere)]).await;
    assert!(code == Some(1) && said.contains("make the database"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
