use std::ffi::OsString;

use api::config::Config;
use common::{
    config::try_parse,
    db::RunQueryDsl as _,
    secrets::SecretKeys,
    testing::setting,
    webhooks::reseal::{Summary, reseal},
};
use diesel::{
    QueryableByName,
    sql_types::{Binary, Nullable, Uuid},
};
use serde_json::json;
use tests::app::TestApp;

/// As `common::testing::secret_keys` has it.
const OLD: &str = "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[derive(QueryableByName)]
struct Sealed {
    #[diesel(sql_type = Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = Binary)]
    secret_enc: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    previous_secret_enc: Option<Vec<u8>>,
}

/// After `reseal` the old key can go: every secret, also the one before a rotation, opens with the new key alone, is the
/// same as before, and a second run finds nothing to do. What no key opens is named and left alone.
#[tokio::test]
async fn after_resealing_the_old_key_can_be_thrown_away() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut secrets = Vec::new();
    for _ in 0..3 {
        let body = json!({ "url": "https://receiver.example/hook", "events": ["task.created"] });
        let made = ann.post("/webhooks", body).await.assert(201).json;
        secrets.push(made["secret"].as_str().unwrap().to_owned());
    }
    let id = ann.get("/webhooks").await.assert(200).json["data"][0]["id"].as_str().unwrap().to_owned();
    let rotated = ann.post(&format!("/webhooks/{id}/rotate-secret"), json!({})).await.assert(200).json;
    secrets.push(rotated["secret"].as_str().unwrap().to_owned());
    secrets.sort();

    let new = format!("new:{}=", "E".repeat(43));
    let both: SecretKeys = format!("{new},{OLD}").parse().unwrap();
    let new: SecretKeys = new.parse().unwrap();
    let before = reseal(&app.db, &new).await.unwrap();
    assert_eq!(
        (before.moved, before.lost.len()),
        (0, 3),
        "without the old key nothing opens, and nothing is touched"
    );
    let moved = reseal(&app.db, &both).await.unwrap();
    assert_eq!(moved, Summary { moved: 4, current: 0, lost: Vec::new() });
    let again = reseal(&app.db, &both).await.unwrap();
    assert_eq!(again, Summary { moved: 0, current: 4, lost: Vec::new() });

    let rows: Vec<Sealed> =
        diesel::sql_query("SELECT id, secret_enc, previous_secret_enc FROM webhook_endpoints")
            .load(&mut app.db.conn().await.unwrap())
            .await
            .unwrap();
    let mut opened: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            [Some(&row.secret_enc), row.previous_secret_enc.as_ref()].map(|sealed| (row.id, sealed))
        })
        .filter_map(|(id, sealed)| new.open(sealed?, id.as_bytes()))
        .map(|plain| String::from_utf8(plain).unwrap())
        .collect();
    opened.sort();
    assert_eq!(opened, secrets);
}

/// `--public-url=…`
fn flag(name: &str, value: &str) -> OsString {
    format!("--{}={value}", name.to_ascii_lowercase().replace('_', "-")).into()
}

/// What `check-config` says of settings: `further` are those that differ.
async fn checked(further: &[(&str, String)]) -> (bool, String) {
    let database = common::testing::TestDatabase::create().await;
    let ours = [
        ("DATABASE_URL", database.app_url.clone()),
        ("REDIS_URL", setting("TEST_REDIS_URL")),
        ("SECRET_KEYS", OLD.to_owned()),
        ("PUBLIC_URL", "https://tasks.example.com".to_owned()),
        ("TRUSTED_PROXIES", "10.0.0.0/8".to_owned()),
    ];
    let mut arguments = vec!["tasktracker-api".into()];
    for (name, value) in ours {
        let other = further.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let value =
            other.map_or(value, |other| if other == "owner" { database.owner_url.clone() } else { other });
        arguments.extend((!value.is_empty()).then(|| flag(name, &value)));
    }
    let is_ours = |name: &str| ["DATABASE_URL", "REDIS_URL", "PUBLIC_URL", "TRUSTED_PROXIES"].contains(&name);
    arguments
        .extend(further.iter().filter(|(name, _)| !is_ours(name)).map(|(name, value)| flag(name, value)));
    let config: Config = try_parse(arguments, &|_| None).unwrap();
    let report = api::check_config(&config).await.unwrap();
    (report.is_good(), report.to_string())
}

#[tokio::test]
async fn a_configuration_is_checked_before_it_is_used() {
    let (good, said) = checked(&[]).await;
    assert!(good && said.contains("PostgreSQL") && said.contains("is current"), "{said}");
    assert!(!said.contains("AAAA"), "{said}");
    for (name, value, wanted_good, part) in [
        ("PUBLIC_URL", "http://tasks.example.com", true, "is not https"),
        ("TRUSTED_PROXIES", "", true, "nobody is trusted"),
        ("REQUIRE_EMAIL_VERIFICATION", "false", true, "everybody may make an account"),
        ("DATABASE_URL", "owner", true, "may change the schema"),
        (
            "DATABASE_URL",
            "postgres://tasktracker_app:hunter2@127.0.0.1:1/tasktracker",
            false,
            "WRONG    DATABASE_URL",
        ),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:1", false, "WRONG    REDIS_URL"),
    ] {
        let (good, said) = checked(&[(name, value.to_owned())]).await;
        assert!(good == wanted_good && said.contains(part), "{name}={value}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
