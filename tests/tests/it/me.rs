//! What a person changes of their own account, and what guards it.

use common::{
    db::RunQueryDsl as _,
    jobs::{Job as _, PruneHistory},
    testing::at,
};
use diesel::{QueryableByName, sql_types::BigInt};
use serde_json::{Value, json};
use tests::app::{Answer, Client, PASSWORD, Person, TestApp};

const OTHER: &str = "another horse battery";

async fn log_in(app: &TestApp, email: &str, password: &str) -> Answer {
    app.anybody.post("/auth/login", json!({"email": email, "password": password})).await
}

/// Another session of a person.
async fn another(app: &TestApp, person: &Person) -> Client {
    let session = log_in(app, &person.email, PASSWORD).await.assert(200);
    app.anybody.with_token(session.json["access_token"].as_str().unwrap())
}

async fn change_password(client: &Client, current: &str, new: &str) -> Answer {
    client.put("/me/password", json!({"current_password": current, "new_password": new})).await
}

async fn change_email(client: &Client, new: &str) -> Answer {
    client.put("/me/email", json!({"new_email": new, "current_password": PASSWORD})).await
}

/// The mails since the last look: to whom, and the token of the link if there is one.
async fn mails(app: &TestApp) -> Vec<(String, Option<String>, String)> {
    app.work().await;
    let token = |text: &str| {
        let link = text.split_whitespace().find(|word| word.contains("?token="))?;
        link.split("?token=").nth(1).map(str::to_owned)
    };
    let mut mails: Vec<_> = app
        .mail()
        .await
        .iter()
        .map(|mail| (mail.to[0].address.clone(), token(&mail.text), mail.text.clone()))
        .collect();
    mails.sort();
    mails
}

async fn count(app: &TestApp, from: &'static str) -> i64 {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }

    let statement = diesel::sql_query(format!("SELECT count(*) AS count FROM {from}"));
    let row: Count = statement.get_result(&mut app.db.conn().await.unwrap()).await.unwrap();
    row.count
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_and_not_this_one() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let phone = another(&app, &ann).await;
    change_password(&phone, "incorrect horse", OTHER).await.assert_problem(403, "wrong_password");
    ann.get("/me").await.assert(200);

    change_password(&phone, PASSWORD, OTHER).await.assert(204);
    phone.get("/me").await.assert(200);
    ann.get("/me").await.assert_problem(401, "invalid_token");
    let token = json!({"refresh_token": ann.refresh_token});
    app.anybody.post("/auth/refresh", token).await.assert_problem(401, "invalid_refresh_token");
    log_in(&app, &ann.email, PASSWORD).await.assert_problem(401, "invalid_credentials");
    log_in(&app, &ann.email, OTHER).await.assert(200);
}

#[tokio::test]
async fn a_password_that_is_tried_first_is_refused_wherever_one_is_set() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let refused = |answer: Answer, pointer: &str| {
        let answer = answer.assert_problem(422, "validation_failed");
        assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{}", answer.text);
        answer.json["errors"][0]["code"].clone()
    };
    for (password, code) in [("password1234", "password_too_common"), ("short", "invalid_length")] {
        let account = json!({"email": "bob@example.com", "password": password, "full_name": "Bob"});
        assert_eq!(refused(app.anybody.post("/auth/register", account).await, "/password"), code);
        assert_eq!(refused(change_password(&ann, PASSWORD, password).await, "/new_password"), code);
        let reset = json!({"token": "tto_x", "password": password});
        assert_eq!(refused(app.anybody.post("/auth/password/reset", reset).await, "/password"), code);
    }
}

#[tokio::test]
async fn guesses_at_the_present_password_are_limited() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for _ in 0..5 {
        change_password(&ann, "incorrect horse", OTHER).await.assert_problem(403, "wrong_password");
    }
    change_password(&ann, PASSWORD, OTHER).await.assert_problem(429, "rate_limited");
    let email = json!({"new_email": "ann@example.org", "current_password": PASSWORD});
    ann.put("/me/email", email).await.assert_problem(429, "rate_limited");
}

#[tokio::test]
async fn an_address_changes_when_the_new_one_is_confirmed_and_both_hear_of_it() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let wrong = json!({"new_email": "ann@example.org", "current_password": "incorrect horse"});
    ann.put("/me/email", wrong).await.assert_problem(403, "wrong_password");
    change_email(&ann, "ANN@example.com").await.assert_problem(422, "validation_failed");
    change_email(&ann, "ann@example.org").await.assert(202);

    let mails = mails(&app).await;
    let [(old, no_link, notice), (new, link, _)] = mails.as_slice() else { panic!("two mails: {mails:?}") };
    assert_eq!((old.as_str(), new.as_str()), ("ann@example.com", "ann@example.org"));
    assert!(no_link.is_none() && notice.contains("ann@example.org"), "{notice}");
    assert_eq!(ann.get("/me").await.json["email"], "ann@example.com", "nothing changes before");

    let confirm = || app.anybody.post("/auth/verify-email", json!({"token": link}));
    confirm().await.assert(204);
    confirm().await.assert_problem(410, "invalid_link");
    let me = ann.get("/me").await.assert(200).json;
    assert_eq!((&me["email"], &me["email_verified"]), (&json!("ann@example.org"), &json!(true)));
    log_in(&app, "ann@example.com", PASSWORD).await.assert_problem(401, "invalid_credentials");
    log_in(&app, "ann@example.org", PASSWORD).await.assert(200);
}

