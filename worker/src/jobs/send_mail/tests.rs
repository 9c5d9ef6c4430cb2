#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use chrono::{DateTime, Utc};
use common::testing::at;
use tools::mail_sink::{MailSink, Options};

use super::*;
use crate::testing::{Bench, smtp};

const START: &str = "2030-01-01T12:00:00Z";

async fn link_for(bench: &Bench, user: UserId, purpose: TokenPurpose) -> OneTimeTokenId {
    let mut tx = bench.db().begin().await.unwrap();
    let id = OneTimeToken::create(&mut tx, user, purpose).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    id
}

async fn send(bench: &Bench, user_id: UserId, letter: Letter) -> Result<(), JobError> {
    SendMail { user_id, letter }.run(&bench.context).await
}

#[track_caller]
fn assert_cancelled(result: Result<(), JobError>, why: &str) {
    match result {
        Err(JobError::Cancel(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_snoozed(result: Result<(), JobError>, until: DateTime<Utc>) {
    assert!(matches!(result, Err(JobError::Snooze(instant)) if instant == until), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_leads_to_the_page_of_its_purpose() {
    let bench = Bench::at(START).await;
    let ann = bench.user("ann@example.com").await;
    for (purpose, page, subject) in [
        (TokenPurpose::VerifyEmail, "/account/verify?token=tto_", "Confirm your address"),
        (TokenPurpose::ResetPassword, "/account/reset?token=tto_", "Set another password"),
        (TokenPurpose::SetPassword, "/account/reset?token=tto_", "Your account"),
    ] {
        let token_id = link_for(&bench, ann, purpose).await;
        let letter = match purpose {
            TokenPurpose::VerifyEmail => Letter::VerifyEmail { token_id },
            _ => Letter::ResetPassword { token_id },
        };
        send(&bench, ann, letter).await.unwrap();
        let mails = bench.mails();
        let mail = mails.last().unwrap();
        assert_eq!(
            (mail.subject.as_str(), &*mail.envelope.to),
            (subject, &["ann@example.com".to_owned()][..])
        );
        assert!(mail.text.contains(page) && mail.html.contains(page), "{}", mail.text);
        let names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"Auto-Submitted") && !names.contains(&"List-Unsubscribe"), "{names:?}");
    }
    assert_eq!(bench.count("mail_counts WHERE sent = 3 AND day = '2030-01-01'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_worth_nothing_any_more_is_not_mailed() {
    let bench = Bench::at(START).await;
    let ann = bench.user("ann@example.com").await;
    let token_id = link_for(&bench, ann, TokenPurpose::ResetPassword).await;
    let letter = || Letter::ResetPassword { token_id };
    for (change, back, why) in [
        ("one_time_tokens SET used_at = now()", "one_time_tokens SET used_at = NULL", "was used"),
        ("users SET email = 'eve@example.com'", "users SET email = 'ann@example.com'", "another address"),
        ("users SET is_active = false", "users SET is_active = true", "switched off"),
    ] {
        bench.run(&format!("UPDATE {change}")).await;
        assert_cancelled(send(&bench, ann, letter()).await, why);
        bench.run(&format!("UPDATE {back}")).await;
    }
    bench.advance_to("2030-01-01T13:00:00Z");
    assert_cancelled(send(&bench, ann, letter()).await, "has expired");
    assert!(bench.mails().is_empty());
}

/// Who got as many mails as a day allows, unsubscribed and never confirmed the address still gets a link to log in by.
#[tokio::test(flavor = "multi_thread")]
async fn security_mail_is_held_back_by_nothing() {
    let mut bench = Bench::at(START).await;
    bench.context.settings.require_email_verification = true;
    let ann = bench.user("ann@example.com").await;
    bench.run(&format!("INSERT INTO mail_counts VALUES ('{ann}', '2030-01-01', 200)")).await;
    suppress_all(&bench).await;
    let token_id = link_for(&bench, ann, TokenPurpose::ResetPassword).await;
    send(&bench, ann, Letter::ResetPassword { token_id }).await.unwrap();
    assert_eq!(bench.mails().len(), 1);
}

async fn suppress_all(bench: &Bench) {
    bench
        .run(
            "INSERT INTO mail_suppressions (id, address_hash, reason, created_at)
             VALUES (gen_random_uuid(), sha256('ann@example.com'), 'admin', '2026-01-01Z')",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_goes_only_where_it_is_wanted_and_waits_for_tomorrow_if_there_were_many() {
    let mut bench = Bench::at(START).await;
    let ann = bench.user("ann@example.com").await;
    let endpoint_id = EndpointId::new();
    bench
        .run(&format!(
            "INSERT INTO webhook_endpoints (id, owner_id, url, events, secret_enc, state, created_at, updated_at)
             VALUES ('{endpoint_id}', '{ann}', 'https://example.com/<hook>', '{{}}', '', 'auto_disabled', '2026-01-01Z', '2026-01-01Z')"
        ))
        .await;
    let notice = || Letter::WebhookDisabled { endpoint_id };

    bench.context.settings.require_email_verification = true;
    assert_cancelled(send(&bench, ann, notice()).await, "not confirmed");
    bench.context.settings.require_email_verification = false;

    bench.run(&format!("INSERT INTO mail_counts VALUES ('{ann}', '2030-01-01', 200)")).await;
    assert_snoozed(send(&bench, ann, notice()).await, at("2030-01-02T00:00:00Z"));
    assert!(bench.mails().is_empty());
    bench.advance_to("2030-01-02T00:00:00Z");
    send(&bench, ann, notice()).await.unwrap();
    assert!(
        bench.mails()[0].html.contains("https://example.com/&#60;hook&#62;"),
        "{}",
        bench.mails()[0].html
    );

    let bob = bench.user("bob@example.com").await;
    assert_cancelled(send(&bench, bob, notice()).await, "gone");
    bench.run("UPDATE webhook_endpoints SET state = 'active'").await;
    assert_cancelled(send(&bench, ann, notice()).await, "switched on again");
    bench.run("UPDATE webhook_endpoints SET state = 'auto_disabled'").await;
    suppress_all(&bench).await;
    assert_cancelled(send(&bench, ann, notice()).await, "no mail of this kind");
    assert_eq!(bench.mails().len(), 1);
}

/// R25 of the goals, for account mails.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_decides_how_the_job_ends() {
    let mut bench = Bench::at(START).await;
    for (email, retried) in [("tempfail@example.com", true), ("bounce@example.com", false)] {
        let user = bench.user(email).await;
        let token_id = link_for(&bench, user, TokenPurpose::VerifyEmail).await;
        let result = send(&bench, user, Letter::VerifyEmail { token_id }).await;
        assert_eq!(matches!(result, Err(JobError::Retry(_))), retried, "{email}: {result:?}");
        assert_eq!(result.is_ok(), !retried, "a refusal is no fault of ours");
    }
    let ann = bench.user("ann@example.com").await;
    let token_id = link_for(&bench, ann, TokenPurpose::VerifyEmail).await;
    let working = bench.context.smtp.replace(smtp("smtp://127.0.0.1:9", crate::smtp::LIMIT));
    assert!(matches!(send(&bench, ann, Letter::VerifyEmail { token_id }).await, Err(JobError::Retry(_))));
    bench.context.smtp = working;
    send(&bench, ann, Letter::VerifyEmail { token_id }).await.unwrap();
    assert_eq!(bench.mails().len(), 1);
}

/// The transcript is the job's result, whatever the server said, and never holds the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_everything_but_the_login() {
    let mut bench = Bench::at(START).await;
    let options = Options { credentials: Some("ann:right".parse().unwrap()), ..Options::default() };
    let sink = MailSink::start(options).await.unwrap();
    let ann = bench.user("ann@example.com").await;
    for (password, to, accepted, reply) in [
        ("right", None, true, "250"),
        ("right", Some("bounce@example.com"), false, "550"),
        ("wrongwrong", None, false, "535"),
    ] {
        let url = format!("smtp://ann:{password}@{}", sink.smtp_addr());
        bench.context.smtp = Some(smtp(&url, crate::smtp::LIMIT));
        let letter = Letter::Test { to: to.map(str::to_owned) };
        let mut tx = bench.db().begin().await.unwrap();
        let job = SendMail { user_id: ann, letter: letter.clone() }.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let composed = compose(&bench.context, &SendMail { user_id: ann, letter }).await.unwrap();
        let origin = Origin { request_id: None, traceparent: None };
        let header = Header {
            message_id: "<1@example.com>",
            list_id: "account.example.com".to_owned(),
            thread: None,
            unsubscribe: None,
            date: at(START),
            origin: &origin,
        };
        let smtp = bench.context.smtp.clone().unwrap();
        try_out(&bench.context, &smtp, job, &composed, &header).await.unwrap();
        bench.run("UPDATE jobs SET state = 'done', finished_at = '2030-01-01Z'").await;
        let ended = ledger::wait_for(bench.db(), job, std::time::Duration::ZERO).await.unwrap().unwrap();
        let result = ended.result.unwrap();
        assert_eq!(result["accepted"], accepted, "{result:#}");
        assert!(result["reply"].as_str().unwrap().starts_with(reply), "{result:#}");
        let transcript = result["transcript"].to_string();
        assert!(transcript.contains("C: EHLO") && transcript.contains("C: AUTH PLAIN ***"), "{transcript}");
        assert!(transcript.contains(&format!("S: {reply}")), "{transcript}");
        for secret in [
            password.to_owned(),
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("\0ann\0{password}")),
        ] {
            assert!(!result.to_string().contains(&secret), "{transcript}");
        }
    }
    assert_eq!(sink.messages().len(), 1);
    assert_eq!(bench.count("queues WHERE paused_at IS NOT NULL").await, 0, "a test pauses nothing");
}
