use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Shape, secs, until};
use chrono::TimeDelta;
use common::{clock::Clock, jobs::PROBE};

use crate::figures::say;

const JOBS: usize = 100_000;

/// R15: a hundred thousand due jobs, then one worker. It drains without an error of a script or one that holds Redis for
/// 20 ms, and an urgent newcomer starts within 2 s.
#[tokio::test]
async fn r15_a_large_backlog_drains() {
    let mut cluster =
        Cluster::start(Shape { apis: 0, workers: 0, schedulers: 1, own_redis: true, ..Shape::default() })
            .await;
    let effects = cluster.effects("effects");
    let args = serde_json::json!({ "lane": "ann", "log": effects.path(), "act": "nothing" });
    cluster
        .sql(&format!(
            "INSERT INTO jobs (id, kind, queue, lane, args, max_attempts, run_at, created_at)
             SELECT gen_random_uuid(), 'probe', '{PROBE}', 'lane-' || n % 100, '{args}', 25, t, t
             FROM generate_series(1, {JOBS}) n, (SELECT timestamptz '{}') AS due (t)",
            Clock::Database.instant() - TimeDelta::minutes(1),
        ))
        .await;
    let queue = cluster.queue();
    until("the relay has pushed all of it", secs(60), async || match queue.sizes().await {
        Ok((waiting, _)) if waiting == JOBS as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    let redis = cluster.redis_server();
    redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]).await;
    redis.command(&["CONFIG", "SET", "slowlog-max-len", "10000"]).await;
    redis.command(&["SLOWLOG", "RESET"]).await;
    let since = Instant::now();
    cluster.add_worker().await;
    until("a part is done", secs(60), async || {
        let (waiting, _) = queue.sizes().await.map_err(|error| error.to_string())?;
        if waiting < 90 * JOBS as u64 / 100 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    let urgent = cluster.effects("urgent");
    cluster.enqueue_urgently(&urgent, "ben").await;
    let asked = Instant::now();
    until("the urgent one starts", secs(2), async || urgent.started(1)).await;
    let urgent_after = asked.elapsed();
    let (still_waiting, _) = queue.sizes().await.unwrap();
    assert!(still_waiting > 1_000, "the backlog was over before the urgent one came");

    until("the backlog is drained", secs(300), async || match queue.sizes().await {
        Ok((0, 0)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let took = since.elapsed();
    until("the ledger knows", secs(5), async || cluster.drained().await).await;
    effects.started(JOBS).unwrap();
    assert_eq!(effects.all().len(), JOBS, "each starts once");

    let (slowest, command) = cluster.redis_server().slowest().await;
    say!(
        "R15: {JOBS} jobs in {:.1} s ({:.0}/s); slowest command {slowest:?} {command}; an urgent job started in {urgent_after:?}",
        took.as_secs_f64(),
        JOBS as f64 / took.as_secs_f64(),
    );
    assert!(slowest < Duration::from_millis(20), "{slowest:?}: {command}");
    let errors = cluster.redis_server().command(&["INFO", "errorstats"]).await;
    let errors: String = redis::from_redis_value(errors).unwrap();
    // A script is loaded at its first use: that is the one error there may be.
    let errors: Vec<_> =
        errors.lines().filter(|line| line.starts_with("errorstat_") && !line.contains("NOSCRIPT")).collect();
    assert_eq!(errors, [""; 0]);
}
