//! How fast the API is, beside what PostgreSQL does with the same SQL for pgbench, and axum with nothing behind it.
//!
//! - `world`: people and tasks, written by COPY.
//! - `requests`: what is sent; `load`: by whom, which is wrk.
//! - `limits`: pgbench and its scripts; `bare`: the endpoint with nothing behind it.
//! - `server`: the API as a process; `machine`: cores, CPU and memory of processes.
//! - `row_security`: what that would cost.
//! - `rebuild`: how long a build takes after a small change.
//! - `report`: the tables.

pub(super) mod bare;
mod limits;
mod load;
mod machine;
mod rebuild;
mod report;
mod requests;
mod row_security;
mod server;
mod world;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use common::{
    clock::Clock,
    db::{Db, PoolOptions},
    dispatcher::Outbox,
    redis::Redis,
    secrets::{Purpose, SecretKeys},
    testing::TestDatabase,
};
use tokio_postgres::NoTls;

use self::{
    limits::Limits,
    machine::{LOAD_CORE, Pinning, UNPINNED},
    report::{Cost, Measured},
    server::{Server, Settings},
    world::World,
};
use super::say;

/// How often a new process is measured.
const STARTS: usize = 3;
/// Connections over which requests come.
const CONNECTIONS: [u32; 3] = [1, 16, 64];
/// 32 zero bytes: it guards nothing.
const SECRET_KEYS: &str = "bench:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// Arguments of `tasktracker-dev bench http`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tasks of the thousand people; one person more has as many again, 100,000 at most
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(20_000..=1_000_000))]
    tasks: u32,
    /// How many times everything is measured; the medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long each load lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only these
    #[arg(long, value_name = "SCENARIOS", value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Measure a build after a line of `api` was changed, too
    #[arg(long)]
    build: bool,
    /// Measure what row-level security would cost, instead of the API
    #[arg(long, conflicts_with_all = ["only", "build"])]
    row_security: bool,
}

/// What is asked of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Scenario {
    /// GET one of 1,000 tasks, of which there are copies in Redis
    Cached,
    /// GET one of 10,000 tasks from the database
    Get,
    /// The first 20 of one's 100 tasks
    List,
    /// 20 from anywhere in 100,000 tasks of one person
    ListBusy,
    /// A new title
    Patch,
    /// A task with a due date and a reminder
    Create,
    /// 50 % get, 20 % list, 20 % patch, 10 % create
    Mixed,
}

