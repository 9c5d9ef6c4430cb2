use std::collections::BTreeSet;

use common::{
    access::Viewer,
    error::{Error, Result},
    events::{Event, EventType},
    tasks::{NewTask, Task},
    webhooks as hooks,
};
use serde_json::{Value, json};
use tests::app::{TestApp, path};

use super::{at, count, endpoint, event_ids, fan_out, lines, run};

#[tokio::test]
async fn a_change_writes_one_event_and_one_job_however_many_subscribe() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for _ in 0..20 {
        endpoint(&ann, &["task.created"]).await;
    }
    ann.create_task(json!({"title": "One"})).await;
    assert_eq!(count(&app, "events WHERE event_type = 'task.created'").await, 1);
    assert_eq!(count(&app, &format!("jobs WHERE kind = 'fan_out_event' AND lane = '{}'", ann.id)).await, 1);
    assert_eq!(count(&app, "webhook_deliveries").await, 0, "a request makes no deliveries");

    assert_eq!(fan_out(&app).await, 20);
    assert_eq!(fan_out(&app).await, 0, "again");
    let jobs = "webhook_deliveries d JOIN jobs j ON j.id = d.job_id AND j.kind = 'send_webhook'
        AND j.lane = d.endpoint_id::text AND j.args = jsonb_build_object('delivery_id', d.id, 'endpoint_id', d.endpoint_id)";
    assert_eq!((count(&app, jobs).await, count(&app, "jobs WHERE kind = 'send_webhook'").await), (20, 20));
}

#[tokio::test]
async fn fanning_out_twice_at_once_makes_each_delivery_once() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for _ in 0..20 {
        endpoint(&ann, &["task.created"]).await;
    }
    ann.create_task(json!({"title": "One"})).await;
    let event = event_ids(&app).await[0];
    let once = || async {
        let mut tx = app.db.begin().await.unwrap();
        let made = hooks::fan_out(&mut tx, event).await;
        tx.finish(made).await.unwrap();
    };
    tokio::join!(once(), once(), once(), once());
    app.dispatch().await;
    assert_eq!(count(&app, "webhook_deliveries WHERE job_id IS NOT NULL").await, 20);
    assert_eq!(count(&app, "jobs WHERE kind = 'send_webhook'").await, 20);
}

#[tokio::test]
async fn nothing_is_written_if_nobody_subscribes() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    endpoint(&ann, &["task.deleted"]).await;
    endpoint(&bob, &["task.created"]).await;
    let off = endpoint(&ann, &["task.created"]).await;
    run(
        &app,
        &format!("UPDATE webhook_endpoints SET state = 'gone' WHERE id = '{}'", off["id"].as_str().unwrap()),
    )
    .await;
    let other = "INSERT INTO projects (id, name, owner_id, created_at, updated_at) VALUES ('01900000-0000-7000-8000-000000000001', 'Other', ";
    run(&app, &format!("{other} '{}', '2030-01-01Z', '2030-01-01Z')", ann.id)).await;
    let elsewhere = json!({"url": super::URL, "events": ["task.created"], "project_id": "01900000-0000-7000-8000-000000000001"});
    ann.post("/webhooks", elsewhere).await.assert(201);

    let task = ann.create_task(json!({"title": "One"})).await;
    assert_eq!((count(&app, "events").await, count(&app, "jobs").await), (0, 0));
    let paused = endpoint(&ann, &["task.completed"]).await;
    ann.patch(&at(&paused), json!({"state": "paused"})).await.assert(200);
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    assert_eq!(count(&app, "events").await, 1, "the log of what is paused has it");
    app.dispatch().await;
}

#[tokio::test]
async fn an_event_is_rolled_back_with_its_change() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    endpoint(&ann, &["task.created", "task.updated"]).await;
    let viewer = Viewer { user_id: ann.id.parse().unwrap(), project: None };
    let new: NewTask = serde_json::from_value(json!({"title": "One"})).unwrap();
    let mut tx = app.db.begin().await.unwrap();
    let made = Task::create(&mut tx, viewer, &new).await.unwrap();
    let refused: Result<()> = Err(Error::NotFound("reason"));
    assert!(tx.finish(refused).await.is_err() && made.task.version == 1);
    assert_eq!(
        (count(&app, "tasks").await, count(&app, "events").await, count(&app, "jobs").await),
        (0, 0, 0)
    );

    let task = ann.create_task(json!({"title": "Two"})).await;
    let stale = [("if-match", "\"t-7\"")];
    ann.send(reqwest::Method::PATCH, &path(&task), &stale, Some(json!({"title": "x"}))).await.assert(412);
    assert_eq!(count(&app, "events").await, 1);
    app.dispatch().await;
}

