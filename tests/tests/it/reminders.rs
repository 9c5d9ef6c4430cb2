use common::testing::at;
use diesel_async::RunQueryDsl as _;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

fn due(date: &str, time: &str, offset_minutes: i32) -> Value {
    json!({"title": "Ship", "due": {"date": date, "time": time},
           "reminders": [{"kind": "relative", "offset_minutes": offset_minutes}]})
}

async fn states(person: &Person, task: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    person.fires(task).await.iter().map(|fire| (text(&fire["state"]), text(&fire["reason"]))).collect()
}

#[tokio::test]
async fn a_reminder_follows_a_due_date() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due("2030-01-02", "09:00", -60)).await;
    assert_eq!(task["reminders"][0]["fire_at"], "2030-01-02T08:00:00Z");

    app.advance_to("2030-01-02T07:59:59.999999Z").await;
    assert!(app.mail().await.is_empty(), "never early, not even by a microsecond");
    app.advance_to("2030-01-02T08:00:00Z").await;
    let mails = app.mail().await;
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(
        (mail.envelope.to.as_slice(), mail.subject.as_str()),
        (&["ann@example.com".to_owned()][..], "Ship")
    );
    assert!(mail.text.contains("09:00 UTC, in 1 hour"), "{}", mail.text);
    assert!(mail.html.contains("09:00 UTC, in 1 hour"), "{}", mail.html);

    let fires = ann.fires(&task).await;
    assert_eq!((&fires[0]["state"], &fires[0]["late_by_s"]), (&json!("sent"), &json!(0)));
    app.advance_to("2030-01-03T08:00:00Z").await;
    assert!(app.mail().await.is_empty(), "once and only once");
}

#[tokio::test]
async fn one_request_id_leads_from_the_answer_to_the_mail() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("x-request-id", "find-me"), ("traceparent", traceparent.as_str())];
    let task = ann.send(reqwest::Method::POST, "/tasks", &headers, Some(due("2030-01-01", "00:10", 0))).await;
    app.advance_to("2030-01-01T00:10:00Z").await;
    let mail = app.mail().await.pop().unwrap();
    assert_eq!(mail.header("X-Request-Id"), Some("find-me"));
    assert!(mail.header("traceparent").is_some_and(|value| value.contains(trace)));
    assert_eq!(ann.fires(&task.json).await[0]["request_id"], "find-me");
}

/// T11 and T12 of semantics §11.
#[tokio::test]
async fn a_later_due_date_reminds_again_and_an_earlier_one_does_not() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let later = ann.create_task(due("2030-01-01", "10:00", -15)).await;
    let earlier = ann.create_task(due("2030-01-01", "10:00", -15)).await;
    app.advance_to("2030-01-01T09:45:00Z").await;
    assert_eq!(app.mail().await.len(), 1, "one mail for both");

    app.advance_to("2030-01-01T11:00:00Z").await;
    let to = |time: &str| json!({"due": {"date": "2030-01-01", "time": time}});
    ann.patch(&path(&later), to("16:00")).await.assert(200);
    ann.patch(&path(&earlier), to("09:50")).await.assert(200);
    app.advance_to("2030-01-01T15:44:59Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-01T15:45:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    let fires = ann.fires(&later).await;
    let plans: Vec<_> = fires.iter().map(|fire| (&fire["plan_no"], &fire["state"])).collect();
    assert_eq!(plans, [(&json!(2), &json!("sent")), (&json!(1), &json!("sent"))]);
    assert_eq!(ann.fires(&earlier).await.len(), 1);
}

#[tokio::test]
async fn what_is_done_archived_or_deleted_sends_nothing_and_says_why() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for (action, reason) in [("complete", "task_done"), ("archive", "task_archived"), ("", "task_deleted")] {
        let task = ann.create_task(due("2030-01-02", "09:00", 0)).await;
        if action.is_empty() {
            ann.delete(&path(&task)).await.assert(204);
        } else {
            ann.act(&format!("{}/{action}", path(&task))).await.assert(200);
        }
        assert_eq!(states(&ann, &task).await, [("cancelled".to_owned(), reason.to_owned())]);
    }
    let task = ann.create_task(due("2030-01-02", "09:00", 0)).await;
    ann.patch(&path(&task), json!({"due": null})).await.assert(200);
    assert_eq!(states(&ann, &task).await, [("cancelled".to_owned(), "due_removed".to_owned())]);
    app.advance_to("2030-01-02T09:00:00Z").await;
    assert!(app.mail().await.is_empty());
}

