use common::error::Code;
use reqwest::Method;
use serde_json::Value;
use tests::app::TestApp;

/// The committed document is what the code says; `cargo run --bin tasktracker-api -- openapi` writes it.
#[test]
fn the_committed_document_is_current() {
    let committed = include_str!("../../../api/openapi.json");
    assert!(
        api::openapi::json().unwrap() == committed,
        "api/openapi.json is not what the code says: `target/debug/tasktracker-api openapi > api/openapi.json`"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_name_is_of_the_wire() {
    fn walk(value: &Value, referred: &mut Vec<String>, names: &mut Vec<String>) {
        if let Some(reference) = value["$ref"].as_str() {
            referred.push(reference.trim_start_matches('#').to_owned());
        }
        let enumerated = value["enum"].as_array().into_iter().flatten();
        names.extend(enumerated.filter_map(|name| Some(name.as_str()?.to_owned())));
        match value {
            Value::Object(members) => members.values().for_each(|member| walk(member, referred, names)),
            Value::Array(items) => items.iter().for_each(|item| walk(item, referred, names)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&api::openapi::json().unwrap()).unwrap();
    let (mut referred, mut names) = (Vec::new(), Vec::new());
    walk(&document, &mut referred, &mut names);
    assert!(referred.len() > 100 && names.len() > 50, "the walk finds them");
    referred.retain(|reference| document.pointer(reference).is_none());
    assert_eq!(referred, [""; 0]);
    // The macros that declare enums have to hand the renaming on.
    names.retain(|name| name.contains(char::is_uppercase));
    assert_eq!(names, [""; 0]);
}

#[test]
fn no_secret_has_a_field() {
    fn fields(value: &Value, found: &mut Vec<String>) {
        if let Some(properties) = value["properties"].as_object() {
            found.extend(properties.keys().cloned());
        }
        match value {
            Value::Object(members) => members.values().for_each(|member| fields(member, found)),
            Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&api::openapi::json().unwrap()).unwrap();
    let mut found = Vec::new();
    fields(&document, &mut found);
    assert!(found.len() > 30, "the walk finds fields");
    // A webhook's secret is shown once, by a type of its own.
    let shown_once = document["components"]["schemas"]["NewSecret"].to_string().matches("\"secret\"").count();
    let secrets = found.iter().filter(|name| name.contains("secret")).count();
    assert_eq!((secrets, shown_once), (1, 1), "{found:?}");
    assert!(!found.iter().any(|name| name.ends_with("_hash")), "{found:?}");
}

#[tokio::test]
async fn every_problem_has_a_page_and_the_docs_need_no_internet() {
    let app = TestApp::start().await;
    let client = &app.anybody;
    let get = |path: &str| {
        let url = format!("{}{path}", app.url);
        async move { client.send(Method::GET, &url, &[], None).await.assert(200) }
    };
    let index = get("/problems").await.text;
    for code in Code::ALL {
        let path = format!("/problems/{}", code.name().replace('_', "-"));
        assert!(index.contains(&format!("\"{path}\"")), "{code}");
        let page = get(&path).await;
        assert!(
            page.text.contains(code.name())
                && page.header("content-security-policy").starts_with("default-src 'none'")
        );
    }
    let docs = get("/docs/").await.text;
    assert!(!docs.contains("https://"), "{docs}");
    let document: Value = serde_json::from_str(&get("/openapi.json").await.text).unwrap();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
}