#[tokio::test]
async fn each_change_has_its_type_and_says_what_changed() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let all: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    endpoint(&ann, &all).await;
    let task = ann.create_task(json!({"title": "One", "due": "2030-06-01"})).await;
    let path = path(&task);
    ann.patch(&path, json!({"title": "Two", "description": "long", "tags": ["x"], "due": null}))
        .await
        .assert(200);
    for action in ["complete", "complete", "reopen", "archive", "unarchive"] {
        ann.act(&format!("{path}/{action}")).await.assert(200);
    }
    ann.delete(&path).await.assert(204);
    ann.delete(&path).await.assert(204);
    ann.act(&format!("{path}/restore")).await.assert(200);
    ann.patch(&path, json!({"status": "done"})).await.assert(200);
    let absolute = json!({"kind": "absolute", "at": "2030-02-01T00:00:00Z"});
    ann.post(&format!("{path}/reminders"), absolute).await.assert(201);
    app.dispatch().await;
    let types = lines(&app, "SELECT event_type AS line FROM events ORDER BY seq").await;
    let kinds = [
        "created",
        "updated",
        "completed",
        "reopened",
        "archived",
        "restored",
        "deleted",
        "restored",
        "completed",
        "updated",
    ];
    assert_eq!(types, kinds.map(|kind| format!("task.{kind}")));

    let event = load(&app, 1).await;
    let changes = event.changes.clone().unwrap();
    assert_eq!(
        (&changes["title"], &changes["description"], &changes["tags"]),
        (&json!(["One", "Two"]), &Value::Null, &Value::Null)
    );
    assert_eq!((&changes["due"][0]["date"], &changes["due"][1]), (&json!("2030-06-01"), &Value::Null));
    assert_eq!(changes.as_object().unwrap().len(), 4, "{changes}");
    let payload: Value =
        serde_json::from_str(&event.payload(&"https://tasks.example/".parse().unwrap())).unwrap();
    let id = task["id"].as_str().unwrap();
    assert_eq!(payload["data"]["url"], format!("https://tasks.example/api/v1/tasks/{id}"));
    assert_eq!((&payload["data"]["version"], &payload["actor"]["id"]), (&json!(2), &json!(ann.id)));
    assert_eq!(
        (&payload["type"], &payload["timestamp"]),
        (&json!("task.updated"), &json!("2030-01-01T00:00:00Z"))
    );
    assert_eq!(load(&app, 9).await.changes.unwrap(), json!({"reminders": null}));
}

async fn load(app: &TestApp, index: usize) -> Event {
    let id = event_ids(app).await[index];
    Event::load(&mut app.db.conn().await.unwrap(), id).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_payload_has_the_fields_of_its_schema_and_less_than_20_kib() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    endpoint(&ann, &["task.updated"]).await;
    let due = json!({"date": "2030-06-01", "time": "17:00", "zone": "America/Argentina/ComodRivadavia"});
    let task = ann
        .create_task(json!({"title": "\"".repeat(500), "due": due, "description": "x".repeat(60_000)}))
        .await;
    let after = json!({"title": "😀".repeat(500), "description": "y".repeat(60_000), "due": "2030-06-02"});
    ann.patch(&path(&task), after).await.assert(200);
    app.dispatch().await;
    let payload = load(&app, 0).await.payload(&"https://tasks.example".parse().unwrap());
    assert!(payload.len() < 20 * 1024, "{} bytes", payload.len());
    let payload: Value = serde_json::from_str(&payload).unwrap();
    let schema = EventType::TaskUpdated.schema();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&payload), keys(&schema["properties"]));
    assert_eq!(keys(&payload["data"]), keys(&schema["properties"]["data"]["properties"]));
    assert_eq!(
        keys(&payload["data"]["due"]),
        keys(&schema["properties"]["data"]["properties"]["due"]["properties"])
    );
}

#[tokio::test]
async fn a_reminder_that_was_sent_is_an_event() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    endpoint(&ann, &["reminder.fired", "task.updated"]).await;
    let reminders = json!([{"kind": "absolute", "at": "2030-01-01T00:10:00Z"}]);
    let task = ann.create_task(json!({"title": "One", "due": "2030-01-02", "reminders": reminders})).await;
    app.advance_to("2030-01-01T00:10:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    app.dispatch().await;
    let fired = load(&app, 0).await;
    assert_eq!((fired.event_type.as_str(), fired.actor_id), ("reminder.fired", None));
    assert_eq!(
        fired.data["reminder"],
        json!({"id": task["reminders"][0]["id"], "fire_at": "2030-01-01T00:10:00Z"})
    );

    ann.patch("/me", json!({"time_zone": "Asia/Tokyo"})).await.assert(200);
    app.dispatch().await;
    let moved = load(&app, 1).await;
    assert_eq!((moved.event_type.as_str(), &moved.data["version"]), ("task.updated", &json!(2)));
    let at = |index: usize| moved.changes.as_ref().unwrap()["due"][index]["at"].clone();
    assert_ne!(at(0), at(1));
}

#[tokio::test]
async fn access_is_checked_when_deliveries_are_made() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let (hers, his) = (endpoint(&ann, &["task.created"]).await, endpoint(&bob, &["task.created"]).await);
    ann.create_task(json!({"title": "One"})).await;
    run(&app, &format!("UPDATE tasks SET owner_id = '{}'", bob.id)).await;
    assert_eq!(fan_out(&app).await, 1, "whoever may see the task now");
    let told = lines(&app, "SELECT endpoint_id::text AS line FROM webhook_deliveries").await;
    assert_eq!(told, [his["id"].as_str().unwrap()]);
    run(&app, "DELETE FROM webhook_deliveries").await;
    run(&app, "UPDATE users SET is_active = false").await;
    assert_eq!(fan_out(&app).await, 0, "not to accounts that are switched off");
    run(&app, "UPDATE users SET is_active = true").await;
    run(&app, &format!("UPDATE tasks SET owner_id = '{}'", ann.id)).await;
    ann.patch(&at(&hers), json!({"events": ["task.deleted"]})).await.assert(200);
    assert_eq!(fan_out(&app).await, 0, "not to whom it does not concern");
}