#[tokio::test]
async fn a_task_that_is_opened_again_reminds_again_of_what_lies_ahead() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due("2030-01-02", "09:00", 0)).await;
    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    ann.act(&format!("{}/reopen", path(&task))).await.assert(200);
    assert_eq!(states(&ann, &task).await, [("planned".to_owned(), String::new())]);

    ann.act(&format!("{}/complete", path(&task))).await.assert(200);
    app.advance_to("2030-01-02T09:00:01Z").await;
    ann.act(&format!("{}/reopen", path(&task))).await.assert(200);
    app.run_due().await;
    assert!(app.mail().await.is_empty(), "its time passed while it was done");
}

#[tokio::test]
async fn a_reminder_in_the_past_is_sent_if_that_is_just_now_and_else_said() {
    let app = TestApp::start_at("2030-01-01T14:02:00Z").await;
    let ann = app.user("ann").await;
    let just = ann.create_task(due("2030-01-01", "14:00", 0)).await;
    assert!(just.get("warnings").is_none(), "{just}");
    app.run_due().await;
    assert_eq!(app.mail().await.len(), 1);

    let long = ann.create_task(due("2030-01-01", "13:00", 0)).await;
    assert_eq!(long["warnings"][0]["code"], "reminder_in_past");
    assert_eq!(states(&ann, &long).await, [("skipped".to_owned(), "too_late".to_owned())]);
    app.run_due().await;
    assert!(app.mail().await.is_empty());
}

/// T16 of semantics §11: nothing ran from 08:00 to 11:00.
#[tokio::test]
async fn after_downtime_a_reminder_says_how_late_it_is() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(due("2030-01-01", "10:00", -60)).await;
    app.advance_to("2030-01-01T11:00:00Z").await;
    let mail = app.mail().await.pop().unwrap();
    assert!(mail.text.contains("planned for 09:00") && mail.text.contains("2 h late"), "{}", mail.text);
    assert_eq!(ann.fires(&task).await[0]["late_by_s"], 7200);
}

#[tokio::test]
async fn reminders_are_added_changed_and_removed_with_the_version() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann.create_task(json!({"title": "Ship", "due": "2030-01-05"})).await;
    let reminders = format!("{}/reminders", path(&task));
    let made = ann.post(&reminders, json!({"kind": "relative", "offset_minutes": -1440})).await.assert(201);
    assert_eq!(made.json["fire_at"], "2030-01-04T09:00:00Z", "the day before, at the start of the day");
    let one = made.header("location").trim_start_matches("/api/v1").to_owned();
    assert_eq!(ann.get(&one).await.assert(200).json["id"], made.json["id"]);

    ann.post(&reminders, json!({"kind": "relative", "offset_minutes": -1440}))
        .await
        .assert_problem(422, "validation_failed");
    let changed =
        ann.patch(&one, json!({"kind": "absolute", "at": "2030-01-03T12:00:00Z"})).await.assert(200);
    assert_eq!(changed.json["fire_at"], "2030-01-03T12:00:00Z");
    ann.delete(&one).await.assert(204);
    assert_eq!(ann.get(&reminders).await.json["data"], json!([]));
    let fires = ann.get(&format!("{one}/fires")).await.assert(200).json;
    assert_eq!(fires["data"][0]["reason"], "reminder_removed", "what was removed stays explained");
    assert_eq!(ann.get(&path(&task)).await.json["version"], 4);
}

