use std::time::Instant;

use chaos::cluster::{Cluster, Shape, Signal, secs, until};
use common::{jobs::Act, ledger::JobState};

use crate::figures::say;

/// R8: a worker is stopped for a minute (SIGSTOP, as a virtual machine may be). Its job runs once elsewhere; when it goes
/// on, the result that it has then is refused, and it works on.
#[tokio::test]
async fn r8_a_worker_that_was_stopped_for_a_minute_works_on() {
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 2, schedulers: 1, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let job = cluster.enqueue(&effects, Act::Sleep(3_000)).await;
    let first =
        until("the job starts", secs(10), async || effects.of(job).pop().ok_or("it has not".into())).await;
    let holder = cluster.workers.iter().position(|worker| worker.pid() == Some(first.pid)).unwrap();
    let stopped = Instant::now();
    cluster.workers[holder].signal(Signal::STOP);

    let second = until("the job restarts", secs(20), async || match effects.of(job).as_slice() {
        [_, second] => Ok(*second),
        other => Err(format!("{other:?}")),
    })
    .await;
    let restarted = stopped.elapsed();
    assert_ne!(second.pid, first.pid);
    until("the job is done", secs(10), async || cluster.drained().await).await;
    let done = cluster.job(job).await;
    assert_eq!((done.state, done.attempt, done.crashes), (JobState::Done, 2, 1), "{done:?}");

    tokio::time::sleep_until((stopped + secs(60)).into()).await;
    cluster.workers[holder].signal(Signal::CONT);
    let went_on = Instant::now();
    let worker = &cluster.workers[holder];
    until("its own result is refused", secs(10), async || {
        let log = worker.log();
        let refused = log.contains("a result came too late") || log.contains("lost touch with a job");
        if refused { Ok(()) } else { Err("nothing is said of it".to_owned()) }
    })
    .await;
    assert_eq!(cluster.job(job).await, done, "the ledger keeps the first result");

    let other = &mut cluster.workers[1 - holder];
    other.signal(Signal::TERM);
    other.wait_exit(secs(30)).await;
    cluster.workers[holder].wait_ready().await;
    let next = cluster.enqueue(&effects, Act::Nothing).await;
    let next =
        until("it works on", secs(10), async || effects.of(next).pop().ok_or("it does not".into())).await;
    assert_eq!(next.pid, first.pid, "the same process");
    assert!(cluster.workers[holder].exited().is_none());
    assert_eq!(effects.of(job).len(), 2, "it ran once elsewhere");
    say!(
        "R8: restarted elsewhere {:.1} s after SIGSTOP; working {:.1} s after SIGCONT",
        restarted.as_secs_f64(),
        went_on.elapsed().as_secs_f64()
    );
}
