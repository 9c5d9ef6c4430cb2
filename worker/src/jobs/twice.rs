//! Every kind run once, twice, and twice at once (goals R42): the same rows and the same mails. A kind needs a scene
//! here; [`set`] is where it goes.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use std::collections::{BTreeMap, BTreeSet};

use common::{
    db::RunQueryDsl as _,
    ids::{DigestRunId, EndpointId, EventId, JobId, ReportId},
    jobs::{
        Act, AnyJob, ArchiveCompleted, FanOutEvent, GenerateReport, KINDS, Probe, PruneHistory,
        PurgeArchived, SealAudit, SendDailySummary, SendReminder,
    },
};
use diesel::{QueryableByName, sql_types::Text};

use crate::{
    job::{JobError, Outcome},
    runner::Running,
    testing::Bench,
};

/// A job with something to do, and the rows that it does it to.
struct Scene {
    job: AnyJob,
    id: JobId,
}

impl Scene {
    /// For kinds that do not ask which job they are.
    fn of(job: AnyJob) -> Self {
        Self { job, id: JobId::new() }
    }
}

/// Sets the scene of a kind at noon on 1 December 2030. Rows by plain SQL, and then the job. Let there be something to
/// do, something to leave alone, and something for two to quarrel about.
async fn set(bench: &mut Bench, kind: &str) -> Scene {
    let ann = bench.user("ann@example.com").await;
    match kind {
        "send_reminder" => {
            for title in ["Ship it", "Call Carl", "Done already"] {
                let task = bench.task(ann, title).await;
                bench.fire(ann, task, "2030-12-01T11:59:00Z").await;
            }
            bench
                .run("UPDATE tasks SET status = 'done', completed_at = '2030-12-01Z' WHERE title = 'Done already'")
                .await;
            let id = *bench.queue_due().await.last().unwrap();
            bench.start(id).await;
            Scene { job: AnyJob::SendReminder(SendReminder { user_id: ann }), id }
        }
        "archive_completed" => {
            for (title, done) in [("Old", "2030-10-01Z"), ("Older", "2030-09-01Z"), ("Recent", "2030-11-30Z")]
            {
                let task = bench.task(ann, title).await;
                bench.fire(ann, task, "2031-01-01T00:00:00Z").await;
                bench
                    .run(&format!(
                        "UPDATE tasks SET status = 'done', completed_at = '{done}' WHERE id = '{task}'"
                    ))
                    .await;
            }
            Scene::of(AnyJob::ArchiveCompleted(ArchiveCompleted {}))
        }
        "purge_archived" => {
            bench.context.settings.purge_archived_after_days = Some(30);
            for (title, archived) in [("Old", "2030-10-01Z"), ("Recent", "2030-11-30Z")] {
                let task = bench.task(ann, title).await;
                bench.fire(ann, task, "2030-09-01T00:00:00Z").await;
                bench.run(&format!("UPDATE tasks SET archived_at = '{archived}' WHERE id = '{task}'")).await;
            }
            Scene::of(AnyJob::PurgeArchived(PurgeArchived {}))
        }
        "prune_history" => {
            for (title, deleted) in [("Old", "2030-10-01Z"), ("Recent", "2030-11-30Z")] {
                let task = bench.task(ann, title).await;
                bench.run(&format!("UPDATE tasks SET deleted_at = '{deleted}' WHERE id = '{task}'")).await;
            }
            for (key, expires) in [("old", "2030-11-30Z"), ("new", "2030-12-02Z")] {
                bench
                    .run(&format!(
                        "INSERT INTO idempotency_keys (principal, method, path, key, body_sha256, status, response_headers, response_body, created_at, expires_at)
                         VALUES ('{ann}', 'POST', '/', '{key}', '', 201, '{{}}', '', '{expires}', '{expires}')"
                    ))
                    .await;
            }
            Scene::of(AnyJob::PruneHistory(PruneHistory {}))
        }
        "generate_report" => {
            bench.task(ann, "Ship it").await;
            let report_id = ReportId::new();
            bench
                .run(&format!(
                    "INSERT INTO reports (id, user_id, first_day, last_day, grouped_by, time_zone, periods, created_at)
                     VALUES ('{report_id}', '{ann}', '2026-01-01', '2026-12-31', 'day', 'UTC', 365, '2030-12-01Z')"
                ))
                .await;
            Scene::of(AnyJob::GenerateReport(GenerateReport { report_id, user_id: ann }))
        }
        "seal_audit" => {
            bench
                .run(
                    "INSERT INTO audit_events (id, happened_at, actor_label, event_type, entity_type)
                     SELECT gen_random_uuid(), '2030-12-01Z', 'system', 'task.archived', 'task' FROM generate_series(1, 3)",
                )
                .await;
            bench.run("UPDATE audit_horizon SET seq = 3, xid = '3'").await;
            Scene::of(AnyJob::SealAudit(SealAudit {}))
        }
        "send_daily_summary" => {
            bench.task(ann, "Ship it").await;
            bench.run("UPDATE tasks SET due_date = '2030-12-01', due_at = '2030-12-01T16:00:00Z'").await;
            let run_id = DigestRunId::new();
            bench
                .run(&format!(
                    "INSERT INTO digest_runs (id, user_id, local_date, scheduled_at, created_at)
                     VALUES ('{run_id}', '{ann}', '2030-12-01', '2030-12-01T11:59:00Z', '2030-12-01T11:59:00Z')"
                ))
                .await;
            Scene::of(AnyJob::SendDailySummary(SendDailySummary { run_id, user_id: ann }))
        }
        "fan_out_event" => {
            let task = bench.task(ann, "Ship it").await;
            let (event_id, endpoint, other) = (EventId::new(), EndpointId::new(), EndpointId::new());
            bench
                .run(&format!(
                    "INSERT INTO webhook_endpoints (id, owner_id, url, events, secret_enc, created_at, updated_at)
                     VALUES ('{endpoint}', '{ann}', 'https://example.com/1', '{{task.created}}', '', '2030-01-01Z', '2030-01-01Z'),
                         ('{other}', '{ann}', 'https://example.com/2', '{{task.deleted}}', '', '2030-01-01Z', '2030-01-01Z')"
                ))
                .await;
            bench
                .run(&format!(
                    "INSERT INTO events (id, event_type, owner_id, task_id, data, created_at)
                     VALUES ('{event_id}', 'task.created', '{ann}', '{task}', '{{}}', '2030-12-01T11:59:00Z')"
                ))
                .await;
            Scene::of(AnyJob::FanOutEvent(FanOutEvent { event_id }))
        }
        "probe" => Scene::of(AnyJob::Probe(Probe { lane: "ann".into(), log: None, act: Act::Nothing })),
        _ => panic!("the kind `{kind}` has no scene: set one in worker/src/jobs/twice.rs"),
    }
}

