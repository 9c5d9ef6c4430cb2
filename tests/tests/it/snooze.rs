use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

fn due(offsets: &[i32]) -> Value {
    let reminders: Vec<Value> =
        offsets.iter().map(|offset| json!({"kind": "relative", "offset_minutes": offset})).collect();
    json!({"title": "Ship", "due": {"date": "2030-01-02", "time": "09:00"}, "reminders": reminders})
}

async fn snooze(person: &Person, task: &Value, wish: Value) -> Value {
    person.post(&format!("{}/snooze", path(task)), wish).await.assert(200).json
}

fn stands(fire: &Value) -> (&str, &str, &str) {
    let text = |name: &str| fire[name].as_str().unwrap_or_default();
    (text("state"), text("reason"), text("fire_at"))
}

#[tokio::test]
async fn the_next_reminder_moves_and_the_others_stay() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due(&[-60, -1440])).await;
    let snoozed = snooze(&ann, &task, json!({"until": "2030-01-01T12:00:00Z"})).await;
    assert_eq!(snoozed["reminder_id"], task["reminders"][1]["id"], "the one that would have come first");
    assert_eq!(stands(&snoozed["fire"]), ("planned", "snoozed", "2030-01-01T12:00:00Z"));
    assert_eq!(snoozed["fire"]["planned_for"], "2030-01-01T09:00:00Z");

    let after = ann.get(&path(&task)).await.assert(200).json;
    assert_eq!(after["due"], task["due"]);
    assert_eq!(after["version"], 2, "the reminders are part of the task");
    assert_eq!(after["reminders"][0], task["reminders"][0]);
    assert_eq!(after["reminders"][1]["fire_at"], "2030-01-01T12:00:00Z");

    app.advance_to("2030-01-01T11:59:59Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-01T12:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    app.advance_to("2030-01-02T08:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
}

#[tokio::test]
async fn a_snooze_outlives_changes_that_do_not_concern_it() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due(&[-60])).await;
    snooze(&ann, &task, json!({"minutes": 90})).await;
    ann.patch(&path(&task), json!({"title": "Ship it"})).await.assert(200);
    ann.post(&format!("{}/reminders", path(&task)), json!({"kind": "relative", "offset_minutes": 5}))
        .await
        .assert(201);
    ann.patch("/me", json!({"time_zone": "Asia/Tokyo"})).await.assert(200);
    assert_eq!(stands(&ann.fires(&task).await[0]), ("planned", "snoozed", "2030-01-01T01:30:00Z"));

    // The due date moves, and its reminders with it.
    ann.patch(&path(&task), json!({"due": {"date": "2030-01-05", "time": "09:00"}})).await.assert(200);
    assert_eq!(stands(&ann.fires(&task).await[0]), ("planned", "", "2030-01-04T23:00:00Z"));
}

#[tokio::test]
async fn what_was_sent_comes_again_in_a_slot_of_its_own() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due(&[0])).await;
    app.advance_to("2030-01-02T09:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    for (slot, time) in [(1, "2030-01-02T10:00:00Z"), (2, "2030-01-02T11:00:00Z")] {
        let fire = &snooze(&ann, &task, json!({"minutes": 60})).await["fire"];
        assert_eq!((stands(fire), &fire["slot"]), (("planned", "snoozed", time), &json!(slot)));
        assert_eq!(ann.get(&path(&task)).await.json["reminders"][0]["fire_at"], time);
        app.advance_to(time).await;
        assert_eq!(app.mail().await.len(), 1);
    }
    let fires = ann.fires(&task).await;
    assert!(fires.len() == 3 && fires.iter().all(|fire| fire["state"] == "sent"), "{fires:?}");

    // It ends with the task.
    snooze(&ann, &task, json!({"minutes": 60})).await;
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    let fires = ann.fires(&task).await;
    assert_eq!(stands(&fires[0]), ("cancelled", "task_done", "2030-01-02T12:00:00Z"));
    ann.act(&format!("{}/reopen", path(&task))).await.assert(200);
    app.advance_to("2030-01-02T13:00:00Z").await;
    assert!(app.mail().await.is_empty());
}

#[tokio::test]
async fn what_a_job_has_already_can_still_be_snoozed() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due(&[0])).await;
    app.db.clock().set(common::testing::at("2030-01-01T23:00:00Z"));
    app.advance_to("2030-01-02T08:59:59Z").await;
    app.db.clock().set(common::testing::at("2030-01-02T09:00:00Z"));
    scheduler::due::queue_due(&app.db, 10).await.unwrap();
    assert_eq!(ann.fires(&task).await[0]["state"], "queued");
    snooze(&ann, &task, json!({"minutes": 5})).await;
    app.work().await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-02T09:05:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
}

#[tokio::test]
async fn a_wish_that_cannot_be_is_explained() {
    let app = TestApp::start_at("2030-01-01T12:00:00Z").await;
    let (ann, bob) = (app.user_in("ann", "Europe/Berlin").await, app.user("bob").await);
    let task = ann.create_task(due(&[0])).await;
    let url = format!("{}/snooze", path(&task));
    for (wish, pointer) in [
        (json!({}), ""),
        (json!({"until": "2030-01-01T15:00:00Z", "minutes": 5}), "/minutes"),
        (json!({"minutes": 0}), "/minutes"),
        (json!({"minutes": -5}), "/minutes"),
        (json!({"minutes": 527_041}), "/minutes"),
        (json!({"minutes": i64::MAX}), "/minutes"),
        (json!({"minutes": 1.5}), "/minutes"),
        (json!({"minutes": "60"}), "/minutes"),
        (json!({"until": "2030-01-01T12:00:00Z"}), "/until"),
        (json!({"until": "2031-01-03T12:00:00Z"}), "/until"),
        // 12:30 in Berlin was half an hour ago.
        (json!({"until": "2030-01-01T12:30"}), "/until"),
        (json!({"until": "tomorrow"}), "/until"),
        (json!({"until": 5}), "/until"),
        (json!({"hours": 1}), "/hours"),
    ] {
        let answer = ann.post(&url, wish.clone()).await.assert_problem(422, "validation_failed");
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{wish}: {}", answer.text);
    }
    assert_eq!(ann.get(&path(&task)).await.json["version"], 1, "nothing half done");

    bob.post(&url, json!({"minutes": 5})).await.assert_problem(404, "not_found");
    app.anybody.post(&url, json!({"minutes": 5})).await.assert_problem(401, "unauthenticated");
    let bare = ann.create_task(json!({"title": "No reminder"})).await;
    ann.post(&format!("{}/snooze", path(&bare)), json!({"minutes": 5}))
        .await
        .assert_problem(409, "no_reminder");
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    ann.post(&url, json!({"minutes": 5})).await.assert_problem(409, "task_closed");
    ann.delete(&path(&task)).await.assert(204);
    ann.post(&url, json!({"minutes": 5})).await.assert_problem(409, "task_deleted");
}

#[tokio::test]
async fn a_local_time_is_the_persons_and_a_retry_happens_once() {
    let app = TestApp::start_at("2030-01-01T12:00:00Z").await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let task = ann.create_task(due(&[0])).await;
    let url = format!("{}/snooze", path(&task));
    let headers = [("idempotency-key", "once")];
    for _ in 0..2 {
        let wish = json!({"until": "2030-01-01T18:00"});
        let answer = ann.send(Method::POST, &url, &headers, Some(wish)).await.assert(200);
        assert_eq!(answer.json["fire"]["fire_at"], "2030-01-01T17:00:00Z");
    }
    assert_eq!(ann.get(&path(&task)).await.json["version"], 2);
}
