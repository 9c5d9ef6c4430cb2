//! What the API is measured with: people, their tasks, and the rows that making those left behind. Ids are made of
//! numbers, so that pgbench, which knows only numbers, can name any of them.

use anyhow::Context as _;
use axum::body::Bytes;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use common::{
    clock::Clock,
    ids::{TaskId, UserId},
    secrets::{Purpose, SecretKeys},
};
use futures::SinkExt as _;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

/// People with tasks of their own.
pub(super) const PEOPLE: u32 = 1_000;
/// The person after those, who has very many.
pub(super) const BUSY: u32 = PEOPLE;
/// How many the busy one has, if there are so many at all.
const BUSY_TASKS: u32 = 100_000;

/// The head of a task's id, which ends with its number; so does a person's.
pub(super) const TASK_HEAD: &str = "00000000-0000-7000-8000-";
pub(super) const PERSON_HEAD: &str = "00000000-0000-7000-9000-";

/// What there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    /// Tasks of the many: number `n` belongs to person `n % PEOPLE`. Those of the busy one have the numbers after them.
    pub(super) tasks: u32,
}

impl World {
    pub(super) fn task(number: u32) -> TaskId {
        id(TASK_HEAD, number).into()
    }

    pub(super) fn person(number: u32) -> UserId {
        id(PERSON_HEAD, number).into()
    }

    /// Tasks of the busy person.
    pub(super) fn busy_tasks(self) -> u32 {
        self.tasks.min(BUSY_TASKS)
    }

    /// Writes it all by COPY as the schema's owner, and has the statistics counted.
    pub(super) async fn write(self, owner_url: &str) -> anyhow::Result<()> {
        let (client, connection) = tokio_postgres::connect(owner_url, NoTls).await?;
        let connection = tokio::spawn(connection);
        // A tenth of a second before each other, the last one now.
        let now = Clock::Database.instant();
        let all = self.tasks + self.busy_tasks();
        let made = move |number: u32| {
            (now - TimeDelta::milliseconds(100 * i64::from(all - number))).format("%F %T%.6f+00")
        };
        let owner = move |number: u32| match number < self.tasks {
            true => Self::person(number % PEOPLE),
            false => Self::person(BUSY),
        };
        let verified = now.format("%F %T+00");

        copy(
            &client,
            "users (id, email, email_verified_at, full_name, time_zone, created_at, updated_at)",
            (0..=BUSY).map(|number| {
                let id = Self::person(number);
                format!("{id}\tp{number}@example.com\t{verified}\tPerson {number}\tEurope/Berlin\t{verified}\t{verified}")
            }),
        )
        .await?;
        copy(
            &client,
            "tags (id, owner_id, name, name_key, created_at)",
            (0..=BUSY).map(|number| {
                let person = Self::person(number);
                format!("{}\t{person}\tOffice\toffice\t{verified}", id(TAG_HEAD, number))
            }),
        )
        .await?;
        copy(
            &client,
            "tasks (id, owner_id, created_by, title, description, status, completed_at, priority, due_kind, due_date, due_at,
                 position, created_at, updated_at)",
            (0..all).map(|number| {
                let (id, owner, made) = (Self::task(number), owner(number), made(number));
                let (status, completed) = match number % 5 {
                    0 => ("done", made.to_string()),
                    1 => ("in_progress", NULL.to_owned()),
                    _ => ("todo", NULL.to_owned()),
                };
                let priority = ["none", "low", "medium", "high", "urgent"][number as usize / 7 % 5];
                let due = match number % 10 {
                    0..3 => format!("{NULL}\t{NULL}\t{NULL}"),
                    _ => {
                        let day = now.date_naive() + TimeDelta::days(i64::from(number / PEOPLE % 400) - 20);
                        format!("date\t{day}\t{day} 22:59:59.999999+00")
                    }
                };
                format!(
                    "{id}\t{owner}\t{owner}\tTask {number}: look after the printer\tThe one on floor {}; it wants toner and a \
                     kind word.\t{status}\t{completed}\t{priority}\t{due}\t{number}\t{made}\t{made}",
                    number % 9
                )
            }),
        )
        .await?;
        copy(
            &client,
            "task_tags (task_id, tag_id)",
            (0..all).filter(|number| number % 3 == 0).map(|number| {
                let owner = if number < self.tasks { number % PEOPLE } else { BUSY };
                format!("{}\t{}", Self::task(number), id(TAG_HEAD, owner))
            }),
        )
        .await?;
        let reminding = || (0..all).filter(|number| number % 10 >= 7);
        copy(
            &client,
            "reminders (id, task_id, user_id, kind, offset_minutes, created_at)",
            reminding().map(|number| {
                let (task, owner, made) = (Self::task(number), owner(number), made(number));
                format!("{}\t{task}\t{owner}\trelative\t-60\t{made}", id(REMINDER_HEAD, number))
            }),
        )
        .await?;
        copy(
            &client,
            "reminder_fires (id, reminder_id, task_id, user_id, fire_at, planned_for, created_at)",
            reminding().map(|number| {
                let (task, owner, made) = (Self::task(number), owner(number), made(number));
                let at = (now + TimeDelta::days(365 + i64::from(number % 400))).format("%F %T+00");
                let (id, reminder) = (id(FIRE_HEAD, number), id(REMINDER_HEAD, number));
                format!("{id}\t{reminder}\t{task}\t{owner}\t{at}\t{at}\t{made}")
            }),
        )
        .await?;
        copy(
            &client,
            "audit_events (id, happened_at, actor_id, actor_label, event_type, entity_type, entity_id, task_id, ip_hash,
                 request_id, details)",
            (0..all).map(|number| {
                let (task, owner, made) = (Self::task(number), owner(number), made(number));
                let label = if number < self.tasks { number % PEOPLE } else { BUSY };
                format!(
                    "{}\t{made}\t{owner}\tp{label}@example.com\ttask.created\ttask\t{task}\t{task}\t\\\\x{:064x}\tr-{number}\t\
                     {{\"title\": \"Task {number}\"}}",
                    id(AUDIT_HEAD, number),
                    number
                )
            }),
        )
        .await?;
        copy(
            &client,
            "jobs (id, kind, queue, lane, args, state, attempt, fence, run_at, max_attempts, created_at, started_at, finished_at)",
            (0..self.tasks).map(|number| {
                let (made, owner) = (made(number), owner(number));
                format!(
                    "{}\tsend_reminder\tmail\t{owner}\t{{\"user_id\": \"{owner}\"}}\tdone\t1\t1\t{made}\t6\t{made}\t{made}\t{made}",
                    id(JOB_HEAD, number)
                )
            }),
        )
        .await?;
        client
            .batch_execute(
                "VACUUM ANALYZE users, tags, tasks, task_tags, reminders, reminder_fires, audit_events, jobs",
            )
            .await?;
        drop(client);
        connection.await??;
        Ok(())
    }
}

