use std::time::Instant;

use chaos::cluster::{Cluster, Shape, secs, until};
use common::{jobs::Act, ledger::JobState};

use crate::figures::say;

/// R10: handlers that panic and errors of 10 MB. The worker survives, the ledger keeps what can be kept of them, and the
/// jobs beside them run.
#[tokio::test]
async fn r10_a_worker_survives_panics_and_huge_errors() {
    const EACH: usize = 20;
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 1, schedulers: 1, ..Shape::default() }).await;
    let (effects, failing) = (cluster.effects("effects"), cluster.effects("failing"));
    let before = memory(&cluster).await;
    cluster.enqueue_many(&failing, EACH, Act::Panic).await;
    cluster.enqueue_many(&failing, EACH, Act::Fail(10 << 20)).await;
    let others = cluster.enqueue_many(&effects, 200, Act::Nothing).await;
    until("the others run", secs(40), async || effects.started(others.len())).await;
    until("each of the bad ones is tried again", secs(30), async || {
        let again = failing.starts().values().filter(|count| **count >= 2).count();
        if again == 2 * EACH { Ok(()) } else { Err(format!("{again} are")) }
    })
    .await;
    cluster.assert_all_live();
    cluster.workers[0].ready().await.unwrap();

    let (mut panics, mut huge) = (0, 0);
    for job in failing.starts().into_keys() {
        let job = cluster.job(job).await;
        assert!(job.state != JobState::Dead && job.crashes == 0, "{job:?}");
        let text = job.errors[0]["text"].as_str().unwrap_or_default().to_owned();
        assert!(text.len() <= 4 << 10, "an error of {} bytes is kept", text.len());
        panics += usize::from(text.starts_with("panic: a probe was told to panic"));
        huge += usize::from(text.starts_with("xxxxxxxx") && text.ends_with('…'));
    }
    assert_eq!((panics, huge), (EACH, EACH), "the ledger says why");
    let log = cluster.workers[0].log().len();
    assert!(log < 4 << 20, "the log has {log} bytes");
    let pid = cluster.workers[0].pid().unwrap();
    assert!(effects.all().iter().all(|effect| effect.pid == pid), "the same process all the time");
    say!(
        "R10: {EACH} panics and {EACH} errors of 10 MB, twice; memory {before:.0} MB before, {:.0} MB after",
        memory(&cluster).await
    );
}

/// R10: a handler that never yields. Jobs beside it go on; another worker has its job once its time (30 s), the lease that
/// is added and the claim are over; its own worker is not ready 15 s after that time, and ends within 60 s.
#[tokio::test]
async fn r10_a_handler_that_never_yields_ends_its_own_worker_alone() {
    /// Until nobody renews the claim any more: the time of a probe, and a lease. Then the lease runs out.
    const OVERRUN: u64 = 30 + 15;
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 2, schedulers: 1, ..Shape::default() }).await;
    let (effects, stuck) = (cluster.effects("effects"), cluster.effects("stuck"));
    let job = cluster.enqueue(&stuck, Act::Block(600_000)).await;
    let first = until("it starts", secs(10), async || stuck.of(job).pop().ok_or("it does not".into())).await;
    let began = Instant::now();
    let others = cluster.enqueue_many(&effects, 500, Act::Sleep(10)).await;
    until("the others are done", secs(20), async || effects.started(others.len())).await;
    assert!(effects.all().iter().any(|effect| effect.pid == first.pid), "its worker does nothing else");

    let again = until("another worker has its job", secs(OVERRUN + 15 + 10), async || {
        match stuck.of(job).as_slice() {
            [_, again] => Ok(*again),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_ne!(again.pid, first.pid);
    assert_eq!((again.attempt, cluster.job(job).await.crashes), (2, 1), "the ledger says so");
    let worker = cluster.workers.iter_mut().find(|worker| worker.pid() == Some(first.pid)).unwrap();
    until(
        "its worker is not ready",
        secs(OVERRUN + 16).saturating_sub(began.elapsed()),
        async || match worker.ready().await {
            Ok(()) => Err("it is".to_owned()),
            Err(_) => Ok(()),
        },
    )
    .await;
    let not_ready = began.elapsed();
    let status = worker.wait_exit(secs(OVERRUN + 60).saturating_sub(began.elapsed())).await;
    assert!(!status.success(), "{status}");
    say!(
        "R10: a handler that never yields: not ready after {:.0} s, ended after {:.0} s",
        not_ready.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
}

async fn memory(cluster: &Cluster) -> f64 {
    cluster.workers[0].metrics().await.sum("process_resident_memory_bytes", &[]) / 1e6
}