impl Scenario {
    /// Its name on the command line, and that of its files.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("this is a debug build: the figures say nothing about speed");
    }
    let folder = std::env::temp_dir().join(format!("tasktracker-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let result = measure(args, &folder).await;
    let _ = std::fs::remove_dir_all(&folder);
    writeln!(std::io::stdout(), "{}", result?)?;
    Ok(())
}

fn setting(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run `cargo dev bench http`"))
}

async fn measure(args: &Args, folder: &Path) -> anyhow::Result<String> {
    let (server_url, redis_url) = (setting("TEST_DATABASE_URL")?, setting("TEST_REDIS_URL")?);
    let wrk = PathBuf::from(setting("TASKTRACKER_WRK")?);
    let bin = PathBuf::from(setting("TASKTRACKER_BIN_DIR")?);
    let pgbench = pgbench(Path::new(&setting("TEST_POSTGRES_BIN")?))?;
    let pinning = Pinning::find();
    if !pinning.is_on() {
        say(
            "no taskset, or one core: server and load share their cores, and ratios are lower than they could be",
        );
    }

    let mut superuser = Superuser::connect(&server_url).await?;
    let redis = Redis::new(&redis_url, "bench")?;
    let redis_pid = redis_pid(&redis).await?;
    let postgres_pid = superuser.postmaster().await?;
    pinning.hold(LOAD_CORE, postgres_pid);
    pinning.hold(LOAD_CORE, redis_pid);

    let world = World { tasks: args.tasks };
    let database = TestDatabase::create().await;
    let begun = Instant::now();
    say(&format!("writing {} tasks …", world.tasks + world.busy_tasks()));
    world.write(&database.owner_url).await?;
    say(&format!("written in {:.1} s", begun.elapsed().as_secs_f64()));

    let keys: SecretKeys = SECRET_KEYS.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let settings = Settings {
        folder: bin,
        pinning,
        variables: vec![
            ("DATABASE_URL", database.app_url.clone()),
            ("REDIS_URL", redis_url),
            ("REDIS_PREFIX", "bench".to_owned()),
            ("PUBLIC_URL", "http://127.0.0.1:8000".to_owned()),
            ("SECRET_KEYS", SECRET_KEYS.to_owned()),
        ],
    };
    let requests = requests::Requests::new(world, &keys)?;
    let mut measured = Measured::new(pinning.is_on(), args.tasks);
    // While it is alone: processes of one program share its pages, and each counts its part of them only.
    for _ in 0..STARTS {
        measured.begin(&start_up(&settings, &requests).await?);
    }
    let mut api = Server::api(&settings, &[])?;
    api.answers(&requests.one()).await?;
    let mut uncached = Server::api(&settings, &[("CACHE_SECONDS", "0")])?;
    uncached.answers(&requests.one()).await?;
    let mut unpinned = Server::api(&Settings { pinning: UNPINNED, ..settings.clone() }, &[])?;
    unpinned.answers(&requests.one()).await?;
    let mut bare = Server::bare(pinning)?;
    let bare_request = "GET / HTTP/1.1\r\nhost: bench\r\n\r\n".to_owned();
    bare.answers(&bare_request).await?;

    let load = load::Requests { wrk: &wrk, folder, pinning };
    let (busy, cursor) = requests.list_busy(&api).await?;
    for (scenario, list) in [
        (Scenario::Cached, requests.get().split_off(9_000)),
        (Scenario::Get, requests.get()),
        (Scenario::List, requests.list()),
        (Scenario::ListBusy, busy),
        (Scenario::Patch, requests.patch()),
        (Scenario::Create, requests.create()),
        (Scenario::Mixed, requests.mixed()),
    ] {
        load.keep(&scenario.name(), &list)?;
    }
    load.keep("bare", &[bare_request])?;
    let limits = Limits { pgbench: &pgbench, database_url: &database.app_url, folder, pinning };
    let db = Db::new(&database.app_url, PoolOptions::default(), Clock::Database, Outbox::default())?;
    limits.write(world, &db, &keys.derive(Purpose::Cursor), &cursor).await?;
    if args.row_security {
        let table = row_security::compare(&limits, &database.owner_url, args.rounds, args.seconds).await?;
        return Ok(table.to_string());
    }

    let scenarios: Vec<Scenario> = Scenario::value_variants()
        .iter()
        .copied()
        .filter(|scenario| args.only.is_empty() || args.only.contains(scenario))
        .collect();
    let names = report::MIXED.map(|(part, percent)| (part.name(), percent));
    let mix = names.each_ref().map(|(name, percent)| (name.as_str(), *percent));
    let server = |scenario| if scenario == Scenario::Get { &uncached } else { &api };
    for scenario in &scenarios {
        // Connections are opened and statements prepared.
        load.send(&scenario.name(), server(*scenario).address, 64, 1).await?;
    }
    for number in 1..=args.rounds {
        let round = format!("round {number} of {}", args.rounds);
        superuser.checkpoint().await?;
        let mut best: BTreeMap<Scenario, f64> = BTreeMap::new();
        for scenario in &scenarios {
            let name = scenario.name();
            for connections in CONNECTIONS {
                let api = server(*scenario);
                let cpu = || [api.pid(), postgres_pid, redis_pid].map(machine::cpu_seconds);
                let limit = match scenario {
                    Scenario::Mixed => {
                        if connections == CONNECTIONS[2] {
                            let p99 = limits.p99(&mix, connections, args.seconds).await?;
                            measured.mixed_p99.push(p99);
                        }
                        report::mixed(&best)
                    }
                    Scenario::Cached => {
                        // Copies end after a minute.
                        load.send(&name, api.address, 64, 1).await?;
                        load.send("bare", bare.address, connections, args.seconds).await?.per_second
                    }
                    _ => limits.run(&name, connections, args.seconds).await?,
                };
                if connections > 1 {
                    let best = best.entry(*scenario).or_default();
                    *best = best.max(limit);
                }
                let (before, begun) = (cpu(), Instant::now());
                let came = load.send(&name, api.address, connections, args.seconds).await?;
                let (after, took) = (cpu(), begun.elapsed().as_secs_f64());
                let cost = Cost { cores: [0, 1, 2].map(|n| (after[n] - before[n]) / took), pss: api.pss() };
                say(&format!(
                    "{round}: {name}, {connections} connections: {:.0}/s of {limit:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
                    came.per_second, came.p50_ms, came.p99_ms
                ));
                measured.push(*scenario, connections, limit, came, cost);
            }
            if *scenario == Scenario::Mixed {
                // How long people wait is up to the whole machine.
                let connections = CONNECTIONS[2];
                let load = load::Requests { pinning: UNPINNED, ..load };
                [postgres_pid, redis_pid].into_iter().for_each(|pid| pinning.release(pid));
                let p99 = Limits { pinning: UNPINNED, ..limits }.p99(&mix, connections, args.seconds).await?;
                load.send(&name, unpinned.address, connections, 1).await?;
                let came = load.send(&name, unpinned.address, connections, args.seconds).await?;
                [postgres_pid, redis_pid].into_iter().for_each(|pid| pinning.hold(LOAD_CORE, pid));
                say(&format!(
                    "{round}: {name}, {connections} connections, nothing pinned: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms (the limit's: {p99:.2})",
                    came.per_second, came.p50_ms, came.p99_ms
                ));
                measured.push_unpinned(came, p99);
            }
        }
        measured.end();
    }
    measured.peak_rss = api.peak_rss();
    if args.build {
        say("building after a change …");
        measured.build = Some(rebuild::after_a_line()?);
    }
    Ok(measured.report())
}

/// P11: milliseconds until a new process answers its first request, and its memory a second later.
async fn start_up(settings: &Settings, requests: &requests::Requests) -> anyhow::Result<(f64, f64)> {
    let begun = Instant::now();
    let mut api = Server::api(settings, &[])?;
    api.answers(&requests.one()).await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok((took, api.pss()))
}

/// The program that comes with PostgreSQL; packages put it beside the server, or on the path.
fn pgbench(beside: &Path) -> anyhow::Result<PathBuf> {
    for candidate in [beside.join("pgbench"), PathBuf::from("pgbench")] {
        let status = Command::new(&candidate).arg("--version").stdout(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return Ok(candidate);
        }
    }
    bail!(
        "there is no pgbench here: install PostgreSQL with its programs (Debian: postgresql, or postgresql-contrib)"
    )
}

/// The server, for what only a superuser may.
struct Superuser(tokio_postgres::Client);

impl Superuser {
    async fn connect(url: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// The process whose children are the connections.
    async fn postmaster(&mut self) -> anyhow::Result<u32> {
        let row =
            self.0.query_one("SELECT setting FROM pg_settings WHERE name = 'data_directory'", &[]).await?;
        let file = Path::new(row.get::<_, &str>(0)).join("postmaster.pid");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        text.lines().next().and_then(|pid| pid.trim().parse().ok()).context("postmaster.pid holds no number")
    }

    /// Begins each round with as little to write as the others.
    async fn checkpoint(&mut self) -> anyhow::Result<()> {
        Ok(self.0.batch_execute("CHECKPOINT").await?)
    }
}

async fn redis_pid(redis: &Redis) -> anyhow::Result<u32> {
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut redis.queue()).await?;
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")?.trim().parse().ok());
    pid.context("INFO has no process_id")
}
