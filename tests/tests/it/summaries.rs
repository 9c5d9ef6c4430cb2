//! Preferences and daily summaries, from the settings to the mail.

use common::{
    db::Db,
    testing::{TestDatabase, at},
};
use diesel_async::RunQueryDsl as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};
use tools::mail_sink::Message;

/// Somebody in a zone who wants a summary, and has something to do that is never over.
async fn reader(app: &TestApp, name: &str, zone: &str) -> Person {
    let person = app.user_in(name, zone).await;
    person
        .patch("/me/notifications", json!({"digest_enabled": true, "digest_include_nodate": true}))
        .await
        .assert(200);
    person.create_task(json!({"title": "Sleep"})).await;
    person
}

/// The plain part of a mail, with the line ends of a text, and without the token of its last link.
fn text(mail: &Message) -> String {
    let text = mail.text.replace("\r\n", "\n");
    text.rsplit_once("/u/").map(|(before, _)| format!("{before}/u/TOKEN")).unwrap_or(text)
}

/// State, local date and reason of each run, the oldest first.
async fn runs(person: &Person) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let runs = person.get("/me/digest/runs").await.assert(200).json;
    let runs = runs["data"].as_array().unwrap().iter().rev();
    runs.map(|run| (text(&run["state"]), text(&run["local_date"]), text(&run["reason"]))).collect()
}

fn run(state: &str, date: &str) -> (String, String, String) {
    (state.to_owned(), date.to_owned(), String::new())
}

#[tokio::test]
async fn preferences_have_defaults_and_are_changed_as_a_merge_patch() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let before = ann.get("/me/notifications").await.assert(200);
    // The harness has switched the summary off.
    assert_eq!(before.json["next_digest_at"], Value::Null);
    let patch = json!({"digest_enabled": true, "digest_time": "07:45", "digest_days": ["fri", "mon"],
                       "digest_lookahead_days": 3, "paused_until": "2030-02-01T00:00:00+01:00"});
    let headers = [("if-match", before.header("etag"))];
    let after = ann.send(Method::PATCH, "/me/notifications", &headers, Some(patch.clone())).await.assert(200);
    assert_eq!(
        after.json,
        json!({"reminders_email": true, "digest_enabled": true, "digest_time": "07:45", "digest_days": ["mon", "fri"],
               "digest_lookahead_days": 3, "digest_include_nodate": false, "digest_skip_empty": true,
               "paused_until": "2030-01-31T23:00:00Z", "next_digest_at": "2030-01-04T06:45:00Z", "version": 3,
               "suppressions": []})
    );
    ann.send(Method::PATCH, "/me/notifications", &headers, Some(patch))
        .await
        .assert_problem(412, "stale_version");
    let same = [("if-none-match", after.header("etag"))];
    ann.send(Method::GET, "/me/notifications", &same, None).await.assert(304);
    ann.patch("/me/notifications", json!({"paused_until": null})).await.assert(200);
    let paused =
        ann.post("/me/notifications/pause", json!({"until": "2030-01-02T00:00:00Z"})).await.assert(200);
    assert_eq!(paused.json["paused_until"], "2030-01-02T00:00:00Z");
}

#[tokio::test]
async fn bad_preferences_are_refused_with_their_place_and_change_nothing() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let before = ann.get("/me/notifications").await.json;
    for (body, place, code) in [
        (json!({"digest_time": "25:00"}), "/digest_time", "invalid_date"),
        (json!({"digest_time": "08:00:30"}), "/digest_time", "invalid_date"),
        (json!({"digest_time": "8 o'clock"}), "/digest_time", "invalid_date"),
        (json!({"digest_time": 8}), "/digest_time", "invalid_type"),
        (json!({"digest_days": ["monday"]}), "/digest_days/0", "invalid_value"),
        (json!({"digest_days": []}), "/digest_days", "invalid_value"),
        (json!({"digest_days": 127}), "/digest_days", "invalid_type"),
        (json!({"digest_lookahead_days": 15}), "/digest_lookahead_days", "invalid_value"),
        (json!({"digest_lookahead_days": -1}), "/digest_lookahead_days", "invalid_value"),
        (json!({"digest_enabled": "yes"}), "/digest_enabled", "invalid_type"),
        (json!({"paused_until": "tomorrow"}), "/paused_until", "invalid_value"),
        (json!({"next_digest_at": "2030-01-01T00:00:00Z"}), "/next_digest_at", "unknown_field"),
    ] {
        let answer =
            ann.patch("/me/notifications", body.clone()).await.assert_problem(422, "validation_failed");
        assert_eq!(
            (&answer.json["errors"][0]["pointer"], &answer.json["errors"][0]["code"]),
            (&json!(place), &json!(code)),
            "{body}"
        );
    }
    for body in [
        json!({"until": "2030-01-01T00:00:00Z"}),
        json!({"until": "2029-01-01T00:00:00Z"}),
        json!({}),
        json!({"until": null}),
    ] {
        let answer = ann.post("/me/notifications/pause", body).await.assert_problem(422, "validation_failed");
        assert_eq!(answer.json["errors"][0]["pointer"], "/until");
    }
    assert_eq!(ann.get("/me/notifications").await.json, before);
}

