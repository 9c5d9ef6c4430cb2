use diesel_async::RunQueryDsl as _;
use reqwest::Method;
use serde_json::json;
use tests::app::{Answer, TestApp, path};

/// The links of the newest mail that lead to a folder of the root: `/a/` or `/u/`, with the server's own address.
async fn links(app: &TestApp, folder: &str) -> Vec<String> {
    let mails = app.mail().await;
    let words = mails.last().unwrap().text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let links = words.iter().filter_map(|word| word.strip_prefix("http://localhost:8000"));
    links.filter(|link| link.starts_with(folder)).map(|link| format!("{}{link}", app.url)).collect()
}

/// Without a login, as a mail program or a person's browser.
async fn browse(app: &TestApp, method: Method, url: &str) -> Answer {
    app.anybody.send(method, url, &[], None).await
}

async fn run(app: &TestApp, sql: &str) -> usize {
    diesel::sql_query(sql).execute(&mut *app.db.conn().await.unwrap()).await.unwrap()
}

/// Ann has been reminded of a task.
async fn reminded(app: &TestApp) -> (tests::app::Person, serde_json::Value) {
    let ann = app.user("ann").await;
    let task = ann
        .create_task(
            json!({"title": "Ship <it>", "reminders": [{"kind": "absolute", "at": "2030-01-01T10:00:00Z"}]}),
        )
        .await;
    app.advance_to("2030-01-01T10:00:00Z").await;
    (ann, task)
}

#[tokio::test]
async fn a_link_completes_the_task_once_and_only_by_a_post() {
    let app = TestApp::start().await;
    let (ann, task) = reminded(&app).await;
    let links = links(&app, "/a/").await;
    let [done, hour, _tomorrow] = links.as_slice() else { panic!("{links:?}") };
    // T31: opening changes nothing, however often.
    for _ in 0..10 {
        let page = browse(&app, Method::GET, done).await.assert(200);
        assert!(
            page.text.contains("Ship &lt;it&gt;") && page.text.contains("<form method=\"post\">"),
            "{}",
            page.text
        );
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
    }
    assert_eq!(ann.get(&path(&task)).await.json["status"], "todo");

    browse(&app, Method::POST, done).await.assert(200);
    assert_eq!(ann.get(&path(&task)).await.json["status"], "done");
    browse(&app, Method::POST, done).await.assert(410);
    browse(&app, Method::GET, done).await.assert(410);
    // The other links of the mail find that the task has moved on, and say so kindly.
    browse(&app, Method::GET, hour).await.assert(200);
    let late = browse(&app, Method::POST, hour).await.assert(409);
    assert!(late.text.contains("has moved on"), "{}", late.text);
    ann.delete(&path(&task)).await.assert(204);
    browse(&app, Method::POST, hour).await.assert(410);
}

