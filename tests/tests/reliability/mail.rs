use chaos::cluster::{Cluster, Shape, secs, until};
use chrono::TimeDelta;
use common::clock::Clock;
use serde_json::json;

/// The SMTP server is away when a reminder is due. No process ends, and the mail is sent once it is back.
#[tokio::test]
async fn a_reminder_outlives_an_outage_of_smtp() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    cluster.stop_mail().await;
    let at = Clock::Database.instant() + TimeDelta::seconds(1);
    ann.create_task(json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
    let worker = &cluster.workers[0];
    until("a send fails", secs(20), async || {
        let errors = worker.metrics().await.sum("tasktracker_smtp_errors_total", &[]);
        if errors > 0.0 { Ok(()) } else { Err("none has".to_owned()) }
    })
    .await;
    cluster.assert_all_live();

    cluster.start_mail().await;
    // The first retry comes after 30 s, varied by a tenth.
    let mails = cluster.mail().wait_for_count(1, secs(45)).await.unwrap();
    assert_eq!(mails[0].to[0].address, ann.email);
    assert!(mails[0].text.contains("Ship it"), "{}", mails[0].text);
    until("the job is done", secs(5), async || cluster.drained().await).await;
    assert_eq!(cluster.mail().messages().len(), 1);
    cluster.assert_all_live();
}