#[tokio::test]
async fn a_summary_comes_at_its_minute_and_once_a_day() {
    let app = TestApp::start().await;
    let ann = reader(&app, "ann", "America/New_York").await;
    ann.patch("/me/notifications", json!({"digest_time": "07:45", "digest_lookahead_days": 2}))
        .await
        .assert(200);
    for (title, date, time) in
        [("Tax", "2029-12-29", None), ("Ship", "2030-01-01", Some("17:00")), ("Pack", "2030-01-03", None)]
    {
        ann.create_task(json!({"title": title, "due": {"date": date, "time": time}})).await;
    }
    let done = ann.create_task(json!({"title": "Done"})).await;
    ann.act(&format!("{}/complete", path(&done))).await.assert(200);
    app.advance_to("2030-01-01T12:44:59Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-01T12:45:00Z").await;
    let mails = app.mail().await;
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    insta::assert_snapshot!(format!("{}\n\n{}", mail.subject, text(mail)));
    for fact in ["3 days late", "17:00 EST", "Pack", "Sleep", "Done yesterday: 1 task."] {
        assert!(mail.html.contains(fact), "{fact} in {}", mail.html);
    }
    app.run_due().await;
    app.advance_to("2030-01-02T04:59:00Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-02T12:45:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    assert_eq!(runs(&ann).await, [run("sent", "2030-01-01"), run("sent", "2030-01-02")]);
}

/// T18 of semantics §11.
#[tokio::test]
async fn t18_after_a_downtime_it_is_sent_within_four_hours() {
    let app = TestApp::start().await;
    let ann = reader(&app, "ann", "Europe/Berlin").await;
    app.advance_to("2030-01-01T10:59:00Z").await;
    let mail = app.mail().await.pop().unwrap();
    assert!(mail.text.contains("This summary was planned for 08:00 and is 3 h late."), "{}", mail.text);
    app.advance_to("2030-01-02T11:01:00Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-03T07:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1, "the next day does not depend on it");
    let dates = [run("sent", "2030-01-01"), run("skipped_late", "2030-01-02"), run("sent", "2030-01-03")];
    assert_eq!(runs(&ann).await, dates);
}

/// T19 of semantics §11.
#[tokio::test]
async fn t19_a_flight_to_the_west_brings_no_second_one() {
    let app = TestApp::start().await;
    let ann = reader(&app, "ann", "Asia/Tokyo").await;
    app.advance_to("2030-01-01T23:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    ann.patch("/me", json!({"time_zone": "America/Los_Angeles"})).await.assert(200);
    app.advance_to("2030-01-02T16:00:00Z").await;
    assert!(app.mail().await.is_empty(), "it is 08:00 on the 2nd once more");
    app.advance_to("2030-01-03T16:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    assert_eq!(runs(&ann).await, [run("sent", "2030-01-02"), run("sent", "2030-01-03")]);
}

#[tokio::test]
async fn a_flight_to_the_east_sends_at_once_what_is_not_too_late() {
    let app = TestApp::start().await;
    let (ann, bob) = (reader(&app, "ann", "Europe/Lisbon").await, reader(&app, "bob", "Europe/Lisbon").await);
    app.advance_to("2030-01-01T07:00:00Z").await;
    ann.patch("/me", json!({"time_zone": "Europe/Helsinki"})).await.assert(200);
    bob.patch("/me", json!({"time_zone": "Asia/Tokyo"})).await.assert(200);
    app.run_due().await;
    let mail = app.mail().await;
    assert_eq!((mail.len(), mail[0].envelope.to[0].as_str()), (1, "ann@example.com"));
    assert_eq!(runs(&ann).await, [run("sent", "2030-01-01")]);
    assert_eq!(runs(&bob).await, [run("skipped_late", "2030-01-01")]);
}

#[tokio::test]
async fn another_time_counts_today_unless_today_is_sent() {
    let app = TestApp::start().await;
    let (ann, bob) = (reader(&app, "ann", "UTC").await, reader(&app, "bob", "UTC").await);
    bob.patch("/me/notifications", json!({"digest_time": "23:00"})).await.assert(200);
    app.advance_to("2030-01-01T08:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    app.advance_to("2030-01-01T20:00:00Z").await;
    ann.patch("/me/notifications", json!({"digest_time": "21:00"})).await.assert(200);
    bob.patch("/me/notifications", json!({"digest_time": "09:00"})).await.assert(200);
    app.run_due().await;
    let mail = app.mail().await;
    assert_eq!((mail.len(), mail[0].envelope.to[0].as_str()), (1, "bob@example.com"));
    app.advance_to("2030-01-01T21:00:00Z").await;
    assert!(app.mail().await.is_empty());
    assert_eq!(runs(&ann).await.len(), 1);
    assert_eq!(runs(&bob).await, [run("sent", "2030-01-01")]);
}

#[tokio::test]
async fn silence_has_its_reason_in_the_list_of_runs() {
    let app = TestApp::start().await;
    let (ann, bob, eve) =
        (reader(&app, "ann", "UTC").await, reader(&app, "bob", "UTC").await, app.user("eve").await);
    ann.post("/me/notifications/pause", json!({"until": "2030-01-01T09:00:00Z"})).await.assert(200);
    eve.patch("/me/notifications", json!({"digest_enabled": true})).await.assert(200);
    diesel::sql_query(
        "INSERT INTO mail_suppressions (id, user_id, address_hash, kind, reason, created_at)
         SELECT gen_random_uuid(), id, sha256(email::text::bytea), 'daily_summary', 'unsubscribe', created_at
         FROM users WHERE email = 'bob@example.com'",
    )
    .execute(&mut *app.db.conn().await.unwrap())
    .await
    .unwrap();
    let shown = bob.get("/me/notifications").await.json["suppressions"].clone();
    assert_eq!(
        shown,
        json!([{"kind": "daily_summary", "reason": "unsubscribe", "since": "2030-01-01T00:00:00Z"}])
    );
    app.advance_to("2030-01-01T08:00:00Z").await;
    assert!(app.mail().await.is_empty());
    let skipped = |reason: &str| [("skipped".to_owned(), "2030-01-01".to_owned(), reason.to_owned())];
    assert_eq!(runs(&ann).await, skipped("paused"));
    // T30 of semantics §11.
    assert_eq!(runs(&bob).await, skipped("unsubscribed"));
    assert_eq!(runs(&eve).await, [run("skipped_empty", "2030-01-01")]);

    // Visible, and taken back by saying so.
    let back = bob.patch("/me/notifications", json!({"digest_enabled": true})).await.assert(200);
    assert_eq!(back.json["suppressions"], json!([]));
    app.advance_to("2030-01-02T08:00:00Z").await;
    assert_eq!(app.mail().await.len(), 2);
}

#[tokio::test]
async fn a_preview_is_what_would_be_sent() {
    let app = TestApp::start().await;
    let ann = reader(&app, "ann", "UTC").await;
    ann.create_task(json!({"title": "<b>Ship & go</b>", "due": "2030-01-01"})).await;
    let preview = ann.act("/me/digest/preview").await.assert(200).json;
    let html =
        ann.send(Method::POST, "/me/digest/preview", &[("accept", "text/html")], None).await.assert(200);
    assert!(html.header("content-type").starts_with("text/html"));
    assert!(html.text.contains("&#60;b&#62;Ship") && !html.text.contains("<b>"), "{}", html.text);
    assert_eq!(
        (&preview["empty"], &preview["content"]["today"]["tasks"][0]["title"]),
        (&json!(false), &json!("<b>Ship & go</b>"))
    );

    let key = [("idempotency-key", "once")];
    let sent = ann.send(Method::POST, "/me/digest/send", &key, None).await.assert(202);
    let again = ann.send(Method::POST, "/me/digest/send", &key, None).await.assert(202);
    assert_eq!((&again.json, again.header("idempotency-replayed")), (&sent.json, "true"));
    app.run_due().await;
    let mails = app.mail().await;
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(
        (json!(mail.subject), json!(mail.text.replace("\r\n", "\n").trim_end())),
        (preview["subject"].clone(), json!(preview["text"].as_str().unwrap().trim_end()))
    );
    for _ in 0..4 {
        ann.act("/me/digest/send").await.assert(202);
    }
    ann.act("/me/digest/send").await.assert_problem(429, "rate_limited");
    app.run_due().await;
    assert_eq!(app.mail().await.len(), 4);
    // The day's own comes beside it.
    app.advance_to("2030-01-01T08:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
}

/// Two schedulers at once, and people who were there before: one run for each.
#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_make_one_run_for_each_person() {
    let database = TestDatabase::create().await;
    let clock = common::clock::Clock::fixed(at("2030-01-01T00:00:00Z"));
    let (db, _due) = database.open(clock.clone());
    diesel::sql_query(
        "INSERT INTO users (id, email, full_name, time_zone, created_at, updated_at)
         SELECT gen_random_uuid(), 'p' || n || '@example.com', 'P', 'UTC', '2029-01-01Z', '2029-01-01Z'
         FROM generate_series(1, 2500) n",
    )
    .execute(&mut *db.conn().await.unwrap())
    .await
    .unwrap();
    while scheduler::summaries::adopt(&db).await.unwrap() > 0 {}
    clock.set(at("2030-01-01T08:00:00Z"));
    let all = |db: Db| async move {
        let mut people = 0;
        loop {
            match scheduler::summaries::queue_due(&db).await.unwrap().people {
                0 => return people,
                taken => people += taken,
            }
        }
    };
    let (one, other) = tokio::join!(tokio::spawn(all(db.clone())), tokio::spawn(all(db.clone())));
    let left = all(db.clone()).await;
    assert_eq!(one.unwrap() + other.unwrap() + left, 2500);
    let count = |sql: &'static str| {
        let db = db.clone();
        async move {
            #[derive(diesel::QueryableByName)]
            struct Row {
                #[diesel(sql_type = diesel::sql_types::BigInt)]
                n: i64,
            }
            let row: Row = diesel::sql_query(sql).get_result(&mut *db.conn().await.unwrap()).await.unwrap();
            row.n
        }
    };
    assert_eq!(
        count("SELECT count(DISTINCT user_id) AS n FROM digest_runs WHERE state = 'planned'").await,
        2500
    );
    assert_eq!(count("SELECT count(*) AS n FROM digest_runs r JOIN jobs j ON j.id = r.job_id").await, 2500);
    assert_eq!(count("SELECT count(*) AS n FROM jobs").await, 2500);
}

/// What was never sent because everything was down is said in the next summary, once (semantics §9).
#[tokio::test]
async fn missed_reminders_are_listed_once() {
    let app = TestApp::start().await;
    let ann = reader(&app, "ann", "UTC").await;
    let task = json!({"title": "Take medicine", "due": {"date": "2030-01-01", "time": "09:00"},
                      "reminders": [{"kind": "relative", "offset_minutes": 0}]});
    ann.create_task(task).await;
    app.advance_to("2030-01-03T08:00:00Z").await;
    let mail = app.mail().await.pop().unwrap();
    assert!(
        text(&mail).contains("Reminders missed while the server was down\n- Take medicine"),
        "{}",
        mail.text
    );
    app.advance_to("2030-01-04T08:00:00Z").await;
    let mail = app.mail().await.pop().unwrap();
    assert!(!mail.text.contains("missed"), "{}", mail.text);
}
