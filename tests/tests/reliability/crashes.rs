use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Effects, Shape, secs, until};
use chrono::DateTime;
use common::{clock::Clock, jobs::Act, ledger::JobState};

use crate::figures::{lateness, say};

/// R1: a job whose worker is killed restarts elsewhere within 20 s, and the attempt is charged.
#[tokio::test]
async fn r1_a_job_restarts_elsewhere_when_its_worker_is_killed() {
    let mut cluster = Cluster::start(Shape { apis: 0, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let job = cluster.enqueue(&effects, Act::Sleep(2_000)).await;
    let first =
        until("the job starts", secs(10), async || effects.of(job).pop().ok_or("it has not".into())).await;

    let holder = cluster.workers.iter_mut().find(|worker| worker.pid() == Some(first.pid)).unwrap();
    let killed_at = Clock::Database.instant();
    holder.kill9().await;

    let second = until("the job restarts", secs(20), async || match effects.of(job).as_slice() {
        [_, second] => Ok(*second),
        other => Err(format!("{other:?}")),
    })
    .await;
    let delay = lateness(killed_at, DateTime::from_timestamp_micros(second.micros).unwrap());
    say!("R1: restarted {:.1} s after the kill", delay.as_secs_f64());
    assert!(delay <= secs(20), "{delay:?}");
    assert_eq!(second.attempt, first.attempt + 1);
    assert_ne!(second.pid, first.pid);

    until("the job is done", secs(10), async || cluster.drained().await).await;
    assert_eq!(effects.of(job).len(), 2);
    assert_eq!(cluster.job(job).await.crashes, 1);
}

/// R7: a worker that is started again within 10 ms of its kill serves within 2 s.
#[tokio::test]
async fn r7_a_worker_serves_two_seconds_after_its_kill() {
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 1, schedulers: 1, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    cluster.enqueue(&effects, Act::Nothing).await;
    until("the worker works", secs(10), async || effects.started(1)).await;

    let worker = &mut cluster.workers[0];
    worker.kill9().await;
    let ended = Instant::now();
    worker.restart();
    assert!(ended.elapsed() < Duration::from_millis(10), "the test was slow: {:?}", ended.elapsed());
    let pid = worker.pid().unwrap();
    let job = cluster.enqueue(&effects, Act::Nothing).await;
    until("the worker works again", secs(2), async || effects.of(job).pop().ok_or("it does not".into()))
        .await;
    say!("R7: serving {:.2} s after the kill", ended.elapsed().as_secs_f64());
    assert_eq!(effects.of(job)[0].pid, pid);
}

/// R9: a job that ends the process is dead after three crashes, and holds up nobody for more than a minute.
#[tokio::test]
async fn r9_a_poison_job_is_dead_after_three_crashes() {
    let mut cluster = Cluster::start(Shape { apis: 0, ..Shape::default() }).await;
    let (effects, poisoned) = (cluster.effects("effects"), cluster.effects("poison"));
    let mut neighbours = cluster.enqueue_many(&effects, 60, Act::Sleep(500)).await;
    let poison = cluster.enqueue(&poisoned, Act::Abort).await;

    let mut enqueued_at = vec![Instant::now(); neighbours.len()];
    let mut started = vec![None; neighbours.len()];
    until("the poison is dead", secs(90), async || {
        cluster.restart_ended();
        if enqueued_at.last().is_none_or(|last| last.elapsed() > Duration::from_millis(500)) {
            neighbours.push(cluster.enqueue(&effects, Act::Nothing).await);
            enqueued_at.push(Instant::now());
            started.push(None);
        }
        let starts = effects.starts();
        for (number, job) in neighbours.iter().enumerate() {
            if started[number].is_none() && starts.contains_key(job) {
                started[number] = Some(enqueued_at[number].elapsed());
            }
        }
        let row = cluster.job(poison).await;
        if row.state == JobState::Dead { Ok(()) } else { Err(format!("{row:?}")) }
    })
    .await;
    until("the others are done", secs(60), async || cluster.drained().await).await;
    cluster.assert_all_live();

    assert_eq!(poisoned.of(poison).len(), 3, "three crashes, no more");
    assert_eq!(cluster.job(poison).await.crashes, 3);
    let longest = started.iter().flatten().max().unwrap();
    say!("R9: {} neighbours, the last one started after {:.1} s", neighbours.len(), longest.as_secs_f64());
    assert!(*longest <= secs(60), "{longest:?}");
    assert_each_ran(&effects, neighbours.len());
    for job in neighbours {
        let row = cluster.job(job).await;
        assert!(
            row.state == JobState::Done && row.crashes <= 1 && row.attempt <= 2,
            "a neighbour is charged once at most: {row:?}"
        );
    }
}

fn assert_each_ran(effects: &Effects, count: usize) {
    effects.started(count).unwrap_or_else(|seen| panic!("{seen}"));
}
