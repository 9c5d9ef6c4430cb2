#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::{db::RunQueryDsl as _, ids::TaskId, testing::at};
use diesel::sql_types::{Array, Uuid};
use tools::mail_sink::MailSink;

use super::*;
use crate::testing::{Bench, smtp};

fn by(job: JobId) -> Attempt {
    Attempt { job: Some(job), is_last: false }
}

async fn deliver_as(bench: &Bench, user: UserId, job: JobId) -> Result<(), JobError> {
    deliver(&bench.context, user, by(job)).await
}

fn header<'a>(mail: &'a tools::mail_sink::Message, name: &str) -> Option<&'a str> {
    let raw = std::str::from_utf8(&mail.raw).unwrap();
    let (head, _) = raw.split_once("\r\n\r\n").unwrap();
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_gets_one_mail_for_a_round() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let (ann, bob) = (bench.user("ann@example.com").await, bench.user("bob@example.com").await);
    let mut fires = Vec::new();
    for title in ["Ship it", "Call Carl", "Buy milk"] {
        let task = bench.task(ann, title).await;
        fires.push(bench.fire(ann, task, "2026-12-01T15:30:00Z").await);
    }
    let task = bench.task(bob, "Sleep").await;
    bench.fire(bob, task, "2026-12-01T15:29:00Z").await;

    let jobs = bench.queue_due().await;
    assert_eq!(jobs.len(), 2, "one job for each person");
    for user in [ann, bob] {
        deliver_as(&bench, user, jobs[0]).await.unwrap();
    }

    let mails = bench.mails();
    assert_eq!(mails.len(), 2);
    let mail = &mails[0];
    assert_eq!(mail.envelope.to, ["ann@example.com"]);
    assert_eq!(mail.subject, "Ship it and 2 more");
    for part in [&mail.text, &mail.html] {
        for fact in ["Call Carl", "Buy milk", "Tue 1 Dec 2026, 17:00 CET, in 30 minutes", "high"] {
            assert!(part.contains(fact), "{fact} in {part}");
        }
    }
    let message_id = header(mail, "Message-ID").unwrap();
    for fire in fires {
        let row = bench.fire_row(fire).await;
        assert_eq!(row.stands(), ("sent", None));
        assert_eq!(row.message_id.as_deref(), Some(message_id));
        assert_eq!(row.late_by_s, Some(0));
        assert!(row.smtp_reply.unwrap().starts_with("250"));
    }
    assert_eq!(header(mail, "Auto-Submitted"), Some("auto-generated"));
    assert_eq!(header(mail, "List-Id"), Some("<reminder.localhost>"));
    assert_eq!(header(mail, "X-Request-Id"), Some("request-1"));
    assert_eq!(header(mail, "traceparent"), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_eq!(header(mail, "Date"), Some("Tue, 01 Dec 2026 15:30:00 +0000"));

    // Again, and nothing is left to do.
    deliver_as(&bench, ann, jobs[0]).await.unwrap();
    assert_eq!(bench.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_early() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00.000001Z").await;
    assert!(bench.queue_due().await.is_empty());
    assert_eq!(bench.fire_row(fire).await.stands(), ("planned", None));

    bench.advance_to("2026-12-01T15:30:00.000001Z");
    let jobs = bench.queue_due().await;
    // The job has it, and the clock of the database is set back.
    bench.advance_to("2026-12-01T15:30:00Z");
    deliver_as(&bench, ann, jobs[0]).await.unwrap();
    assert!(bench.mails().is_empty());
    bench.advance_to("2026-12-01T15:30:00.000001Z");
    deliver_as(&bench, ann, jobs[0]).await.unwrap();
    assert_eq!(bench.mails().len(), 1);
}

/// T13 of semantics §11, and the other reasons.
#[tokio::test(flavor = "multi_thread")]
async fn t13_what_is_not_wanted_any_more_is_not_sent() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let done = "UPDATE tasks SET status = 'done', completed_at = now() WHERE";
    for (change, state, reason) in [
        (done, "cancelled", "task_done"),
        ("UPDATE tasks SET deleted_at = now() WHERE", "cancelled", "task_deleted"),
        ("UPDATE tasks SET archived_at = now() WHERE", "cancelled", "task_archived"),
        ("UPDATE reminders SET removed_at = now() WHERE task_", "cancelled", "reminder_removed"),
        ("UPDATE users SET is_active = false WHERE true OR", "skipped", "recipient_disabled"),
    ] {
        let user = bench.user(&format!("{reason}@example.com")).await;
        let task = bench.task(user, "Ship it").await;
        let fire = bench.fire(user, task, "2026-12-01T15:30:00Z").await;
        let job = *bench.queue_due().await.last().unwrap();
        bench.run(&format!("{change}{}id = '{task}'", if change.ends_with('_') { "" } else { " " })).await;
        deliver_as(&bench, user, job).await.unwrap();
        assert_eq!(bench.fire_row(fire).await.stands(), (state, Some(reason)));
    }
    assert!(bench.mails().is_empty());
}

