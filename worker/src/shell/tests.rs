//! What a shell shows, of a ledger at a fixed time.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::testing::at;

use super::*;
use crate::testing::Bench;

const NOW: &str = "2030-01-02T08:00:00Z";
const DEAD: &str = "019432b6-a000-7000-8000-000000000001";
const LATER: &str = "019432b6-a000-7000-8000-000000000002";
const RUNS: &str = "019432b6-a000-7000-8000-000000000003";

const TABLE: Look = Look { json: false, width: None };
const JSON: Look = Look { json: true, width: None };

async fn ledger() -> Bench {
    let bench = Bench::at(NOW).await;
    for (id, queue, state, attempt, run_at, started, finished, errors) in [
        (
            DEAD,
            "mail",
            "dead",
            6,
            "2030-01-02T05:00:00Z",
            "'2030-01-02T07:56:50Z'",
            "'2030-01-02T07:56:59Z'",
            r#"[{"at": "2030-01-02T07:56:59Z", "attempt": 6, "worker": "w-1", "text": "421 later\u001b[31m"}]"#,
        ),
        (LATER, "mail", "ready", 1, "2030-01-02T10:30:00Z", "'2030-01-02T07:00:00Z'", "NULL", "[]"),
        (RUNS, "maintenance", "running", 1, "2030-01-02T07:59:00Z", "'2030-01-02T07:59:30Z'", "NULL", "[]"),
    ] {
        bench
            .run(&format!(
                "INSERT INTO jobs (id, kind, queue, lane, args, state, attempt, max_attempts, run_at, created_at, started_at, finished_at, worker, errors)
                 VALUES ('{id}', 'send_reminder', '{queue}', 'ann', '{{\"user_id\": 7}}', '{state}', {attempt}, 6, '{run_at}',
                     '2030-01-02T05:00:00Z', {started}, {finished}, 'w-1', '{errors}')"
            ))
            .await;
    }
    bench
}

fn uuid(text: &str) -> uuid::Uuid {
    text.parse().unwrap()
}

async fn ask(bench: &Bench, task: JobsTask, look: Look) -> anyhow::Result<String> {
    run_jobs(bench.db(), task, look, "ann (shell)").await
}