#[tokio::test]
async fn a_link_reminds_again_in_an_hour_or_tomorrow() {
    let app = TestApp::start().await;
    let (ann, task) = reminded(&app).await;
    let links = links(&app, "/a/").await;
    browse(&app, Method::POST, &links[1]).await.assert(200);
    app.advance_to("2030-01-01T10:59:59Z").await;
    assert!(app.mail().await.is_empty());
    app.advance_to("2030-01-01T11:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
    browse(&app, Method::POST, &links[2]).await.assert(200);
    app.advance_to("2030-01-02T09:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1, "at the start of her day");
    assert_eq!(ann.get(&path(&task)).await.json["status"], "todo");
}

#[tokio::test]
async fn a_forged_or_old_link_opens_nothing() {
    let app = TestApp::start().await;
    reminded(&app).await;
    let links = links(&app, "/a/").await;
    for url in [format!("{}/a/AAAA", app.url), format!("{}x", links[0]), format!("{}/u/AAAA", app.url)] {
        for method in [Method::GET, Method::POST] {
            browse(&app, method, &url).await.assert(410);
        }
    }
    // An action's token is no unsubscription.
    browse(&app, Method::POST, &links[0].replace("/a/", "/u/")).await.assert(410);
    app.db.clock().set(common::testing::at("2030-01-15T10:00:01Z"));
    browse(&app, Method::POST, &links[0]).await.assert(410);
}

/// T30, for reminders: the one click of RFC 8058, without cookies and without a login.
#[tokio::test]
async fn one_click_stops_reminders_and_nothing_else() {
    let app = TestApp::start().await;
    let (ann, _) = reminded(&app).await;
    let mails = app.mail().await;
    let headers = &mails.last().unwrap().headers;
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.trim());
    let stop = header("List-Unsubscribe").unwrap().trim_matches(['<', '>']);
    // http on localhost: no provider could reach it, so no one-click is promised.
    assert_eq!(header("List-Unsubscribe-Post"), None);
    let stop = stop.replace("http://localhost:8000", &app.url);
    browse(&app, Method::GET, &stop).await.assert(200);
    assert_eq!(ann.get("/me/notifications").await.json["suppressions"], json!([]));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for _ in 0..2 {
        let body = b"List-Unsubscribe=One-Click".to_vec();
        app.anybody.send_raw(Method::POST, &stop, &form, body).await.assert(200);
    }
    let task = ann
        .create_task(
            json!({"title": "Again", "reminders": [{"kind": "absolute", "at": "2030-01-01T11:00:00Z"}]}),
        )
        .await;
    app.advance_to("2030-01-01T11:00:00Z").await;
    assert!(app.mail().await.is_empty());
    let fire = &ann.fires(&task).await[0];
    assert_eq!((&fire["state"], &fire["reason"]), (&json!("skipped"), &json!("unsubscribed")));
    let shown = ann.get("/me/notifications").await.json;
    assert_eq!(
        (&shown["suppressions"][0]["kind"], &shown["suppressions"][0]["reason"]),
        (&json!("reminder"), &json!("unsubscribe"))
    );

    ann.patch("/me/notifications", json!({"reminders_email": true})).await.assert(200);
    ann.create_task(
        json!({"title": "Back", "reminders": [{"kind": "absolute", "at": "2030-01-01T12:00:00Z"}]}),
    )
    .await;
    app.advance_to("2030-01-01T12:00:00Z").await;
    assert_eq!(app.mail().await.len(), 1);
}

#[tokio::test]
async fn a_pause_from_the_mail_ends_by_itself() {
    let app = TestApp::start().await;
    let (ann, _) = reminded(&app).await;
    let links = links(&app, "/u/").await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let paused = app.anybody.send_raw(Method::POST, &links[0], &form, b"do=pause".to_vec()).await.assert(200);
    assert!(paused.text.contains("for 7 days"), "{}", paused.text);
    let mut states = Vec::new();
    for at in ["2030-01-08T09:59:59Z", "2030-01-08T10:00:00Z"] {
        let task = json!({"title": "x", "reminders": [{"kind": "absolute", "at": at}]});
        let task = ann.create_task(task).await;
        app.advance_to(at).await;
        let fire = ann.fires(&task).await[0].clone();
        states.push((fire["state"].clone(), fire["reason"].clone()));
    }
    assert_eq!(states, [(json!("skipped"), json!("paused")), (json!("sent"), json!(null))]);
    assert_eq!(app.mail().await.len(), 1);
}

#[tokio::test]
async fn two_hard_bounces_suppress_an_address_until_an_administrator_takes_that_back() {
    let app = TestApp::start().await;
    let (bounce, root) = (app.user("bounce").await, app.user("root").await);
    let mut entry = json!(null);
    for (hour, expected) in [
        ("01", ("dead", "rejected")),
        ("02", ("dead", "rejected")),
        ("03", ("skipped", "address_suppressed")),
        ("04", ("dead", "rejected")),
    ] {
        let at = format!("2030-01-01T{hour}:00:00Z");
        let task = json!({"title": "x", "reminders": [{"kind": "absolute", "at": at}]});
        let task = bounce.create_task(task).await;
        app.advance_to(&at).await;
        let fire = &bounce.fires(&task).await[0];
        assert_eq!((&fire["state"], &fire["reason"]), (&json!(expected.0), &json!(expected.1)), "{at}");
        if expected.1 != "address_suppressed" {
            continue;
        }
        root.get("/admin/suppressions").await.assert_problem(403, "forbidden");
        run(&app, &format!("UPDATE users SET role = 'admin' WHERE id = '{}'", root.id)).await;
        let list = root.get("/admin/suppressions?address=Bounce@example.com").await.assert(200).json;
        entry = list["data"][0].clone();
        assert_eq!(
            (&entry["reason"], &entry["kind"], &entry["user_id"]),
            (&json!("bounce"), &json!(null), &json!(bounce.id))
        );
        assert!(entry["detail"].as_str().unwrap().starts_with("550"), "{entry}");
        assert_eq!(root.get("/admin/suppressions?address=ann@example.com").await.json["data"], json!([]));
        root.get("/admin/suppressions?limit=0").await.assert_problem(400, "malformed_parameter");
        let one = format!("/admin/suppressions/{}", entry["id"].as_str().unwrap());
        root.delete(&one).await.assert(204);
        root.delete(&one).await.assert_problem(404, "not_found");
    }
    assert_ne!(entry, json!(null));
    assert!(app.mail().await.is_empty());
    assert_eq!(run(&app, "DELETE FROM mail_suppressions").await, 0, "counted from the beginning");
}

/// T17 of semantics §11, and "more than three": all that a person missed is one mail; what is older than a day is none.
#[tokio::test]
async fn t17_after_downtime_a_person_gets_one_mail() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let mut tasks = Vec::new();
    for (title, at) in [
        ("Yesterday", "2030-01-01T08:00:00Z"),
        ("Today", "2030-01-02T08:00:00Z"),
        ("Two", "2030-01-02T08:30:00Z"),
        ("Three", "2030-01-02T09:00:00Z"),
        ("Four", "2030-01-02T10:59:00Z"),
    ] {
        let task = json!({"title": title, "reminders": [{"kind": "absolute", "at": at}]});
        tasks.push(ann.create_task(task).await);
    }
    app.advance_to("2030-01-02T11:00:01Z").await;
    let mails = app.mail().await;
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(mail.subject, "Today and 3 more");
    for part in [&mail.text, &mail.html] {
        assert!(part.contains("This reminder was planned for 09:00 and is 3 h late."), "{part}");
        assert_eq!((part.matches(" late.").count(), part.contains("Yesterday")), (4, false), "{part}");
    }
    let stands = async |task| {
        let fire = ann.fires(task).await[0].clone();
        (fire["state"].clone(), fire["reason"].clone())
    };
    assert_eq!(stands(&tasks[0]).await, (json!("skipped"), json!("too_late")));
    assert_eq!(stands(&tasks[1]).await, (json!("sent"), json!(null)));
}