/// What a job came to: rows that went, rows that came, and mails. Ids, parts of a second and other random numbers are `#`, for they differ
/// from run to run.
#[derive(Debug, PartialEq)]
struct Effects {
    gone: Vec<String>,
    come: Vec<String>,
    mails: Vec<(Vec<String>, String)>,
}

/// Rows as text, and the same with its ids masked.
type Rows = BTreeMap<String, String>;

/// Everything in the database. Of the ledger, only what other processes act upon.
async fn rows(bench: &Bench) -> Rows {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        whole: String,
        #[diesel(sql_type = Text)]
        masked: String,
    }

    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
    }

    let mut conn = bench.db().conn().await.unwrap();
    let tables: Vec<Table> = diesel::sql_query(
        "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^__'",
    )
    .load(&mut conn)
    .await
    .unwrap();
    let mut found = Rows::new();
    for Table { name } in tables {
        let what = match name.as_str() {
            "jobs" => "(SELECT id, kind, queue, lane, args, state, run_at, attempt, unique_key FROM jobs)"
                .to_owned(),
            // Each run is a transaction of its own.
            "audit_events" => {
                "(SELECT event_type, actor_label, task_id, details FROM audit_events)".to_owned()
            }
            _ => format!("\"{name}\""),
        };
        let rows: Vec<Row> = diesel::sql_query(format!(
            "SELECT '{name} ' || t AS whole, '{name} ' || regexp_replace(t::text,
                 '[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?[0-9a-f]{{4}}-?[0-9a-f]{{4}}-?[0-9a-f]{{12}}|[0-9a-f]{{16,}}|:[0-9]{{2}}\\.[0-9]+', '#', 'g') AS masked FROM {what} t"
        ))
        .load(&mut conn)
        .await
        .unwrap();
        found.extend(rows.into_iter().map(|Row { whole, masked }| (whole, masked)));
    }
    found
}