fn all() -> JobsTask {
    JobsTask::List { which: Which::default(), state: None, limit: 50 }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first() {
    let bench = ledger().await;
    assert_eq!(
        ask(&bench, all(), TABLE).await.unwrap(),
        "\
ID                                    KIND           QUEUE        STATE    TRY  SINCE   ERROR
019432b6-a000-7000-8000-000000000003  send_reminder  maintenance  running  1/6  30 s
019432b6-a000-7000-8000-000000000002  send_reminder  mail         ready    1/6  in 2 h
019432b6-a000-7000-8000-000000000001  send_reminder  mail         dead     6/6  3 min   421 later [31m
"
    );
    let narrow = ask(&bench, all(), Look { json: false, width: Some(60) }).await.unwrap();
    assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    let json: serde_json::Value = serde_json::from_str(&ask(&bench, all(), JSON).await.unwrap()).unwrap();
    assert_eq!((json.as_array().unwrap().len(), &json[2]["state"]), (3, &json!("dead")));
    let two = JobsTask::List { which: Which::default(), state: None, limit: 2 };
    assert!(ask(&bench, two, TABLE).await.unwrap().ends_with("raise --limit.\n"));
    let which = Which { kind: Some("send_mail".into()), queue: None };
    let none = JobsTask::List { which, state: Some(JobState::Ready), limit: 2 };
    assert_eq!(ask(&bench, none, TABLE).await.unwrap(), "No such jobs.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_shown_with_all_that_happened_to_it() {
    let bench = ledger().await;
    assert_eq!(
        ask(&bench, JobsTask::Show { id: uuid(DEAD) }, TABLE).await.unwrap(),
        "\
id        019432b6-a000-7000-8000-000000000001
kind      send_reminder
queue     mail
lane      ann
state     dead
args      {\"user_id\":7}
try       6 of 6
claims    0
crashes   0
priority  1
enqueued  2030-01-02 05:00:00 UTC (3 h ago)
due       2030-01-02 05:00:00 UTC (3 h ago)
started   2030-01-02 07:56:50 UTC (3 min ago)
finished  2030-01-02 07:56:59 UTC (3 min ago)
worker    w-1

2030-01-02 07:56:59 UTC (3 min ago), try 6, w-1:
  421 later [31m
"
    );
    let unknown = ask(&bench, JobsTask::Show { id: uuid::Uuid::nil() }, TABLE).await.unwrap_err();
    assert_eq!(format!("{unknown:#}"), "00000000-0000-0000-0000-000000000000: job not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_tried_again_and_cancelled() {
    let bench = ledger().await;
    let retry = |id| JobsTask::Retry { ids: vec![uuid(id)], dead: false, which: Which::default() };
    assert_eq!(
        ask(&bench, retry(DEAD), TABLE).await.unwrap(),
        format!("{DEAD} (send_reminder) is ready again.\n")
    );
    let refused = ask(&bench, retry(RUNS), TABLE).await.unwrap_err();
    assert!(format!("{refused:#}").contains("It is running. Cancel it first"), "{refused:#}");
    let cancel = JobsTask::Cancel { ids: vec![uuid(RUNS), uuid(LATER)] };
    assert_eq!(ask(&bench, cancel, TABLE).await.unwrap().lines().count(), 2);
    assert_eq!(bench.count("jobs WHERE state = 'cancelled' AND finished_at IS NOT NULL").await, 2);
    assert_eq!(bench.count("jobs WHERE errors -> -1 ->> 'text' = 'cancelled by ann (shell)'").await, 2);
    let dead = || JobsTask::Retry { ids: Vec::new(), dead: true, which: Which::default() };
    assert_eq!(ask(&bench, dead(), TABLE).await.unwrap(), "0 jobs are ready again.\n");
    bench.run("UPDATE jobs SET state = 'dead', finished_at = now()").await;
    assert_eq!(ask(&bench, dead(), JSON).await.unwrap(), "{\n  \"retried\": 3\n}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_shown_paused_and_resumed() {
    let bench = ledger().await;
    let ask = async |task| run_queues(bench.db(), task, TABLE, "ann (shell)").await;
    assert_eq!(
        ask(None).await.unwrap(),
        "\
QUEUE        READY  RUNNING  DELAYED  DEAD  OLDEST  WORKERS  PAUSED
mail             0        0        1     1                1
maintenance      0        1        0     0                1
probe            0        0        0     0                0
webhooks         0        0        0     0                0
"
    );
    let pause = Some(QueuesTask::Pause { queue: "mail".into(), reason: Some("the server moves".into()) });
    let paused = ask(pause).await.unwrap();
    assert!(paused.contains("0 s by ann (shell): the server moves"), "{paused}");
    bench.clock.set(at("2030-01-02T11:00:00Z"));
    let later = ask(None).await.unwrap();
    assert!(later.contains("30 min") && later.contains("3 h by ann (shell)"), "{later}");
    let resumed = ask(Some(QueuesTask::Resume { queue: "mail".into() })).await.unwrap();
    assert!(!resumed.contains("ann"), "{resumed}");
    let unknown = ask(Some(QueuesTask::Resume { queue: "post".into() })).await.unwrap_err();
    assert!(format!("{unknown:#}").starts_with("post: There is no such queue; the queues are mail,"));
}

#[test]
fn the_commands_need_the_database_alone_and_explain_themselves() {
    use clap::CommandFactory as _;
    use common::config::try_parse;

    let parse = |words: &[&str]| {
        let words = ["jobs", "--database-url=postgres://x/x"].iter().chain(words).map(Into::into).collect();
        try_parse::<Jobs>(words, &|_| None).map_err(|error| error.to_string())
    };
    assert!(parse(&["list", "--state=dead", "--json"]).unwrap().json);
    for (words, what) in [
        (&["list", "--state=lost"][..], "is not one of ready, running"),
        (&["list", "--limit=0"], "1..=1000"),
        (&["show", "17"], "17"),
        (&["retry"], "<IDS>"),
        (&["cancel"], "<IDS>"),
        (&["drop"], "unrecognized subcommand"),
    ] {
        let error = parse(words).unwrap_err();
        assert!(error.contains(what) && !error.contains("settings are missing"), "{words:?}: {error}");
    }
    for command in [Jobs::command(), Queues::command()] {
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