const TAG_HEAD: &str = "00000000-0000-7000-a000-";
const REMINDER_HEAD: &str = "00000000-0000-7000-b000-";
const FIRE_HEAD: &str = "00000000-0000-7001-8000-";
const AUDIT_HEAD: &str = "00000000-0000-7001-9000-";
const JOB_HEAD: &str = "00000000-0000-7001-a000-";
/// As COPY has it.
const NULL: &str = "\\N";

fn id(head: &str, number: u32) -> uuid::Uuid {
    // The heads are written above, and a number has eight digits at most.
    format!("{head}{number:012x}").parse().unwrap_or_default()
}

async fn copy(client: &Client, into: &str, rows: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let sink = client.copy_in(&format!("COPY {into} FROM STDIN")).await.with_context(|| into.to_owned())?;
    let mut sink = std::pin::pin!(sink);
    let mut part = String::with_capacity(1 << 17);
    for row in rows {
        part += &row;
        part.push('\n');
        if part.len() > 1 << 16 {
            sink.send(Bytes::from(std::mem::take(&mut part))).await?;
        }
    }
    sink.send(Bytes::from(part)).await?;
    sink.finish().await.with_context(|| into.to_owned())?;
    Ok(())
}

/// An access token of this person, good for the whole measurement; as the API would issue it, but for its life.
pub(super) fn token(keys: &SecretKeys, person: UserId) -> anyhow::Result<String> {
    let key = keys.derive(Purpose::Jwt).into_iter().next().context("a key")?;
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let now = Clock::Database.instant();
    let header = part(json!({"typ": "JWT", "alg": "HS256", "kid": key.id}));
    let claims = part(json!({
        "sub": person,
        "sid": person,
        "iat": now.timestamp(),
        "exp": (now + TimeDelta::hours(6)).timestamp(),
    }));
    let signed = format!("{header}.{claims}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    Ok(format!("{signed}.{signature}"))
}