/// T32 of semantics §11.
#[tokio::test]
async fn a_zone_that_nobody_knows_falls_back_and_disturbs_nobody() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let (_, hers) = (
        ann.create_task(due("2030-01-02", "09:00", 0)).await,
        bob.create_task(due("2030-01-02", "09:00", 0)).await,
    );
    diesel::sql_query("UPDATE users SET time_zone = 'Mars/Base' WHERE email = 'ann@example.com'")
        .execute(&mut *app.db.conn().await.unwrap())
        .await
        .unwrap();
    ann.create_task(due("2030-01-02", "09:00", 0)).await;
    assert_eq!(ann.get("/me").await.assert(200).json["time_zone"], "Mars/Base");
    app.advance_to("2030-01-02T09:00:00Z").await;
    let mut to: Vec<String> = app.mail().await.iter().flat_map(|mail| mail.envelope.to.clone()).collect();
    to.sort_unstable();
    assert_eq!(to, ["ann@example.com", "bob@example.com"]);
    assert_eq!(states(&bob, &hers).await, [("sent".to_owned(), String::new())]);
}

/// T22 of semantics §11, in small: Redis loses everything while fires are queued.
#[tokio::test]
async fn what_redis_lost_is_sent_all_the_same() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    ann.create_task(due("2030-01-01", "09:00", 0)).await;
    app.db.clock().set(at("2030-01-01T09:00:00Z"));
    scheduler::due::queue_due(&app.db, common::reminders::CATCH_UP_PER_SECOND).await.unwrap();
    app.dispatch().await;
    let mut redis = app.redis.queue();
    let keys: Vec<String> = redis::cmd("KEYS").arg(app.redis.key("*")).query_async(&mut redis).await.unwrap();
    redis::cmd("DEL").arg(keys).query_async::<()>(&mut redis).await.unwrap();
    app.work().await;

    // The relay leaves a job to the dispatcher for two seconds.
    app.advance_to("2030-01-01T09:00:02Z").await;
    assert_eq!(app.mail().await.len(), 1);
}

/// T23 of semantics §11.
#[tokio::test]
async fn one_address_that_is_refused_affects_nobody_else() {
    let app = TestApp::start().await;
    let mut people = Vec::new();
    for name in ["ann", "bob", "bounce"] {
        let person = app.user(name).await;
        let task = person.create_task(due("2030-01-01", "09:00", 0)).await;
        people.push((person, task));
    }
    app.advance_to("2030-01-01T09:00:00Z").await;
    assert_eq!(app.mail().await.len(), 2);
    for (person, task) in &people {
        let (state, _) = states(person, task).await.remove(0);
        assert_eq!(state, if person.email.starts_with("bounce") { "dead" } else { "sent" });
    }
}

#[tokio::test]
async fn what_is_to_come_is_listed() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let remind = async |title: &str, at: &str| {
        ann.create_task(json!({"title": title, "reminders": [{"kind": "absolute", "at": at}]})).await
    };
    remind("in two days", "2030-01-03T00:00:00Z").await;
    let done = remind("done", "2030-01-02T12:00:00Z").await;
    remind("tomorrow", "2030-01-02T00:00:00Z").await;
    remind("in ten days", "2030-01-11T00:00:00Z").await;
    ann.act(&format!("{}/complete", path(&done))).await.assert(200);
    let titles = async |query: &str| -> Vec<String> {
        let page = ann.get(&format!("/reminders/upcoming{query}")).await.assert(200).json;
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fire| fire["title"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(titles("").await, ["tomorrow", "in two days"]);
    assert_eq!(titles("?days=1").await, ["tomorrow"]);
    assert_eq!(titles("?days=10").await, ["tomorrow", "in two days", "in ten days"]);
    let first = ann.get("/reminders/upcoming?limit=1").await.assert(200).json;
    let cursor = first["page"]["next_cursor"].as_str().unwrap();
    assert_eq!(titles(&format!("?limit=1&cursor={cursor}")).await, ["in two days"]);
    assert_eq!(bob.get("/reminders/upcoming").await.assert(200).json["data"], json!([]));
    ann.get("/reminders/upcoming?days=0").await.assert_problem(400, "malformed_parameter");
}
