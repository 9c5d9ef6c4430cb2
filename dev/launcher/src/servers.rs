//! PostgreSQL and Redis: private ones on Unix sockets, or those that the environment names.

pub(crate) mod postgres;
pub(crate) mod redis;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::children::{self, Child};
use crate::data::DataDir;
use crate::error::{Error, Result};
use crate::os::{Signals, Stop};
use crate::programs::Sources;
use crate::settings::Settings;

use postgres::Durability;

/// How long a server may take until it answers; recovery after a crash included.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// Which servers are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) postgres: bool,
    pub(crate) redis: bool,
    pub(crate) durability: Durability,
}

/// The servers of a stack, and how to reach them.
#[derive(Default)]
pub(crate) struct Servers {
    /// For the application, as the role `tasktracker_app`.
    pub(crate) database_url: Option<String>,
    /// For migrations, as the role `tasktracker_owner`.
    pub(crate) migrate_database_url: Option<String>,
    /// For tests, as a superuser; only of a private server.
    pub(crate) superuser_url: Option<String>,
    pub(crate) redis_url: Option<String>,
    /// The program, for tests that start and kill servers of their own.
    pub(crate) redis_program: Option<PathBuf>,
    /// Likewise `postgres`, beside which `initdb` stands.
    pub(crate) postgres_program: Option<PathBuf>,
    postgres: Option<Child>,
    redis: Option<Child>,
}

impl Servers {
    /// Starts what is wanted and not given by the environment, without waiting until it is ready.
    pub(crate) fn start(
        &mut self,
        wanted: Wanted,
        settings: Settings,
        data: &DataDir,
        tools: &Path,
        signals: &Signals,
    ) -> Result<()> {
        let sources = Sources::from_env()?;
        if wanted.postgres {
            if let Some(url) = settings.given("DATABASE_URL") {
                let owner = settings.given("MIGRATE_DATABASE_URL").ok_or_else(|| {
                    Error::new("DATABASE_URL is set, but MIGRATE_DATABASE_URL is not").fix(
                        "set both, the first with a role that only reads and writes, the second with the role that \
                         owns the schema; or unset both for a private PostgreSQL",
                    )
                })?;
                self.database_url = Some(url);
                self.migrate_database_url = Some(owner);
            } else {
                let program = sources.postgres(postgres::cluster_version(data), tools, signals)?;
                self.postgres = Some(postgres::start(&program, data, wanted.durability, signals)?);
                self.postgres_program = Some(program.path);
                let url = |role, database| Some(postgres::url(data.sockets(), role, database));
                self.database_url = url("tasktracker_app", "tasktracker");
                self.migrate_database_url = url("tasktracker_owner", "tasktracker");
                self.superuser_url = url("postgres", "postgres");
            }
        }
        if wanted.redis {
            if let Some(url) = settings.given("REDIS_URL") {
                self.redis_url = Some(url);
            } else {
                let program = sources.redis(tools, signals)?;
                self.redis = Some(redis::start(&program, data)?);
                self.redis_program = Some(program.path);
                self.redis_url = Some(redis::url(data.sockets()));
            }
        }
        Ok(())
    }

    /// Waits until the private servers answer.
    pub(crate) fn wait_ready(&mut self, data: &DataDir, signals: &Signals) -> Result<()> {
        if let Some(child) = &mut self.postgres {
            let pid = child.pid();
            wait_until(child, signals, || postgres::is_ready(data, pid))?;
        }
        if let Some(child) = &mut self.redis {
            wait_until(child, signals, || crate::probe::redis(&redis::socket(data.sockets())))?;
        }
        Ok(())
    }

    /// The programs that run.
    pub(crate) fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.postgres.iter_mut().chain(&mut self.redis)
    }

    /// Stops Redis first: PostgreSQL holds the truth.
    pub(crate) fn stop(&mut self, stop: &Stop<'_>) {
        for child in [&mut self.redis, &mut self.postgres] {
            children::end(child.as_mut_slice(), STOP, stop);
            *child = None;
        }
    }
}

fn wait_until(child: &mut Child, signals: &Signals, ready: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + START;
    while !ready() {
        child.must_run()?;
        if signals.stop_requested() {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            return Err(child.failure(&format!("{} is not ready after {} s", child.name(), START.as_secs())));
        }
        signals.wait(Duration::from_millis(20));
    }
    Ok(())
}
