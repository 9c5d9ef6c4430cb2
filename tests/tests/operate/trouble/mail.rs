use std::fs;

use chaos::cluster::{Cluster, Shape, secs, until};
use chrono::TimeDelta;
use common::clock::Clock;
use serde_json::json;
use tools::mail_sink::{Identity, MailSink, Options};

use super::logs;
use crate::tls::{authority, identity};

/// A mail server with a certificate for another host gets no mail and no password; the worker and the ledger say why. When the
/// certificate is right, the mail comes with the next try.
#[tokio::test]
async fn a_mail_server_with_a_certificate_for_another_host_gets_nothing_until_that_is_mended() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let known = authority();
    let file = cluster.path().join("ca.pem");
    fs::write(&file, known.pem()).unwrap();
    let shows = |name: &str, smtp| {
        let (certificates, key) = identity(&known, name, 2100);
        let identity = Some(Identity { certificates, key });
        Options { identity, implicit_tls: true, smtp, ..Options::default() }
    };
    let sink = MailSink::start(shows("mail.example.com", Options::default().smtp)).await.unwrap();
    let address = sink.smtp_addr();
    let worker = &mut cluster.workers[0];
    worker.kill9().await;
    worker.wait_exit(secs(5)).await;
    worker.set("SMTP_URL", format!("smtps://localhost:{}", address.port()));
    worker.set("SMTP_CA_FILE", file.display().to_string());
    worker.restart();

    let ann = cluster.person("ann").await;
    let at = Clock::Database.instant() + TimeDelta::milliseconds(500);
    ann.create_task(json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
    let parts = ["no TLS with localhost", "not valid for name", "SMTP_CA_FILE"];
    logs(&cluster.workers[0], &parts).await;
    let errors = until("the ledger has the reason", secs(10), async || {
        let job = cluster.jobs("send_reminder").await.pop().ok_or("no job")?;
        if job.attempt == 1 && job.errors != json!([]) {
            Ok(job.errors.to_string())
        } else {
            Err(format!("{job:?}"))
        }
    })
    .await;
    assert!(parts.iter().all(|part| errors.contains(part)), "{errors}");
    assert!(sink.messages().is_empty());
    sink.stop().await;

    let sink = MailSink::start(shows("localhost", address)).await.unwrap();
    // The next try, in half a minute.
    cluster.sql("UPDATE jobs SET run_at = created_at WHERE finished_at IS NULL").await;
    let mails = sink.wait_for_count(1, secs(20)).await.unwrap();
    assert!(mails[0].text.contains("Ship it"), "{}", mails[0].text);
}
