#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::testing::at;
use tools::mail_sink::{MailSink, Options};

use super::*;
use crate::testing::{Bench, smtp};

const PAUSED: &str = "queues WHERE name = 'mail' AND paused_at IS NOT NULL";

/// A worker whose login the mail server refuses, and the URL of that server with a password.
async fn refused_by_the_server() -> (Bench, MailSink, impl Fn(&str) -> String) {
    let mut bench = Bench::at("2030-01-01T12:00:00Z").await;
    let options = Options { credentials: Some("ann:right".parse().unwrap()), ..Options::default() };
    let sink = MailSink::start(options).await.unwrap();
    let server = sink.smtp_addr();
    let url = move |password: &str| format!("smtp://ann:{password}@{server}");
    bench.context.smtp = Some(smtp(&url("wrong"), super::super::LIMIT));
    let failure = bench.context.smtp.as_ref().unwrap().open("ann@example.com").await.err().unwrap();
    let Failure::Auth { error } = failure else { panic!("{failure:?}") };
    let ended = refused(&bench.context, &error).await;
    assert!(matches!(ended, JobError::Snooze(until) if until == at("2030-01-01T12:00:05Z")), "{ended:?}");
    (bench, sink, url)
}

/// R25 of the goals: 535 pauses the queue with the server's answer, and it goes on by itself when the server lets us in.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_pauses_and_a_probe_each_minute_resumes() {
    let (mut bench, sink, url) = refused_by_the_server().await;
    let why = format!("{PAUSED} AND paused_by = 'worker' AND reason LIKE 'The mail server refuses us: 535%'");
    assert_eq!(bench.count(&why).await, 1);
    assert_eq!(bench.count("queues WHERE reason LIKE '%wrong%'").await, 0, "without the password");

    // The server would let us in by now, but it is not time to ask.
    bench.context.smtp = Some(smtp(&url("right"), super::super::LIMIT));
    bench.advance_to("2030-01-01T12:00:59Z");
    probe_once(&bench.context).await.unwrap();
    assert_eq!(bench.count(PAUSED).await, 1);
    bench.context.smtp = Some(smtp(&url("wrong"), super::super::LIMIT));
    bench.advance_to("2030-01-01T12:01:00Z");
    probe_once(&bench.context).await.unwrap();
    assert_eq!(bench.count(&format!("{PAUSED} AND probe_at = '2030-01-01T12:02:00Z'")).await, 1);
    bench.context.smtp = Some(smtp(&url("right"), super::super::LIMIT));
    bench.advance_to("2030-01-01T12:02:00Z");
    probe_once(&bench.context).await.unwrap();
    assert_eq!(bench.count(PAUSED).await, 0);
    assert_eq!(
        bench.count("queues WHERE reason IS NULL AND probe_at IS NULL AND paused_by IS NULL").await,
        1
    );
    assert!(sink.messages().is_empty(), "a probe sends nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_paused_stays_paused() {
    let (mut bench, _sink, url) = refused_by_the_server().await;
    bench.context.smtp = Some(smtp(&url("right"), super::super::LIMIT));
    bench.run("UPDATE queues SET paused_by = 'ann', reason = 'mine', probe_at = '2020-01-01Z'").await;
    refused(&bench.context, "535 no").await;
    probe_once(&bench.context).await.unwrap();
    assert_eq!(bench.count(&format!("{PAUSED} AND paused_by = 'ann' AND reason = 'mine'")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_does_not_end_the_pause() {
    let (mut bench, _sink, _) = refused_by_the_server().await;
    bench.context.smtp = Some(smtp("smtp://127.0.0.1:9", super::super::LIMIT));
    bench.advance_to("2030-01-01T12:01:00Z");
    probe_once(&bench.context).await.unwrap();
    assert_eq!(bench.count(PAUSED).await, 1);
}

/// However many workers ask, one of them probes.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_all_workers_probes() {
    let (bench, _sink, _) = refused_by_the_server().await;
    bench.advance_to("2030-01-01T12:01:00Z");
    let turns = futures::future::join_all((0..8).map(|_| async {
        let mut conn = bench.db().conn().await.unwrap();
        ledger::take_probe(&mut conn, bench.db().clock().now(), MAIL, WORKER, PROBE_EVERY).await.unwrap()
    }));
    assert_eq!(turns.await.into_iter().filter(|turn| *turn).count(), 1);
}
