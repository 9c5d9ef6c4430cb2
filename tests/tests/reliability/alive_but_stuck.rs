use std::time::Instant;

use chaos::cluster::{Cluster, Shape, secs, until};
use common::jobs::Act;

use crate::figures::say;

/// R43: the fetch loops of a worker hang while everything else lives. It is not ready within 15 s and ends within 60.
#[tokio::test]
async fn r43_a_deaf_worker_ends() {
    ends("R43: deaf fetch loops", 1, Act::Deafen).await;
}

/// R10: handlers that never yield hold every thread of a worker. The watchdog, on a thread of its own, ends it as well.
#[tokio::test]
async fn r10_a_worker_whose_threads_are_all_held_ends() {
    let threads = std::thread::available_parallelism().map_or(8, usize::from) + 4;
    ends("R10: held threads", threads, Act::Block(600_000)).await;
}

/// What such jobs do to a worker, and that another one goes on with the work.
async fn ends(what: &str, jobs: usize, act: Act) {
    let mut cluster = Cluster::start(Shape { apis: 0, workers: 1, schedulers: 1, ..Shape::default() }).await;
    let (effects, stuck) = (cluster.effects("effects"), cluster.effects("stuck"));
    cluster.enqueue_many(&stuck, jobs, act).await;
    until(
        "it has begun",
        secs(10),
        async || if stuck.all().is_empty() { Err(String::new()) } else { Ok(()) },
    )
    .await;
    let since = Instant::now();
    let worker = &mut cluster.workers[0];
    // A probe of Kubernetes, too, takes no answer within a second for a no.
    until("the worker is not ready", secs(15), async || match worker.ready().await {
        Ok(()) => Err("it is".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    let not_ready = since.elapsed();
    let job = cluster.enqueue(&effects, Act::Nothing).await;
    let status = cluster.workers[0].wait_exit(secs(60)).await;
    let ended = since.elapsed();
    say!(
        "{what}: not ready after {:.1} s, ended after {:.1} s",
        not_ready.as_secs_f64(),
        ended.as_secs_f64()
    );
    assert!(!status.success(), "{status}");
    assert!(ended < secs(60), "{ended:?}");
    assert!(effects.of(job).is_empty(), "it was not stuck at all");

    cluster.add_worker().await;
    until("another worker works", secs(20), async || effects.of(job).pop().ok_or("it does not".into())).await;
}