#[tokio::test]
async fn a_change_of_address_is_worth_nothing_after_another_or_a_new_password() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let link = async || {
        let mails = mails(&app).await;
        mails.into_iter().find_map(|(_, token, _)| token).unwrap()
    };
    let confirm = |token: String| app.anybody.post("/auth/verify-email", json!({"token": token}));

    change_email(&ann, "first@example.org").await.assert(202);
    let first = link().await;
    change_email(&ann, "second@example.org").await.assert(202);
    let second = link().await;
    confirm(first).await.assert_problem(410, "invalid_link");

    // Whoever asked for it knew the password; its owner sets another.
    change_password(&ann, PASSWORD, OTHER).await.assert(204);
    confirm(second).await.assert_problem(410, "invalid_link");
    assert_eq!(ann.get("/me").await.json["email"], "ann@example.com");
}

#[tokio::test]
async fn an_address_that_somebody_has_is_asked_for_like_any_other_and_not_given() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let free = change_email(&ann, "free@example.com").await.assert(202);
    assert_eq!(mails(&app).await.len(), 2);
    app.user("bob").await;
    let taken = change_email(&ann, "bob@example.com").await.assert(202);
    assert_eq!(free.text, taken.text);
    let token = mails(&app).await.into_iter().find_map(|(_, token, _)| token).unwrap();
    let confirm = || app.anybody.post("/auth/verify-email", json!({"token": token}));
    confirm().await.assert_problem(409, "email_taken");
    assert_eq!(ann.get("/me").await.json["email"], "ann@example.com");
}

#[tokio::test]
async fn an_account_is_deleted_after_a_week_with_everything_in_it() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    for _ in 0..3 {
        ann.create_task(json!({"title": "x", "tags": ["y"], "reminders": [{"kind": "absolute", "at": "2031-01-01T00:00:00Z"}]}))
            .await;
    }
    bob.create_task(json!({"title": "stays"})).await;
    let asked = ann.delete("/me").await.assert(202);
    assert_eq!(asked.json["deletes_at"], "2030-01-08T00:00:00Z");
    let [(to, _, text)] = &mails(&app).await[..] else { panic!("one mail") };
    assert!(to == "ann@example.com" && text.contains("Tue 8 Jan 2030"), "{text}");
    assert_eq!(ann.get("/me").await.json["deletion_requested_at"], "2030-01-01T00:00:00Z");
    app.db.clock().set(at("2030-01-01T00:10:00Z"));
    assert_eq!(ann.delete("/me").await.assert(202).json, asked.json, "asking again changes nothing");

    let prune = async || {
        let mut tx = app.db.begin().await.unwrap();
        PruneHistory {}.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        app.work().await;
    };
    app.db.clock().set(at("2030-01-07T23:59:59Z"));
    prune().await;
    assert_eq!(count(&app, "users").await, 2);
    app.db.clock().set(at("2030-01-08T00:00:01Z"));
    prune().await;
    for (from, left) in [("users", 1), ("tasks", 1), ("reminder_fires", 0), ("tags", 0)] {
        assert_eq!(count(&app, from).await, left, "{from}");
    }
    log_in(&app, "ann@example.com", PASSWORD).await.assert_problem(401, "invalid_credentials");
    log_in(&app, "bob@example.com", PASSWORD).await.assert(200);
}

#[tokio::test]
async fn a_deletion_is_taken_back_by_logging_in_or_by_saying_so() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let pending = async || ann.get("/me").await.assert(200).json["deletion_requested_at"].clone();
    ann.delete("/me").await.assert(202);
    app.work().await;
    assert_eq!(app.mail().await.len(), 1);
    assert!(pending().await.is_string());
    log_in(&app, &ann.email, "incorrect horse").await.assert_problem(401, "invalid_credentials");
    assert!(pending().await.is_string());
    log_in(&app, &ann.email, PASSWORD).await.assert(200);
    assert_eq!(pending().await, Value::Null);

    ann.delete("/me").await.assert(202);
    let kept = ann.act("/me/restore").await.assert(200);
    assert_eq!(kept.json["deletion_requested_at"], Value::Null);
    app.work().await;
    assert!(app.mail().await.is_empty(), "a letter that is not true any more is not sent");
}

#[tokio::test]
async fn the_last_administrator_cannot_be_deleted() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    app.make_admin(&ann).await;
    ann.delete("/me").await.assert_problem(409, "last_admin");
    app.make_admin(&bob).await;
    // Both at once: one of them has to stay.
    let (a, b) = tokio::join!(ann.delete("/me"), bob.delete("/me"));
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409]);
    app.work().await;
    assert_eq!(app.mail().await.len(), 1);
    // Who is about to be deleted does not count as an administrator who stays.
    let (stays, goes) = if a.status == 409 { (&ann, &bob) } else { (&bob, &ann) };
    let demote = json!({"role": "user"});
    stays
        .patch(&format!("/admin/users/{}", stays.id), demote.clone())
        .await
        .assert_problem(409, "last_admin");
    stays.patch(&format!("/admin/users/{}", goes.id), demote).await.assert(200);
}
