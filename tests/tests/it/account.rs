use reqwest::Method;
use serde_json::json;
use tests::app::{PASSWORD, TestApp};

/// The token of the newest mail's link.
async fn token(app: &TestApp) -> String {
    let mails = app.mail().await;
    let text = &mails.last().unwrap().text;
    let link = text.split_whitespace().find(|word| word.contains("?token=")).unwrap();
    link.split("?token=").nth(1).unwrap().to_owned()
}

fn ann() -> serde_json::Value {
    json!({"email": "ann@example.com", "password": PASSWORD, "full_name": "Ann"})
}

#[tokio::test]
async fn an_address_is_confirmed_before_anything_but_account_mail_goes_there() {
    let app = TestApp::start_verifying().await;
    let client = &app.anybody;
    let first = client.post("/auth/register", ann()).await.assert(202);
    app.work().await;
    let verify = token(&app).await;
    // The same answer for a known address; only the mail differs.
    let second = client.post("/auth/register", ann()).await.assert(202);
    assert_eq!(first.text, second.text);
    app.work().await;
    assert!(app.mail().await[0].text.contains("already"), "it says that there is an account");

    let session = client
        .post("/auth/login", json!({"email": "ann@example.com", "password": PASSWORD}))
        .await
        .assert(200);
    assert_eq!(session.json["user"]["email_verified"], false);
    let ann = client.with_token(session.json["access_token"].as_str().unwrap());
    let remind = |at: &str| json!({"title": "x", "reminders": [{"kind": "absolute", "at": at}]});
    let task = ann.post("/tasks", remind("2030-01-01T00:05:00Z")).await.assert(201).json;
    app.db.clock().set(common::testing::at("2030-01-01T00:05:00Z"));
    app.run_due().await;
    assert!(app.mail().await.is_empty());
    let fires = format!(
        "/tasks/{}/reminders/{}/fires",
        task["id"].as_str().unwrap(),
        task["reminders"][0]["id"].as_str().unwrap()
    );
    let fire = &ann.get(&fires).await.json["data"][0];
    assert_eq!((&fire["state"], &fire["reason"]), (&json!("skipped"), &json!("unverified")));

    client.post("/auth/verify-email", json!({"token": verify})).await.assert(204);
    client.post("/auth/verify-email", json!({"token": verify})).await.assert_problem(410, "invalid_link");
    assert_eq!(ann.get("/me").await.json["email_verified"], true);
    ann.post("/tasks", remind("2030-01-01T00:10:00Z")).await.assert(201);
    app.db.clock().set(common::testing::at("2030-01-01T00:10:00Z"));
    app.run_due().await;
    assert_eq!(app.mail().await.len(), 1);
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_once_and_ends_all_sessions() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let client = &app.anybody;
    let forgot = |email: &str| client.post("/auth/password/forgot", json!({"email": email}));
    let unknown = forgot("nobody@example.com").await.assert(202);
    let known = forgot("ann@example.com").await.assert(202);
    assert_eq!(unknown.text, known.text);
    app.work().await;
    let token = token(&app).await;
    let reset = |token: &str, password: &str| {
        client.post("/auth/password/reset", json!({"token": token, "password": password}))
    };
    reset(&token, "short").await.assert_problem(422, "validation_failed");
    client.post("/auth/verify-email", json!({"token": token})).await.assert_problem(410, "invalid_link");
    reset(&token, "another horse battery").await.assert(204);
    reset(&token, "yet another horse battery").await.assert_problem(410, "invalid_link");
    ann.get("/me").await.assert_problem(401, "invalid_token");
    let login = |password: &str| {
        client.post("/auth/login", json!({"email": "ann@example.com", "password": password}))
    };
    login(PASSWORD).await.assert_problem(401, "invalid_credentials");
    login("another horse battery").await.assert(200);
}

#[tokio::test]
async fn the_pages_of_account_mails_change_nothing_by_being_opened() {
    let app = TestApp::start().await;
    app.user("ann").await;
    app.anybody.post("/auth/password/forgot", json!({"email": "ann@example.com"})).await.assert(202);
    app.work().await;
    let token = token(&app).await;
    let url = format!("{}/account/reset", app.url);
    for _ in 0..3 {
        let page =
            app.anybody.send(Method::GET, &format!("{url}?token={token}"), &[], None).await.assert(200);
        assert!(page.text.contains("type=\"password\"") && page.text.contains(&token));
        assert!(page.header("content-security-policy").contains("form-action 'self'"));
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let post = |password: &str| {
        let body = format!("token={token}&password={password}").into_bytes();
        app.anybody.send_raw(Method::POST, &url, &form, body)
    };
    post("short").await.assert(422);
    post("another+horse+battery").await.assert(200);
    post("another+horse+battery").await.assert(410);
    let login = json!({"email": "ann@example.com", "password": "another horse battery"});
    app.anybody.post("/auth/login", login).await.assert(200);
    let hostile = format!("{url}?token=%22%3E%3Cscript%3E");
    let page = app.anybody.send(Method::GET, &hostile, &[], None).await.assert(200);
    assert!(!page.text.contains("<script>"), "{}", page.text);
}

#[tokio::test]
async fn a_mail_test_shows_the_dialogue_to_administrators_alone() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    ann.post("/admin/mail/test", json!({})).await.assert_problem(403, "forbidden");
    app.make_admin(&ann).await;
    let (answer, ()) = tokio::join!(ann.post("/admin/mail/test", json!({"to": "ops@example.com"})), async {
        while app.mail_count() == 0 {
            app.work().await;
            tokio::task::yield_now().await;
        }
    });
    let answer = answer.assert(200).json;
    assert_eq!((&answer["accepted"], &answer["to"]), (&json!(true), &json!("ops@example.com")));
    let lines = answer["transcript"].as_array().unwrap();
    assert!(
        lines.iter().any(|line| line.as_str().unwrap().contains("RCPT TO:<ops@example.com>")),
        "{lines:?}"
    );
    assert_eq!(app.mail().await.len(), 1);
    ann.post("/admin/mail/test", json!({"to": "nonsense"})).await.assert_problem(422, "validation_failed");
}
