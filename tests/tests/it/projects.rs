//! Who sees and changes what, and what becomes of tasks, reminders and webhooks when that changes.

mod losing;
mod members;
mod resource;
mod tasks;

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp};

/// A project of this person's.
async fn project(owner: &Person, name: &str) -> Value {
    owner.post("/projects", json!({"name": name})).await.assert(201).json
}

/// The path of a project.
fn at(project: &Value) -> String {
    format!("/projects/{}", id(project))
}

fn id(thing: &Value) -> &str {
    thing["id"].as_str().unwrap()
}

/// Takes somebody in.
async fn admit(owner: &Person, place: &str, person: &Person, role: &str) {
    put(owner, &format!("{place}/members/{}", person.id), role).await.assert(200);
}

async fn put(owner: &Person, path: &str, role: &str) -> tests::app::Answer {
    owner.send(Method::PUT, path, &[], Some(json!({"role": role}))).await
}

/// The owner, an editor, a viewer and a stranger, and the owner's project.
struct Cast {
    app: TestApp,
    ann: Person,
    eda: Person,
    vic: Person,
    sam: Person,
    project: Value,
}

async fn cast() -> Cast {
    let app = TestApp::start().await;
    let (ann, eda) = (app.user("ann").await, app.user("eda").await);
    let (vic, sam) = (app.user("vic").await, app.user("sam").await);
    let project = project(&ann, "Launch").await;
    admit(&ann, &at(&project), &eda, "editor").await;
    admit(&ann, &at(&project), &vic, "viewer").await;
    Cast { app, ann, eda, vic, sam, project }
}
