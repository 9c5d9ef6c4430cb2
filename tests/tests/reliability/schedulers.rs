use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Effects, Shape, secs, until};
use chrono::{TimeDelta, Timelike as _};
use common::{clock::Clock, jobs::Act};
use rand::RngExt as _;

use crate::{
    figures::{Figures, lateness, say},
    options::{chance, length},
};

/// R16 with two schedulers.
#[tokio::test]
async fn r16_two_schedulers_that_are_killed_miss_no_tick_and_double_none() {
    ticks_with(2).await;
}

/// R16 with five.
#[tokio::test]
async fn r16_five_schedulers_that_are_killed_miss_no_tick_and_double_none() {
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
    let ticks = Effects::at(&file);
    until(
        "the clock ticks",
        secs(10),
        async || if ticks.all().is_empty() { Err(String::new()) } else { Ok(()) },
    )
    .await;

    let mut random = chance("R16");
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

/// R17: after ten minutes without a scheduler, a schedule of each minute runs as often as its policy says: never, once, ten
/// times. The ten minutes are made by setting back what PostgreSQL knows of the last slot.
#[tokio::test]
async fn r17_each_policy_catches_up_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let effects = |policy: &str| Effects::at(folder.path().join(policy));
    // No slot comes before the scheduler is killed, none has just come and is not missed yet, and none comes before all
    // is drained.
    until("a time without a slot", secs(60), async || {
        let second = Clock::Database.instant().second();
        if (12..30).contains(&second) { Ok(()) } else { Err(format!("second {second}")) }
    })
    .await;
    let mut cluster = Cluster::start(Shape {
        apis: 0,
        workers: 1,
        schedulers: 1,
        scheduler_arguments: vec!["--probe-every-minute".to_owned(), folder.path().display().to_string()],
        ..Shape::default()
    })
    .await;
    let states = "UPDATE scheduler_state SET last_slot_at = last_slot_at WHERE name LIKE 'probe_%'";
    until("the schedules have begun", secs(5), async || match cluster.sql(states).await {
        3 => Ok(()),
        other => Err(format!("{other} have")),
    })
    .await;
    cluster.schedulers[0].kill9().await;
    let away_since = Clock::Database.instant() - TimeDelta::minutes(10);
    let set_back =
        format!("UPDATE scheduler_state SET last_slot_at = '{away_since}' WHERE name LIKE 'probe_%'");
    assert_eq!(cluster.sql(&set_back).await, 3);
    cluster.schedulers[0].restart();
    until("they have caught up", secs(10), async || effects("all").started(10)).await;
    until("everything is drained", secs(5), async || cluster.drained().await).await;
    let ran = ["skip", "latest", "all"].map(|policy| effects(policy).all().len());
    say!("R17: after ten minutes, skip ran {}, latest {}, all {}", ran[0], ran[1], ran[2]);
    assert_eq!(ran, [0, 1, 10]);
}

/// R19: 99 % of ticks are in the ledger at most 500 ms late, while jobs run. Half a minute; `SCENARIO_MINUTES` makes it
/// longer.
#[tokio::test]
async fn r19_ticks_are_on_time() {
    let folder = tempfile::tempdir().unwrap();
    let ticks = Effects::at(folder.path().join("ticks"));
    let cluster = Cluster::start(Shape {
        apis: 0,
        workers: 1,
        scheduler_arguments: vec!["--probe-every-second".to_owned(), ticks.path().display().to_string()],
        ..Shape::default()
    })
    .await;
    let others = cluster.effects("others");
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let end = Instant::now() + length(secs(30));
    while Instant::now() < end {
        every.tick().await;
        cluster.enqueue_many(&others, 10, Act::Nothing).await;
    }
    until("everything is drained", secs(10), async || cluster.drained().await).await;
    let starts: BTreeMap<_, _> = ticks.all().into_iter().map(|effect| (effect.job, effect.micros)).collect();
    let (mut late, mut started) = (Vec::new(), Vec::new());
    for job in cluster.jobs("probe").await {
        if let Some(micros) = starts.get(&job.id) {
            late.push(lateness(job.run_at, job.created_at));
            started.push(lateness(job.run_at, chrono::DateTime::from_timestamp_micros(*micros).unwrap()));
        }
    }
    assert!(late.len() >= 28, "{} ticks", late.len());
    let late = Figures::new(late);
    say!("R19: ticks late by {late}\n     started after {}", Figures::new(started));
    assert!(late.percentile(99) <= Duration::from_millis(500), "{late}");
}
