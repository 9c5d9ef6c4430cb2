use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chaos::cluster::{Cluster, Shape, secs};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use common::clock::Clock;
use futures::future::join_all;
use serde_json::json;
use tools::mail_sink::Message;

use crate::figures::{Figures, lateness, say};

/// What all of it is for: a hundred reminders of twenty people over a minute, asked for through the REST API. None comes
/// early, none twice, 99 % at most 2 s late.
#[tokio::test]
async fn a_hundred_reminders_come_on_time() {
    const PEOPLE: usize = 20;
    const EACH: usize = 5;
    let mut cluster = Cluster::start(Shape { apis: 2, ..Shape::default() }).await;
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(cluster.person(&format!("person-{number}")).await);
    }
    // The API keeps whole seconds.
    let start = Clock::Database.instant().trunc_subsecs(0) + TimeDelta::seconds(5);
    let planned: BTreeMap<String, DateTime<Utc>> = (0..PEOPLE * EACH)
        .map(|number| (number, TimeDelta::seconds(i64::try_from(number * 60 / (PEOPLE * EACH)).unwrap())))
        .map(|(number, offset)| (format!("task #{number:03}"), start + offset))
        .collect();
    let created = planned.iter().enumerate().map(|(number, (title, at))| {
        let person = people[number % PEOPLE].through(cluster.apis[number % 2].public());
        async move {
            person
                .create_task(json!({ "title": title, "reminders": [{ "kind": "absolute", "at": at }] }))
                .await;
        }
    });
    join_all(created).await;

    let all = |mails: &[Arc<Message>]| {
        planned.keys().all(|title| mails.iter().any(|mail| mail.text.contains(title)))
    };
    let mails = cluster.mail().wait_for(all, secs(90)).await.unwrap();
    let figures = check(&planned, &mails, |number| format!("person-{}@example.com", number % PEOPLE));
    say!("{} reminders in {} mails: late by {figures}", planned.len(), mails.len());
    assert!(figures.percentile(99) <= secs(2), "{figures}");
    cluster.assert_all_live();
}

/// Each title is in one mail, to the right person, not before its time. Answers how late they were.
fn check(
    planned: &BTreeMap<String, DateTime<Utc>>,
    mails: &[Arc<Message>],
    email: impl Fn(usize) -> String,
) -> Figures {
    let late = planned.iter().enumerate().map(|(number, (title, at))| {
        let found: Vec<_> = mails.iter().filter(|mail| mail.text.contains(title)).collect();
        let [mail] = found.as_slice() else { panic!("{title} is in {} mails", found.len()) };
        assert_eq!(mail.envelope.to, [email(number)], "{title}");
        lateness(*at, mail.arrived_at)
    });
    Figures::new(late.collect())
}

/// P10 and T20, as far as a test may go: a thousand people with a reminder at the same instant. None early, none twice.
#[tokio::test]
async fn a_thousand_people_are_reminded_at_the_same_instant() {
    const PEOPLE: usize = 1_000;
    let cluster = Cluster::start(Shape { apis: 0, ..Shape::default() }).await;
    let now = Clock::Database.instant();
    let at = now + TimeDelta::seconds(3);
    for statement in [
        format!(
            "INSERT INTO users (id, email, email_verified_at, full_name, time_zone, created_at, updated_at)
             SELECT gen_random_uuid(), 'p' || n || '@example.com', t, 'P' || n, 'UTC', t, t
             FROM generate_series(0, {PEOPLE} - 1) n, (SELECT timestamptz '{now}') AS now (t)"
        ),
        "INSERT INTO tasks (id, owner_id, created_by, title, created_at, updated_at)
         SELECT gen_random_uuid(), id, id, 'task of ' || email, created_at, created_at FROM users"
            .to_owned(),
        format!(
            "INSERT INTO reminders (id, task_id, user_id, kind, at_local, at_zone, created_at)
             SELECT gen_random_uuid(), id, owner_id, 'absolute', '{}', 'UTC', created_at FROM tasks",
            at.naive_utc()
        ),
        format!(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, created_at)
             SELECT gen_random_uuid(), id, task_id, user_id, '{at}', '{at}', created_at FROM reminders"
        ),
    ] {
        assert_eq!(cluster.sql(&statement).await, PEOPLE, "{statement}");
    }
    let mails = cluster.mail().wait_for_count(PEOPLE, secs(60)).await.unwrap();
    let late: Vec<Duration> = mails.iter().map(|mail| lateness(at, mail.arrived_at)).collect();
    let mut people: Vec<_> = mails.iter().map(|mail| mail.envelope.to.join(",")).collect();
    people.sort_unstable();
    people.dedup();
    assert_eq!((people.len(), mails.len()), (PEOPLE, PEOPLE), "one mail each");
    say!("{PEOPLE} people in the same second: late by {}", Figures::new(late));
}
