use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Effects, Shape, Signal, secs, until};
use chrono::{DateTime, TimeDelta};
use common::{
    clock::Clock,
    jobs::{Act, PROBE},
    ledger::JobState,
};

use crate::figures::{lateness, say};

/// R5: SIGTERM of a worker that runs 20 jobs of 10 s and has claimed more. It lets them end and hands the rest back: none
/// is killed, none lost, no attempt is charged, and it ends within 30 s.
#[tokio::test]
async fn r5_a_worker_that_is_told_to_stop_lets_its_jobs_end() {
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 1, schedulers: 1, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let running = cluster.enqueue_many(&effects, 20, Act::Sleep(10_000)).await;
    until("they run", secs(10), async || effects.started(20)).await;
    let waiting = cluster.enqueue_many(&effects, 15, Act::Nothing).await;
    until("some are claimed ahead", secs(5), async || {
        let claimed = cluster.jobs("probe").await.iter().filter(|job| job.state == JobState::Running).count();
        if claimed > 20 { Ok(()) } else { Err(format!("{claimed} are claimed")) }
    })
    .await;

    let worker = &mut cluster.workers[0];
    let told = Instant::now();
    worker.signal(Signal::TERM);
    until("it is not ready", secs(1), async || match worker.ready().await {
        Err(_) => Ok(()),
        Ok(()) => Err("it is".to_owned()),
    })
    .await;
    let status = worker.wait_exit(secs(30)).await;
    let took = told.elapsed();
    assert!(status.success(), "{status}");
    for id in running {
        let job = cluster.job(id).await;
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Done, 1, 0), "{job:?}");
    }
    for id in &waiting {
        let job = cluster.job(*id).await;
        assert_eq!((job.state, job.attempt, job.crashes), (JobState::Ready, 0, 0), "{job:?}");
    }
    cluster.add_worker().await;
    until("everything is drained", secs(10), async || cluster.drained().await).await;
    say!("R5: a worker with 20 jobs of 10 s ended {:.1} s after SIGTERM", took.as_secs_f64());
    assert_eq!(effects.all().len(), 35, "each starts once");
    for id in waiting {
        assert_eq!(cluster.job(id).await.attempt, 1, "what was handed back was not charged");
    }
}

/// R5 for schedulers: two of them are told to stop in turn, with a backlog to relay and a job each second. Each ends
/// within seconds and without an error; no job and no tick is lost or doubled.
#[tokio::test]
async fn r5_schedulers_that_are_told_to_stop_lose_nothing() {
    const JOBS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let ticks = Effects::at(folder.path().join("ticks"));
    let mut cluster = Cluster::start(Shape {
        apis: 0,
        workers: 1,
        scheduler_arguments: vec!["--probe-every-second".to_owned(), ticks.path().display().to_string()],
        ..Shape::default()
    })
    .await;
    until("the clock ticks", secs(10), async || ticks.started(1)).await;
    let effects = cluster.effects("effects");
    let args = serde_json::json!({ "lane": "ann", "log": effects.path(), "act": "nothing" });
    let insert = format!(
        "INSERT INTO jobs (id, kind, queue, lane, args, max_attempts, run_at, created_at)
         SELECT gen_random_uuid(), 'probe', '{PROBE}', 'lane-' || n % 100, '{args}', 25, t, t
         FROM generate_series(1, {JOBS}) n, (SELECT timestamptz '{}') AS due (t)",
        Clock::Database.instant() - TimeDelta::minutes(1),
    );
    cluster.sql(&insert).await;

    let mut longest = Duration::ZERO;
    for round in 0..6 {
        let told = Instant::now();
        let scheduler = &mut cluster.schedulers[round % 2];
        scheduler.signal(Signal::TERM);
        let status = scheduler.wait_exit(secs(30)).await;
        longest = longest.max(told.elapsed());
        assert!(status.success(), "{status}");
        scheduler.restart();
        scheduler.wait_ready().await;
    }
    until("the backlog is done", secs(60), async || effects.started(JOBS)).await;
    let before = ticks.all().len();
    until("the clock still ticks", secs(10), async || {
        let count = ticks.all().len();
        if count >= before + 2 { Ok(()) } else { Err(format!("{count} ticks")) }
    })
    .await;

    assert_eq!(effects.all().len(), JOBS, "each job starts once");
    let starts = ticks.starts();
    assert!(starts.values().all(|count| *count == 1), "{starts:?}");
    let mut slots: Vec<i64> = Vec::new();
    for job in starts.keys() {
        slots.push(cluster.job(*job).await.run_at.timestamp());
    }
    slots.sort_unstable();
    let gaps: Vec<_> = slots.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    assert!(gaps.is_empty(), "a tick was missed or doubled: {gaps:?}");
    say!(
        "R5: six stops of a scheduler, {JOBS} jobs and {} ticks; the longest stop took {:.2} s",
        slots.len(),
        longest.as_secs_f64()
    );
}

/// R6: a job that outlasts the grace is handed back within a second of the deadline and restarted elsewhere within 20 s,
/// without being charged for it.
#[tokio::test]
async fn r6_a_job_that_outlasts_the_grace_is_handed_back() {
    const GRACE: TimeDelta = TimeDelta::seconds(3);
    let mut cluster = Cluster::start(Shape {
        apis: 0,
        workers: 2,
        schedulers: 1,
        worker_arguments: vec!["--shutdown-grace=3".to_owned()],
        ..Shape::default()
    })
    .await;
    let effects = cluster.effects("effects");
    let job = cluster.enqueue(&effects, Act::Sleep(10_000)).await;
    let first =
        until("the job starts", secs(10), async || effects.of(job).pop().ok_or("it has not".into())).await;
    let holder = cluster.workers.iter_mut().find(|worker| worker.pid() == Some(first.pid)).unwrap();
    let deadline = Clock::Database.instant() + GRACE;
    holder.signal(Signal::TERM);
    let status = holder.wait_exit(secs(10)).await;
    assert!(status.success(), "{status}");

    let second = until("the job restarts", secs(20), async || match effects.of(job).as_slice() {
        [_, second] => Ok(*second),
        other => Err(format!("{other:?}")),
    })
    .await;
    let restarted = lateness(deadline, DateTime::from_timestamp_micros(second.micros).unwrap());
    say!("R6: restarted elsewhere {:.2} s after the end of the grace", restarted.as_secs_f64());
    assert!(restarted <= secs(1), "handed back too late, or only found when its lease ended: {restarted:?}");
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.attempt, first.attempt, "no attempt is charged");
    until("the job is done", secs(20), async || cluster.drained().await).await;
    let job = cluster.job(job).await;
    assert_eq!((job.state, job.attempt, job.crashes, job.fence), (JobState::Done, 1, 0, 2), "{job:?}");
}
