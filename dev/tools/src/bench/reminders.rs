use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use common::db::RunQueryDsl as _;

use super::fixture::Fixture;
use crate::mail_sink::{MailSink, Options};

/// People with a reminder at the same instant.
pub(super) const PEOPLE: usize = 1_000;
/// Until the reminders are due: a scheduler and three workers start, and look round.
const AHEAD: TimeDelta = TimeDelta::seconds(4);

/// P10: milliseconds from the instant of the reminders to the arrival of their mails, sorted. Three workers, as
/// shipped. Fails if a mail comes early, twice or not at all.
pub(super) async fn lateness(history: u32) -> anyhow::Result<Vec<f64>> {
    let fixture = Fixture::new(history).await?;
    let sink = MailSink::start(Options { keep: 2 * PEOPLE, ..Options::default() }).await?;
    let mut programs = vec![fixture.scheduler()?];
    for _ in 0..3 {
        programs.push(fixture.mailer(sink.smtp_addr())?);
    }
    for program in &mut programs {
        program.ready().await?;
    }
    let now = fixture.now().await?;
    let due = now + AHEAD;
    for statement in [
        format!(
            "INSERT INTO users (id, email, email_verified_at, full_name, time_zone, created_at, updated_at)
             SELECT gen_random_uuid(), 'p' || n || '@example.com', t, 'P' || n, 'UTC', t, t
             FROM generate_series(1, {PEOPLE}) n, (SELECT timestamptz '{now}') AS now (t)"
        ),
        "INSERT INTO tasks (id, owner_id, created_by, title, created_at, updated_at)
         SELECT gen_random_uuid(), id, id, 'task of ' || email, created_at, created_at FROM users"
            .to_owned(),
        format!(
            "INSERT INTO reminders (id, task_id, user_id, kind, at_local, at_zone, created_at)
             SELECT gen_random_uuid(), id, owner_id, 'absolute', '{}', 'UTC', created_at FROM tasks",
            due.naive_utc()
        ),
        format!(
            "INSERT INTO reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, created_at)
             SELECT gen_random_uuid(), id, task_id, user_id, '{due}', '{due}', created_at FROM reminders"
        ),
    ] {
        diesel::sql_query(statement).execute(&mut fixture.db.conn().await?).await?;
    }
    let mails =
        sink.wait_for_count(PEOPLE, Duration::from_secs(60)).await.context("waiting for the mails")?;
    let mut people: Vec<_> = mails.iter().map(|mail| mail.envelope.to.join(",")).collect();
    people.sort_unstable();
    people.dedup();
    ensure!(
        people.len() == PEOPLE && mails.len() == PEOPLE,
        "{} mails to {} people",
        mails.len(),
        people.len()
    );
    let mut millis: Vec<f64> = mails
        .iter()
        .map(|mail| (mail.arrived_at - due).num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0)
        .collect();
    millis.sort_by(f64::total_cmp);
    ensure!(millis.iter().all(|late| *late >= 0.0), "a reminder came early");
    Ok(millis)
}
