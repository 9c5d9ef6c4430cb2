use std::time::Instant;

use chaos::cluster::{Cluster, Person, Shape, secs, until};
use chrono::TimeDelta;
use common::{clock::Clock, jobs::MAIL, ledger::JobState};
use serde_json::json;

use crate::figures::say;

/// R25: the SMTP server is away when a reminder is due; an hour in the goals, until the first retry here. No process ends,
/// and the mail is sent once it is back.
#[tokio::test]
async fn r25_a_reminder_outlives_an_outage_of_smtp() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    cluster.stop_mail().await;
    remind(&ann, 1).await;
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

/// R25: a 451 is tried again until it goes well, a 550 is final at once, and neither holds up another person's mail.
#[tokio::test]
async fn r25_a_451_is_tried_again_and_a_550_is_final() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let later = cluster.person("tempfail").await;
    let never = cluster.person("bounce").await;
    let ann = cluster.person("ann").await;
    for person in [&later, &never, &ann] {
        remind(person, 0).await;
    }
    let mails = cluster.mail().wait_for_count(1, secs(10)).await.unwrap();
    assert_eq!(mails[0].to[0].address, ann.email);
    until("the 550 is settled and the 451 waits", secs(10), async || {
        let fires = (fires(&cluster, &never, "dead").await, fires(&cluster, &later, "queued").await);
        let waiting = cluster.jobs("send_reminder").await.iter().filter(|job| waits(job)).count();
        if (fires, waiting) == ((1, 1), 1) { Ok(()) } else { Err(format!("{fires:?}, {waiting}")) }
    })
    .await;
    for round in 2..=3 {
        try_again_now(&cluster).await;
        until("the 451 is tried again", secs(10), async || {
            let jobs = cluster.jobs("send_reminder").await;
            let tried = jobs.iter().filter(|job| waits(job)).map(|job| job.attempt).max();
            if tried == Some(round) { Ok(()) } else { Err(format!("{tried:?} times")) }
        })
        .await;
    }
    assert_eq!(cluster.mail().messages().len(), 1);
    cluster.sql("UPDATE users SET email = 'later@example.com' WHERE email = 'tempfail@example.com'").await;
    try_again_now(&cluster).await;
    let mails = cluster.mail().wait_for_count(2, secs(10)).await.unwrap();
    assert_eq!(mails[1].to[0].address, "later@example.com");
    until("everything is drained", secs(5), async || cluster.drained().await).await;
    let mut attempts: Vec<_> = cluster.jobs("send_reminder").await.iter().map(|job| job.attempt).collect();
    attempts.sort_unstable();
    say!("R25: sent after {} tries for a 451, one for a 550", attempts[2]);
    assert_eq!(attempts, [1, 1, 4]);
    assert!(cluster.jobs("send_reminder").await.iter().all(|job| job.state == JobState::Done));
    cluster.assert_all_live();
}

/// R26: a mail server that takes the mail and says nothing more holds a slot for 30 s at most: the next mail of a worker
/// that sends one at a time is late by no more.
#[tokio::test]
async fn r26_a_silent_mail_server_holds_a_slot_for_half_a_minute() {
    let mut cluster = Cluster::start(Shape {
        workers: 1,
        schedulers: 1,
        worker_arguments: vec!["--concurrency=mail=1".to_owned()],
        ..Shape::default()
    })
    .await;
    let (silent, ann) = (cluster.person("silent").await, cluster.person("ann").await);
    remind(&silent, 0).await;
    until("its mail is under way", secs(10), async || match fires(&cluster, &silent, "sending").await {
        1 => Ok(()),
        other => Err(format!("{other} fires are being sent")),
    })
    .await;
    let taken = Instant::now();
    remind(&ann, 0).await;
    let queue = cluster.queue_named(MAIL);
    until("the other one waits", secs(5), async || match queue.sizes().await {
        Ok((waiting, leased)) if waiting + leased == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(cluster.mail().messages().is_empty(), "there is one slot");
    let mails = cluster.mail().wait_for_count(1, secs(40)).await.unwrap();
    let freed = taken.elapsed();
    say!("R26: the slot was free after {:.1} s", freed.as_secs_f64());
    assert_eq!(mails[0].to[0].address, ann.email);
    assert!(freed <= secs(31), "{freed:?}");
    cluster.assert_all_live();
}

/// R27: a worker is killed after the mail server has the mail and before the ledger knows. The mail comes once more at
/// most, under the same Message-ID.
#[tokio::test]
async fn r27_a_kill_between_data_and_commit_repeats_a_mail_once() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    // The mail server keeps the mail and takes its time to say so.
    let slow = cluster.person("slow").await;
    remind(&slow, 0).await;
    cluster.mail().wait_for_count(1, secs(10)).await.unwrap();
    cluster.workers[0].kill9().await;
    let killed = Instant::now();
    assert_eq!(fires(&cluster, &slow, "sending").await, 1, "it was not killed in between");
    cluster.workers[0].restart();
    until("everything is drained", secs(40), async || cluster.drained().await).await;
    let mails = cluster.mail().messages();
    let ids: Vec<_> = mails.iter().map(|mail| mail.message_id.as_str()).collect();
    say!("R27: {} mails, settled {:.1} s after the kill", mails.len(), killed.elapsed().as_secs_f64());
    assert!((1..=2).contains(&mails.len()), "{ids:?}");
    assert!(ids.iter().all(|id| *id == ids[0] && !id.is_empty()), "{ids:?}");
    assert_eq!(fires(&cluster, &slow, "sent").await, 1);
}

/// A task with a reminder so many seconds from now.
async fn remind(person: &Person, seconds: i64) {
    let at = Clock::Database.instant() + TimeDelta::seconds(seconds);
    person.create_task(json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] })).await;
}

/// A job that failed and is to be tried again.
fn waits(job: &chaos::cluster::JobRow) -> bool {
    job.state == JobState::Ready && job.attempt > 0
}

/// What waits for its next try does not wait any longer.
async fn try_again_now(cluster: &Cluster) {
    let now = Clock::Database.instant();
    let due = format!("UPDATE jobs SET run_at = '{now}' WHERE finished_at IS NULL AND state = 'ready'");
    cluster.sql(&due).await;
}

/// How many reminders of somebody are in this state.
async fn fires(cluster: &Cluster, person: &Person, state: &str) -> usize {
    cluster
        .sql(&format!(
            "SELECT FROM reminder_fires f JOIN users u ON u.id = f.user_id
             WHERE u.email = '{}' AND f.state = '{state}'",
            person.email
        ))
        .await
}
