use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use common::{
    clock::Clock,
    dispatcher::DueJob,
    ids::JobId,
    jobs::{Act, Job as _, PROBE, Probe},
};
use futures::future::try_join_all;

use super::{
    fixture::{BATCH, Fixture, PRODUCERS},
    history, raw, reminders, say,
    table::{Samples, Table, percentile, rate},
};

/// Loops that work on the queue at once.
const LOOPS: usize = 4;
/// The second load of P9.
const PER_SECOND: u32 = 500;

/// Arguments of `tasktracker-dev bench jobs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many jobs are drained in a round
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    jobs: u32,
    /// How many jobs that were finished long ago are in the ledger
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    history: u32,
    /// How many times everything is measured; the medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
}

/// What was measured, one sample a round.
#[derive(Default)]
struct Measured {
    drain: Samples,
    drain_limit: Samples,
    beside: Samples,
    beside_limit: Samples,
    queue: Samples,
    queue_limit: Samples,
    idle: Latency,
    busy: Latency,
    reminders: Latency,
    pruned: Samples,
    prune: Latency,
    worker_cpu: Samples,
    redis_cpu: Samples,
}

#[derive(Default)]
struct Latency {
    p50: Samples,
    p99: Samples,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("this is a debug build: the figures say nothing about speed");
    }
    let jobs = args.jobs as usize / PRODUCERS * PRODUCERS;
    let folder = std::env::temp_dir().join(format!("tasktracker-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut measured = Measured::default();
    let mut result = Ok(());
    for number in 1..=args.rounds {
        let round = format!("round {number} of {}", args.rounds);
        result = measured.round(&round, jobs, args.history, &folder).await;
        if result.is_err() {
            break;
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
    result?;
    writeln!(std::io::stdout(), "{}", measured.table(args))?;
    Ok(())
}

impl Measured {
    /// Everything once, ours and the limits in turn.
    async fn round(&mut self, round: &str, jobs: usize, history: u32, folder: &Path) -> anyhow::Result<()> {
        let fixture = Fixture::new(history).await?;
        let ids: Vec<JobId> = (0..jobs).map(|_| JobId::new()).collect();

        let limit = raw::zadd_zpopmin(&fixture.redis.queue(), &fixture.redis.key("raw"), &ids, LOOPS).await?;
        say(&format!("{round}: raw ZADD and ZPOPMIN: {}", rate(limit)));
        self.queue_limit.push(limit);
        let queue = queue_alone(&fixture, &ids).await?;
        say(&format!("{round}: P8, the queue alone: {}", rate(queue)));
        self.queue.push(queue);

        let limit = raw::batched_updates(&fixture.owner, jobs).await?;
        say(&format!("{round}: raw updates in batches: {}", rate(limit)));
        self.drain_limit.push(limit);
        say(&format!("{round}: enqueueing {jobs} jobs …"));
        let drain = self.drain(&fixture, jobs).await?;
        say(&format!("{round}: P7, drained: {}", rate(drain)));
        self.drain.push(drain);

        // A multiple of the connections.
        let few = jobs / 4 / PRODUCERS * PRODUCERS;
        let limit = raw::single_inserts(&fixture.owner, few, PRODUCERS).await?;
        say(&format!("{round}: raw inserts, a row a commit: {}", rate(limit)));
        self.beside_limit.push(limit);
        let beside = producers_beside(few, history).await?;
        say(&format!("{round}: P7, producers beside the worker: {}", rate(beside)));
        self.beside.push(beside);

        for (latency, name, count, pause) in [
            (&mut self.idle, "idle", 200, Duration::from_millis(25)),
            (&mut self.busy, "at 500 jobs/s", 2_500, Duration::from_secs(1) / PER_SECOND),
        ] {
            let log = folder.join(JobId::new().to_string());
            let millis = commit_to_start(&log, count, pause, history).await?;
            let (p50, p99) = (percentile(&millis, 50), percentile(&millis, 99));
            say(&format!("{round}: P9, {name}: p50 {p50:.2} ms, p99 {p99:.2} ms"));
            latency.p50.push(p50);
            latency.p99.push(p99);
        }

        let millis = reminders::lateness(history).await?;
        let (p50, p99) = (percentile(&millis, 50), percentile(&millis, 99));
        say(&format!("{round}: P10, reminders late by: p50 {p50:.0} ms, p99 {p99:.0} ms"));
        self.reminders.p50.push(p50);
        self.reminders.p99.push(p99);

        if history > 0 {
            let (a_second, p99, max) = history::prune(&fixture.db, history).await?;
            say(&format!("{round}: P12, pruned: {}, p99 {p99:.1} ms, {max:.1} ms at most", rate(a_second)));
            self.pruned.push(a_second);
            self.prune.p99.push(p99);
        }
        Ok(())
    }

    /// P7: jobs that wait already, from the worker's start to the last finish.
    async fn drain(&mut self, fixture: &Fixture, jobs: usize) -> anyhow::Result<f64> {
        fixture.enqueue(jobs, 100).await?;
        fixture.wait_pushed(jobs).await?;
        let redis_before = redis_cpu(fixture).await?;
        let start = fixture.now().await?;
        let worker = fixture.worker()?;
        let took = fixture.wait_done(jobs, start).await?;
        let thousands = jobs as f64 / 1000.0;
        self.worker_cpu.push(worker.cpu_seconds().unwrap_or(f64::NAN) / thousands);
        self.redis_cpu.push((redis_cpu(fixture).await? - redis_before) / thousands);
        Ok(jobs as f64 / took.as_secs_f64())
    }

    fn table(&self, args: &Args) -> Table<5> {
        let head = [
            "what, median of the rounds",
            "measured",
            "must",
            "aim",
            "limit of the servers in the same rounds",
        ];
        let limit = |what: &str, ours: &Samples, limit: &Samples| {
            let part = 100.0 * ours.median() / limit.median();
            format!("{what}: {} ({part:.0} %)", rate(limit.median()))
        };
        let latency = |name: &str, latency: &Latency| {
            let measured = format!("{:.2} / {:.2} ms", latency.p50.median(), latency.p99.median());
            [
                format!("P9 commit to start, {name}, p50 / p99"),
                measured,
                "p99 10 ms".into(),
                "p99 2.5 ms".into(),
                String::new(),
            ]
        };
        let cpu = format!("worker {:.4}, Redis {:.4}", self.worker_cpu.median(), self.redis_cpu.median());
        let mut rows = vec![
            head.map(str::to_owned),
            [
                format!("P7 {} jobs drained", args.jobs),
                rate(self.drain.median()),
                "15,000/s".into(),
                "30,000/s".into(),
                limit("claim and finish updates in batches", &self.drain, &self.drain_limit),
            ],
            [
                "P7 beside producers, a job a commit".into(),
                rate(self.beside.median()),
                "5,000/s".into(),
                "10,000/s".into(),
                limit("inserts, a row a commit", &self.beside, &self.beside_limit),
            ],
            [
                "P8 the queue alone: fetch, lease, ack".into(),
                rate(self.queue.median()),
                "60,000/s, 50 %".into(),
                "120,000/s".into(),
                limit("pipelines of ZADD, of ZPOPMIN", &self.queue, &self.queue_limit),
            ],
            latency("idle", &self.idle),
            latency("at 500 jobs/s", &self.busy),
            [
                format!("P10 reminders of {} people in one instant, late by p50 / p99", reminders::PEOPLE),
                format!("{:.0} / {:.0} ms", self.reminders.p50.median(), self.reminders.p99.median()),
                "p99 2,000 ms".into(),
                "p99 500 ms".into(),
                String::new(),
            ],
            ["CPU seconds per 1,000 jobs drained".into(), cpu, String::new(), String::new(), String::new()],
        ];
        if args.history > 0 {
            let pruned =
                format!("{}, p99 of a batch {:.1} ms", rate(self.pruned.median()), self.prune.p99.median());
            let what = format!("P12 pruning of {} finished jobs", args.history);
            rows.push([what, pruned, String::new(), String::new(), String::new()]);
        }
        Table(rows)
    }
}

/// P8: ids that wait are leased and acknowledged.
async fn queue_alone(fixture: &Fixture, ids: &[JobId]) -> anyhow::Result<f64> {
    let now = Clock::Database.instant();
    let jobs: Vec<DueJob> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| DueJob {
            id: *id,
            queue: PROBE.to_owned(),
            lane: format!("lane-{}", number % 1_000),
            priority: 1,
            run_at: now,
        })
        .collect();
    fixture.queue.push(&jobs).await?;
    let start = Instant::now();
    let loops = (0..LOOPS).map(async |_| {
        let mut count = 0;
        loop {
            let leased = fixture.queue.fetch(BATCH, Duration::from_secs(15)).await?;
            if leased.is_empty() {
                return anyhow::Ok(count);
            }
            let ids: Vec<JobId> = leased.iter().map(|leased| leased.id).collect();
            count += fixture.queue.ack(&ids).await?;
        }
    });
    let count: usize = try_join_all(loops).await?.iter().sum();
    ensure!(count == ids.len(), "{count} of {} ids came out of the queue", ids.len());
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// P7: a worker that is at work while jobs are committed one by one; from the first commit to the last finish.
async fn producers_beside(jobs: usize, history: u32) -> anyhow::Result<f64> {
    let fixture = Fixture::new(history).await?;
    let mut worker = fixture.worker()?;
    worker.ready().await?;
    let start = fixture.now().await?;
    fixture.enqueue(jobs, 1).await?;
    let took = fixture.wait_done(jobs, start).await?;
    Ok(jobs as f64 / took.as_secs_f64())
}

/// P9: milliseconds from the return of a commit to the first line of the handler, sorted.
async fn commit_to_start(
    log: &Path,
    count: usize,
    pause: Duration,
    history: u32,
) -> anyhow::Result<Vec<f64>> {
    let fixture = Fixture::new(history).await?;
    let mut worker = fixture.worker()?;
    worker.ready().await?;
    let probe = Probe { lane: "ann".to_owned(), log: Some(log.to_owned()), act: Act::Nothing };
    let mut committed = HashMap::new();
    let start = fixture.now().await?;
    // The first ones open connections and prepare statements.
    let warm_up = 20;
    let mut every = tokio::time::interval(pause);
    for number in 0..count + warm_up {
        every.tick().await;
        let mut tx = fixture.db.begin().await?;
        let id = probe.enqueue(&mut tx).await?;
        tx.commit().await?;
        if number >= warm_up {
            committed.insert(id.to_string(), Clock::Database.instant().timestamp_micros());
        }
    }
    fixture.wait_done(count + warm_up, start).await?;
    let mut millis = Vec::with_capacity(count);
    for line in std::fs::read_to_string(log)?.lines() {
        let mut fields = line.split(' ');
        let (id, started) =
            (fields.next().context("an id")?, fields.nth(2).context("microseconds")?.parse::<i64>()?);
        if let Some(committed) = committed.remove(id) {
            millis.push((started - committed).max(0) as f64 / 1000.0);
        }
    }
    ensure!(committed.is_empty(), "{} jobs left no line", committed.len());
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}

/// CPU seconds that Redis has used.
async fn redis_cpu(fixture: &Fixture) -> anyhow::Result<f64> {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut fixture.redis.queue()).await?;
    let value =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    Ok(value("used_cpu_sys:").context("INFO cpu")? + value("used_cpu_user:").context("INFO cpu")?)
}