fn without(these: &Rows, those: &Rows) -> Vec<String> {
    let mut left: Vec<String> =
        these.iter().filter(|(row, _)| !those.contains_key(*row)).map(|(_, masked)| masked.clone()).collect();
    left.sort_unstable();
    left
}

async fn attempt(bench: &Bench, scene: &Scene) {
    let running = Running { id: scene.id, attempt: 1 };
    let result: Result<(), JobError> = running.scope(super::run(scene.job.clone(), &bench.context)).await;
    let outcome = Outcome::from(result);
    assert!(!matches!(outcome, Outcome::Retry(_) | Outcome::Dead(_)), "{outcome:?}");
}

/// Sets the scene, runs it so, and looks at what came of it.
async fn play(kind: &str, how: impl AsyncFn(&Bench, &Scene)) -> Effects {
    let mut bench = Bench::at("2030-12-01T12:00:00Z").await;
    let scene = set(&mut bench, kind).await;
    let before = rows(&bench).await;
    how(&bench, &scene).await;
    let after = rows(&bench).await;
    let mut mails: Vec<_> =
        bench.mails().iter().map(|mail| (mail.envelope.to.clone(), mail.subject.clone())).collect();
    mails.sort_unstable();
    Effects { gone: without(&before, &after), come: without(&after, &before), mails }
}

/// Kinds whose mail cannot be taken back. Two holders of one job at once are a worker that was suspended in the middle of
/// a mail and the one that has its job now: the second cannot know whether that mail left, and sends it again, marked
/// as in doubt. That one repetition is the documented bound; nothing else may differ.
const MAY_REPEAT: &[&str] = &["send_reminder"];

/// Kinds that leave the house, for which this table has no other end to look at.
const SHOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("send_mail", "a crash after the server's word repeats it, under one message id (docs/reliability.md)"),
    ("send_webhook", "send_webhook/tests.rs: receivers know a repeated delivery by its webhook-id"),
];

impl Effects {
    /// Without the one repetition that [`MAY_REPEAT`] allows.
    fn without_repetition(mut self) -> Self {
        assert!(self.mails.len() <= 2, "at most one mail is repeated: {:?}", self.mails);
        self.mails.dedup();
        self.come.retain(|row| !row.starts_with("mail_counts "));
        for row in &mut self.come {
            *row = row.replace(",sent,ambiguous,", ",sent,,");
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_may_run_twice_and_twice_at_once() {
    assert_eq!(KINDS.iter().collect::<BTreeSet<_>>().len(), KINDS.len());
    for kind in KINDS.iter().filter(|kind| !SHOWN_ELSEWHERE.iter().any(|(known, _)| known == *kind)) {
        let mut once = play(kind, async |bench, scene| attempt(bench, scene).await).await;
        let nothing = once.gone.is_empty() && once.come.is_empty() && once.mails.is_empty();
        assert_eq!(nothing, *kind == "probe", "{kind}: a scene without anything to do shows nothing");
        let twice = play(kind, async |bench, scene| {
            attempt(bench, scene).await;
            attempt(bench, scene).await;
        });
        assert_eq!(twice.await, once, "{kind}, run twice (left) and once (right)");
        let at_once = play(kind, async |bench, scene| {
            tokio::join!(attempt(bench, scene), attempt(bench, scene));
        });
        let mut at_once = at_once.await;
        if MAY_REPEAT.contains(kind) {
            at_once = at_once.without_repetition();
            once = once.without_repetition();
        }
        assert_eq!(at_once, once, "{kind}, run twice at once (left) and once (right)");
    }
}
