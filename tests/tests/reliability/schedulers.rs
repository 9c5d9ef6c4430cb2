use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Shape, secs, until};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::figures::say;

/// R16 with two schedulers.
#[tokio::test]
async fn two_schedulers_that_are_killed_miss_no_tick_and_double_none() {
    ticks_with(2).await;
}

/// R16 with five.
#[tokio::test]
async fn five_schedulers_that_are_killed_miss_no_tick_and_double_none() {
    ticks_with(5).await;
}

/// A probe each second, while a scheduler is killed at random about every second and started again.
async fn ticks_with(schedulers: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ticks");
    let mut cluster = Cluster::start(Shape {
        apis: 0,
        workers: 1,
        schedulers,
        scheduler_arguments: vec!["--probe-every-second".to_owned(), file.display().to_string()],
        ..Shape::default()
    })
    .await;
    let ticks = chaos::cluster::Effects::at(&file);
    until(
        "the clock ticks",
        secs(10),
        async || if ticks.all().is_empty() { Err(String::new()) } else { Ok(()) },
    )
    .await;

    let seed: u64 =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    say!("R16: {schedulers} schedulers, SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut kills, end) = (0, Instant::now() + secs(15));
    while Instant::now() < end {
        let victim = random.random_range(0..schedulers);
        cluster.schedulers[victim].kill9().await;
        kills += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        cluster.restart_ended();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
    }
    let before = ticks.all().len();
    until("the clock still ticks", secs(10), async || {
        let count = ticks.all().len();
        if count >= before + 2 { Ok(()) } else { Err(format!("{count} ticks")) }
    })
    .await;

    // Each job ran once, and there is one for each second.
    let starts = ticks.starts();
    assert!(starts.values().all(|count| *count == 1), "{starts:?}");
    let rows = cluster.jobs("probe").await;
    let slots: BTreeMap<i64, _> = rows
        .iter()
        .filter(|row| starts.contains_key(&row.id))
        .map(|row| (row.run_at.timestamp(), row.id))
        .collect();
    assert_eq!(slots.len(), starts.len(), "0 duplicate ticks");
    let (first, last) = (*slots.keys().next().unwrap(), *slots.keys().last().unwrap());
    let missed: Vec<i64> = (first..=last).filter(|second| !slots.contains_key(second)).collect();
    say!("R16: {schedulers} schedulers, {kills} kills, {} ticks", slots.len());
    assert_eq!(missed, [0; 0], "0 missed ticks");
}
