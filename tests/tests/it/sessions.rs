//! Sessions when things happen at the same time (design §5): whoever comes first, a session that was ended stays
//! ended, and an address has one account.

use std::time::Duration;

use common::{
    credentials::{Client, Refresh, Session},
    db::{Db, RunQueryDsl as _, sql},
};
use diesel::{QueryableByName, sql_types::BigInt};
use serde_json::json;
use tests::app::{Answer, PASSWORD, TestApp};
use tokio::io::AsyncWriteExt as _;

async fn refresh(app: &TestApp, token: &str) -> Answer {
    app.anybody.post("/auth/refresh", json!({"refresh_token": token})).await
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Waits until a connection of this test's database waits for a lock of another, five seconds at most.
async fn until_a_lock_is_awaited(db: &Db) {
    let waiting = async {
        loop {
            let waiting = sql!(
                "SELECT count(*) AS count FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'"
            );
            let row: Count = waiting.get_result(&mut db.conn().await.unwrap()).await.unwrap();
            if row.count > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
}

/// Logs out while a refresh of the same session is not yet committed: the token that it hands out must not outlive
/// the session.
async fn log_out_beside_a_refresh(path: &str) {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut tx = app.db.begin().await.unwrap();
    let outcome = Session::refresh(&mut tx, &ann.refresh_token, &Client::default()).await.unwrap();
    let Refresh::Rotated(session) = outcome else { unreachable!("a first use is accepted") };

    let commit = async {
        until_a_lock_is_awaited(&app.db).await;
        tx.commit().await.unwrap();
    };
    let (logout, ()) = tokio::join!(ann.act(path), commit);
    logout.assert(204);
    refresh(&app, &session.refresh_token).await.assert_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_refresh_beside_a_logout_does_not_outlive_it() {
    log_out_beside_a_refresh("/auth/logout").await;
}

#[tokio::test]
async fn a_refresh_beside_a_logout_of_all_does_not_outlive_it() {
    log_out_beside_a_refresh("/auth/logout?all=true").await;
}

#[tokio::test]
async fn a_refresh_beside_a_reuse_of_an_older_token_does_not_outlive_it() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let second = refresh(&app, &ann.refresh_token).await.assert(200).json;
    app.db.clock().set(common::testing::at("2030-01-01T00:00:11Z"));
    let mut tx = app.db.begin().await.unwrap();
    let second = second["refresh_token"].as_str().unwrap();
    let outcome = Session::refresh(&mut tx, second, &Client::default()).await.unwrap();
    let Refresh::Rotated(session) = outcome else { unreachable!("a first use is accepted") };

    let commit = async {
        until_a_lock_is_awaited(&app.db).await;
        tx.commit().await.unwrap();
    };
    let (reuse, ()) = tokio::join!(refresh(&app, &ann.refresh_token), commit);
    reuse.assert_problem(401, "refresh_token_reused");
    refresh(&app, &session.refresh_token).await.assert_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn of_many_refreshes_at_once_two_succeed_and_the_next_ends_the_session() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let answers = futures::future::join_all((0..5).map(|_| refresh(&app, &ann.refresh_token))).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((good.len(), bad.len()), (2, 3), "the first use, and the one more that is allowed");
    for answer in good {
        let token = answer.json["refresh_token"].as_str().unwrap();
        refresh(&app, token).await.assert_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test]
async fn of_many_who_register_an_address_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let register = |email| {
        let account = json!({"email": email, "password": PASSWORD, "full_name": "Ann"});
        app.anybody.post("/auth/register", account)
    };
    let emails = ["ann@example.com", "Ann@Example.com", "ANN@EXAMPLE.COM"];
    let answers = futures::future::join_all(emails.map(register)).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1);
    for answer in refused {
        answer.assert_problem(409, "email_taken");
    }
}

#[tokio::test]
async fn a_change_is_finished_although_its_client_has_left() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let credentials = json!({"email": ann.email, "password": PASSWORD});
    let session = app.anybody.post("/auth/login", credentials).await.assert(200).json;
    // What holds the request up: somebody else has the row.
    let mut tx = app.db.begin().await.unwrap();
    sql!("SELECT id FROM users FOR UPDATE").execute(tx.conn()).await.unwrap();

    let body = json!({"full_name": "Ann B."}).to_string();
    let request = format!(
        "PATCH /api/v1/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        session["access_token"].as_str().unwrap(),
        body.len()
    );
    let address = app.url.strip_prefix("http://").unwrap();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    until_a_lock_is_awaited(&app.db).await;
    drop(client);
    // The server sees that the client has gone before it can go on.
    ann.get("/me").await.assert(200);
    tx.commit().await.unwrap();

    let changed = async {
        while ann.get("/me").await.assert(200).json["full_name"] != "Ann B." {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), changed).await.unwrap();
}

/// Logs in while `statement` about the account is not yet committed: what was true when the password was checked must not
/// open a session afterwards.
async fn log_in_beside(statement: &str) {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    let mut tx = app.db.begin().await.unwrap();
    diesel::sql_query(statement).execute(tx.conn()).await.unwrap();
    let commit = async {
        until_a_lock_is_awaited(&app.db).await;
        tx.commit().await.unwrap();
    };
    let login = app.anybody.post("/auth/login", json!({"email": ann.email, "password": PASSWORD}));
    let (login, ()) = tokio::join!(login, commit);
    login.assert_problem(401, "invalid_credentials");
    let sessions = sql!("SELECT count(DISTINCT family_id) AS count FROM refresh_tokens");
    let row: Count = sessions.get_result(&mut app.db.conn().await.unwrap()).await.unwrap();
    assert_eq!(row.count, 1, "that of before");
}

#[tokio::test]
async fn a_login_beside_the_end_of_its_account_leaves_no_session() {
    log_in_beside("UPDATE users SET is_active = false").await;
}

#[tokio::test]
async fn a_login_beside_a_change_of_the_password_leaves_no_session() {
    log_in_beside("UPDATE users SET password_hash = 'another'").await;
}

#[tokio::test]
async fn a_person_sees_where_they_are_logged_in_and_ends_what_is_not_theirs() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    app.db.clock().set(common::testing::at("2030-01-01T00:05:00Z"));
    let credentials = json!({"email": ann.email, "password": PASSWORD});
    let agent = [("user-agent", "Phone/1.0")];
    let login = app.anybody.send(reqwest::Method::POST, "/auth/login", &agent, Some(credentials)).await;
    let phone = app.anybody.with_token(login.assert(200).json["access_token"].as_str().unwrap());

    let list = ann.get("/me/sessions").await.assert(200);
    assert!(!list.text.contains("ip_hash") && !list.text.contains("token"), "{}", list.text);
    let sessions = list.json["data"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!((&sessions[0]["user_agent"], &sessions[0]["current"]), (&json!("Phone/1.0"), &json!(false)));
    assert_eq!(sessions[0]["created_at"], "2030-01-01T00:05:00Z");
    assert_eq!(sessions[1]["current"], true);

    // Renewing a session is using it; it is the same one, begun when it was.
    app.db.clock().set(common::testing::at("2030-01-01T00:07:00Z"));
    refresh(&app, &ann.refresh_token).await.assert(200);
    let sessions = phone.get("/me/sessions").await.assert(200).json["data"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    assert_eq!(sessions[0]["created_at"], "2030-01-01T00:00:00Z");
    assert_eq!(
        (&sessions[0]["last_used_at"], &sessions[0]["current"]),
        (&json!("2030-01-01T00:07:00Z"), &json!(false))
    );

    let path = format!("/me/sessions/{}", sessions[1]["id"].as_str().unwrap());
    bob.delete(&path).await.assert_problem(404, "not_found");
    ann.delete(&path).await.assert(204);
    phone.get("/me").await.assert_problem(401, "invalid_token");
    ann.delete(&path).await.assert_problem(404, "not_found");
    assert_eq!(ann.get("/me/sessions").await.json["data"].as_array().unwrap().len(), 1);
    // What has expired is not listed.
    app.db.clock().set(common::testing::at("2030-01-08T00:06:00Z"));
    let again = json!({"email": ann.email, "password": PASSWORD});
    let again = app.anybody.post("/auth/login", again).await.assert(200).json;
    let again = app.anybody.with_token(again["access_token"].as_str().unwrap());
    app.db.clock().set(common::testing::at("2030-01-08T00:08:00Z"));
    assert_eq!(again.get("/me/sessions").await.json["data"].as_array().unwrap().len(), 1);
}