/// T16 of semantics §11.
#[tokio::test(flavor = "multi_thread")]
async fn t16_a_late_mail_says_so() {
    let bench = Bench::at("2026-12-01T10:00:05Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T08:00:00Z").await;
    let jobs = bench.queue_due().await;
    deliver_as(&bench, ann, jobs[0]).await.unwrap();
    let mails = bench.mails();
    for part in [&mails[0].text, &mails[0].html] {
        assert!(part.contains("This reminder was planned for 09:00 and is 2 h late."), "{part}");
    }
    assert_eq!(bench.fire_row(fire).await.late_by_s, Some(7205));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_day_late_is_skipped() {
    let bench = Bench::at("2026-12-02T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let yesterday = bench.fire(ann, task, "2026-12-01T15:29:59Z").await;
    let just_so = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let jobs = bench.queue_due().await;
    assert_eq!(bench.fire_row(yesterday).await.stands(), ("skipped", Some("too_late")));
    assert_eq!(bench.fire_row(just_so).await.stands(), ("queued", None));
    // And while the job waits.
    bench.advance_to("2026-12-02T15:30:01Z");
    deliver_as(&bench, ann, jobs[0]).await.unwrap();
    assert_eq!(bench.fire_row(just_so).await.stands(), ("skipped", Some("too_late")));
    assert!(bench.mails().is_empty());
}

/// T21 of semantics §11: the worker is killed after the server's 250 and before `sent` is stored.
#[tokio::test(flavor = "multi_thread")]
async fn t21_a_mail_in_doubt_is_sent_once_more_with_its_message_id() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    crash_after_the_mail_server_has_it(&bench, ann, job).await;
    assert_eq!(bench.fire_row(fire).await.stands(), ("sending", None));

    // What became due meanwhile is a mail of its own.
    let other = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let second_job = bench.queue_due().await[1];
    deliver_as(&bench, ann, job).await.unwrap();
    deliver_as(&bench, ann, second_job).await.unwrap();
    let ids: Vec<String> =
        bench.mails().iter().map(|mail| header(mail, "Message-ID").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], ids[1], "the same mail twice");
    assert_ne!(ids[0], ids[2]);
    assert_eq!(bench.fire_row(fire).await.stands(), ("sent", Some("ambiguous")));
    assert_eq!(bench.fire_row(other).await.stands(), ("sent", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_in_doubt_twice_is_given_up() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    crash_after_the_mail_server_has_it(&bench, ann, job).await;
    crash_after_the_mail_server_has_it(&bench, ann, job).await;
    deliver_as(&bench, ann, job).await.unwrap();
    assert_eq!(bench.mails().len(), 2);
    assert_eq!(bench.fire_row(fire).await.stands(), ("dead", Some("ambiguous")));
}

async fn crash_after_the_mail_server_has_it(bench: &Bench, user: UserId, job: JobId) {
    let recipient = waiting(&bench.context, user).await.unwrap().unwrap();
    let smtp = bench.context.smtp.as_ref().unwrap();
    let draft = smtp.open(&recipient.email).await.unwrap();
    let claim = reminders::claim(bench.db(), user, Some(job), "localhost").await.unwrap().unwrap();
    let mail = render(&bench.context, user, &claim, &recipient).unwrap();
    let header = Header {
        message_id: &claim.message_id,
        list_id: "reminder.localhost".into(),
        thread: None,
        unsubscribe: None,
        date: claim.now,
        origin: &claim.origin,
    };
    draft.send(&mail, &header).await.unwrap();
}

/// T23 of semantics §11.
#[tokio::test(flavor = "multi_thread")]
async fn t23_one_refused_recipient_touches_nobody_else() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let mut people = Vec::new();
    for number in 0..100 {
        let email = if number == 50 { "bounce@example.com".into() } else { format!("p{number}@example.com") };
        let user = bench.user(&email).await;
        let task = bench.task(user, "Ship it").await;
        people.push((user, bench.fire(user, task, "2026-12-01T15:30:00Z").await));
    }
    let jobs = bench.queue_due().await;
    assert_eq!(jobs.len(), 100);
    let all = people.iter().zip(&jobs).map(|((user, _), job)| deliver_as(&bench, *user, *job));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(bench.mails().len(), 99);
    assert_eq!(bench.count("reminder_fires WHERE state = 'sent'").await, 99);
    let refused = bench.fire_row(people[50].1).await;
    assert_eq!(refused.stands(), ("dead", Some("rejected")));
    assert!(refused.smtp_reply.unwrap().starts_with("550"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_tried_again_until_the_last_attempt() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("tempfail@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    let Err(JobError::Retry(error)) = deliver_as(&bench, ann, job).await else { panic!("not retried") };
    assert!(error.to_string().starts_with("451"), "{error}");
    let row = bench.fire_row(fire).await;
    assert_eq!((row.stands(), &row.message_id), (("queued", None), &None));

    let last = Attempt { job: Some(job), is_last: true };
    deliver(&bench.context, ann, last).await.unwrap();
    let row = bench.fire_row(fire).await;
    assert_eq!(row.stands(), ("dead", Some("gave_up")));
    assert!(row.smtp_reply.unwrap().starts_with("451"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_mail_server_is_down() {
    let mut bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    let working = bench.context.smtp.replace(smtp("smtp://127.0.0.1:9", crate::smtp::LIMIT));
    assert!(matches!(deliver_as(&bench, ann, job).await, Err(JobError::Retry(_))));
    assert_eq!(bench.fire_row(fire).await.stands(), ("queued", None));
    bench.context.smtp = working;
    deliver_as(&bench, ann, job).await.unwrap();
    assert_eq!(bench.fire_row(fire).await.stands(), ("sent", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_the_mail_and_says_nothing_leaves_it_in_doubt() {
    let mut bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("silent@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    bench.context.smtp =
        Some(smtp(&format!("smtp://{}", bench.sink.smtp_addr()), Duration::from_millis(500)));
    assert!(matches!(deliver_as(&bench, ann, job).await, Err(JobError::Retry(_))));
    let row = bench.fire_row(fire).await;
    assert_eq!(row.stands(), ("queued", None));
    assert!(row.message_id.is_some(), "the next try is the same mail");
}

/// Two jobs of one person at once: each fire is in one mail.
#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_of_a_person_do_not_send_the_same_fire() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("slow@example.com").await;
    let mut tasks: Vec<TaskId> = Vec::new();
    for round in 0..2 {
        for number in 0..5 {
            let task = bench.task(ann, &format!("Task {round}{number}")).await;
            bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
            tasks.push(task);
        }
        bench.queue_due().await;
    }
    let jobs = bench.queue_due().await;
    assert_eq!(jobs.len(), 2);
    for job in &jobs {
        bench.start(*job).await;
    }
    let (first, second) = tokio::join!(deliver_as(&bench, ann, jobs[0]), deliver_as(&bench, ann, jobs[1]));
    for result in [first, second, deliver_as(&bench, ann, jobs[1]).await] {
        result.unwrap();
    }
    let text: String = bench.mails().iter().map(|mail| mail.text.clone()).collect();
    for round in 0..2 {
        for number in 0..5 {
            assert_eq!(text.matches(&format!("Task {round}{number}")).count(), 1, "{text}");
        }
    }
    let mut conn = bench.db().conn().await.unwrap();
    let sent = diesel::sql_query("SELECT id FROM reminder_fires WHERE state = 'sent' AND task_id = ANY($1)")
        .bind::<Array<Uuid>, _>(&tasks)
        .execute(&mut conn)
        .await
        .unwrap();
    assert_eq!(sent, 10);
}

/// Claims at the same moment: each fire is in one of them. Eight rounds, because the moment is short.
#[tokio::test(flavor = "multi_thread")]
async fn only_one_claim_gets_a_fire() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    for round in 0..8 {
        let ann = bench.user(&format!("ann{round}@example.com")).await;
        for number in 0..4 {
            let task = bench.task(ann, &format!("Task {number}")).await;
            bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
            bench.queue_due().await;
        }
        let jobs = bench.queue_due().await;
        let mut claims = tokio::task::JoinSet::new();
        for job in jobs.into_iter().rev().take(4) {
            bench.start(job).await;
            let db = bench.db().clone();
            claims.spawn(async move { reminders::claim(&db, ann, Some(job), "localhost").await.unwrap() });
        }
        let claimed: Vec<_> =
            claims.join_all().await.into_iter().flatten().flat_map(|claim| claim.fires).collect();
        assert_eq!(claimed.len(), 4, "round {round}");
    }
}

/// T32 of semantics §11.
#[tokio::test(flavor = "multi_thread")]
async fn t32_an_unknown_zone_falls_back() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    bench.run("UPDATE users SET time_zone = 'Mars/Base'").await;
    let task = bench.task(ann, "Ship it").await;
    bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    deliver_as(&bench, ann, job).await.unwrap();
    let text = bench.mails()[0].text.clone();
    assert!(text.contains("17:00 UTC, in 1 hour 30 minutes"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_the_login_costs_no_attempt() {
    let mut bench = Bench::at("2026-12-01T15:30:00Z").await;
    let options =
        tools::mail_sink::Options { credentials: Some("ann:right".parse().unwrap()), ..Default::default() };
    let sink = MailSink::start(options).await.unwrap();
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let fire = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    let url = |password| format!("smtp://ann:{password}@{}", sink.smtp_addr());
    bench.context.smtp = Some(smtp(&url("wrong"), crate::smtp::LIMIT));
    let Err(JobError::Snooze(until)) = deliver_as(&bench, ann, job).await else { panic!("not snoozed") };
    assert_eq!(until, at("2026-12-01T15:30:05Z"));
    assert_eq!(bench.fire_row(fire).await.stands(), ("queued", None));
    bench.context.smtp = Some(smtp(&url("right"), crate::smtp::LIMIT));
    deliver_as(&bench, ann, job).await.unwrap();
    assert_eq!(sink.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_whose_job_has_ended_are_found() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let mut fires = Vec::new();
    for (number, state) in ["dead", "cancelled", "done", "ready"].into_iter().enumerate() {
        let user = bench.user(&format!("p{number}@example.com")).await;
        let task = bench.task(user, "Ship it").await;
        fires.push(bench.fire(user, task, "2026-12-01T15:30:00Z").await);
        let job = *bench.queue_due().await.last().unwrap();
        let finished = if state == "ready" { "NULL" } else { "now()" };
        bench
            .run(&format!("UPDATE jobs SET state = '{state}', finished_at = {finished} WHERE id = '{job}'"))
            .await;
    }
    let mut tx = bench.db().begin().await.unwrap();
    assert_eq!(reminders::recover(&mut tx).await.unwrap().len(), 3);
    tx.commit().await.unwrap();
    let expected = [
        ("dead", Some("job_dead")),
        ("cancelled", Some("job_cancelled")),
        ("planned", None),
        ("queued", None),
    ];
    for (fire, stands) in fires.into_iter().zip(expected) {
        assert_eq!(bench.fire_row(fire).await.stands(), stands);
    }
}

/// What is over the day's limit comes tomorrow, all of it in one mail.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_limit_of_a_day_comes_tomorrow_in_one_mail() {
    let mut bench = Bench::at("2026-12-01T15:30:00Z").await;
    bench.context.settings.mail_per_user_per_day = 1;
    let (ann, bob) = (bench.user("ann@example.com").await, bench.user("bob@example.com").await);
    let mut fires = Vec::new();
    for (user, at) in [(ann, "15:30"), (ann, "15:31"), (ann, "15:32"), (bob, "15:32")] {
        let task = bench.task(user, &format!("At {at}")).await;
        fires.push(bench.fire(user, task, &format!("2026-12-01T{at}:00Z")).await);
        bench.advance_to(&format!("2026-12-01T{at}:00Z"));
        let job = *bench.queue_due().await.last().unwrap();
        let result = deliver_as(&bench, user, job).await;
        let tomorrow = common::testing::at("2026-12-02T00:00:00Z");
        let held = user == ann && at != "15:30";
        assert_eq!(
            matches!(result, Err(JobError::Snooze(until)) if until == tomorrow),
            held,
            "{at}: {result:?}"
        );
    }
    assert_eq!(bench.mails().len(), 2);
    for held in &fires[1..3] {
        assert_eq!(bench.fire_row(*held).await.stands(), ("queued", Some("mail_limit")));
    }
    bench.advance_to("2026-12-02T00:00:00Z");
    let job = *bench.queue_due().await.last().unwrap();
    deliver_as(&bench, ann, job).await.unwrap();
    let text = &bench.mails()[2].text;
    assert!(text.contains("At 15:31") && text.contains("At 15:32") && text.contains("8 h late"), "{text}");
    for held in &fires[1..3] {
        assert_eq!(bench.fire_row(*held).await.stands(), ("sent", None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mails_of_a_task_make_a_thread() {
    let bench = Bench::at("2026-12-01T15:30:00Z").await;
    let ann = bench.user("ann@example.com").await;
    let (ship, call) = (bench.task(ann, "Ship it").await, bench.task(ann, "Call Bob").await);
    for (tasks, instant) in [
        (&[ship][..], "2026-12-01T15:30:00Z"),
        (&[ship, ship], "2026-12-01T15:31:00Z"),
        (&[ship, call], "2026-12-01T15:32:00Z"),
    ] {
        for task in tasks {
            bench.fire(ann, *task, instant).await;
        }
        bench.advance_to(instant);
        let job = *bench.queue_due().await.last().unwrap();
        deliver_as(&bench, ann, job).await.unwrap();
    }
    let mails = bench.mails();
    let thread = format!("<task-{}@localhost>", ship.uuid().simple());
    for mail in &mails[..2] {
        assert_eq!(header(mail, "References"), Some(&*thread));
        assert_eq!(header(mail, "In-Reply-To"), Some(&*thread));
    }
    assert_ne!(header(&mails[0], "Message-ID"), header(&mails[1], "Message-ID"));
    assert_eq!(header(&mails[2], "References"), None, "several tasks are no thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_confirmed_gets_no_reminder_if_that_is_asked_for() {
    let mut bench = Bench::at("2026-12-01T15:30:00Z").await;
    bench.context.settings.require_email_verification = true;
    let ann = bench.user("ann@example.com").await;
    let task = bench.task(ann, "Ship it").await;
    let first = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = bench.queue_due().await[0];
    deliver_as(&bench, ann, job).await.unwrap();
    assert_eq!(bench.fire_row(first).await.stands(), ("skipped", Some("unverified")));
    bench.run("UPDATE users SET email_verified_at = now()").await;
    let second = bench.fire(ann, task, "2026-12-01T15:30:00Z").await;
    let job = *bench.queue_due().await.last().unwrap();
    deliver_as(&bench, ann, job).await.unwrap();
    assert_eq!(bench.fire_row(second).await.stands(), ("sent", None));
    assert_eq!(bench.mails().len(), 1);
}