#[tokio::test]
async fn what_a_person_does_not_want_now_is_skipped_with_its_reason() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for (hour, change, reason) in [
        ("10", json!({"paused_until": "2030-01-01T10:30:00Z"}), "paused"),
        ("11", json!({"paused_until": null, "reminders_email": false}), "unsubscribed"),
    ] {
        ann.patch("/me/notifications", change).await.assert(200);
        let at = format!("2030-01-01T{hour}:00:00Z");
        let task =
            ann.create_task(json!({"title": "x", "reminders": [{"kind": "absolute", "at": at}]})).await;
        app.advance_to(&at).await;
        let fire = &ann.fires(&task).await[0];
        assert_eq!((&fire["state"], &fire["reason"]), (&json!("skipped"), &json!(reason)));
    }
    assert!(app.mail().await.is_empty());
}

#[tokio::test]
async fn a_snooze_says_what_is_wrong_with_it() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let task = ann
        .create_task(json!({"title": "x", "reminders": [{"kind": "absolute", "at": "2030-01-01T10:00:00Z"}]}))
        .await;
    let snooze = format!("{}/snooze", path(&task));
    for (body, pointer, code) in [
        (json!({}), "", "required"),
        (json!({"minutes": 5, "until": "2030-01-02T00:00:00Z"}), "/minutes", "invalid_value"),
        (json!({"minutes": 0}), "/minutes", "invalid_value"),
        (json!({"minutes": 1_000_000}), "/minutes", "invalid_value"),
        (json!({"until": "2029-12-31T00:00:00Z"}), "/until", "invalid_value"),
        (json!({"until": "2040-01-01T00:00:00Z"}), "/until", "invalid_value"),
        (json!({"hours": 1}), "/hours", "unknown_field"),
    ] {
        let problem = ann.post(&snooze, body.clone()).await.assert_problem(422, "validation_failed");
        let error = &problem.json["errors"][0];
        assert_eq!((&error["pointer"], &error["code"]), (&json!(pointer), &json!(code)), "{body}");
    }
    let snoozed = ann.post(&snooze, json!({"minutes": 90})).await.assert(200).json;
    assert_eq!(snoozed["fire"]["fire_at"], "2030-01-01T01:30:00Z");
    let bare = ann.create_task(json!({"title": "bare"})).await;
    ann.post(&format!("{}/snooze", path(&bare)), json!({"minutes": 5}))
        .await
        .assert_problem(409, "no_reminder");
    let bob = app.user("bob").await;
    bob.post(&snooze, json!({"minutes": 5})).await.assert_problem(404, "not_found");
}
