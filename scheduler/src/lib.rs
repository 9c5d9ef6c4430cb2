//! When things happen: the scheduler process, as a library. Any number of them run at once, without a leader; what
//! keeps them from doing the same thing twice is in PostgreSQL.

pub mod config;
pub mod due;
pub mod gauges;
pub mod readiness;
pub mod reconcile;
pub mod relay;
pub mod rounds;
pub mod schedule;
pub mod summaries;
#[cfg(test)]
mod testing;
pub mod tick;

use std::time::Duration;

use common::{
    dispatcher::{self, Outbox},
    health::Health,
    metrics, shutdown, telemetry, zone,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    due::Due,
    gauges::{Business, Gauges, Stores},
    readiness::Readiness,
    reconcile::Reconcile,
    relay::{Relay, Sweep},
    rounds::{Round, repeat},
    schedule::Schedule,
    summaries::Summaries,
    tick::Ticker,
};

/// After a signal, what is under way has so long to finish.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the process until it is told to stop.
///
/// # Errors
/// If a setting is wrong, the internal port is taken, or a loop ends by itself, which is a defect.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // Fails only if it was called before, and there is no other provider in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
    telemetry::init("scheduler", &config.telemetry)?;
    zone::set_instance(config.installation.default_time_zone);
    let rendered = metrics::install()?;
    metrics::start_scheduler();
    let stop = shutdown::on_signal()?;

    let table = table(&config)?;
    let (outbox, due) = Outbox::new();
    let redis = config.redis.open()?;
    let db = config.database.open(outbox.with_cache(config.redis.cache(&redis)))?;
    tokio::spawn(dispatcher::run(db.clone(), redis.clone(), due, stop.clone()));
    let health = Health::default();
    let (mut readiness, mut ready) = Readiness::new(db.clone(), health.clone());
    readiness.round().await?;
    health.serve(config.internal_bind, rendered, stop.clone()).await?;
    health.watch();
    tokio::spawn(redis.clone().watch(health.clone()));

    let mut loops = Loops { set: JoinSet::new(), health, stop };
    loops.start(readiness);
    if loops.stop.run_until_cancelled(ready.wait_for(|ready| *ready)).await.is_some() {
        loops.start(Ticker::new(db.clone(), table));
        loops.start(Relay::new(db.clone(), redis.clone()));
        loops.start(Sweep::new(db.clone(), redis.clone()));
        loops.start(Reconcile::new(db.clone(), redis.clone()));
        loops.start(Due::new(db.clone(), config.mail.catch_up_mails_per_second));
        loops.start(Summaries::new(db.clone()));
        loops.start(Gauges::new(db.clone(), redis.clone()));
        loops.start(Stores::new(db.clone(), redis));
        loops.start(Business::new(db));
    }
    loops.finish().await
}

fn table(config: &Config) -> anyhow::Result<Vec<Schedule>> {
    let table = schedule::table(config.installation.default_time_zone)?;
    #[cfg(feature = "testing")]
    let table = [table, schedule::probes(config)?].concat();
    Ok(table)
}

/// The loops of this process.
struct Loops {
    set: JoinSet<()>,
    health: Health,
    stop: CancellationToken,
}

impl Loops {
    fn start(&mut self, work: impl Round + 'static) {
        self.set.spawn(repeat(work, self.health.clone(), self.stop.clone()));
    }

    /// Waits for the signal and then for the loops.
    async fn finish(mut self) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            ended = self.set.join_next() => anyhow::bail!("a loop has ended: {ended:?}"),
        }
        self.health.stopping();
        let ended =
            tokio::time::timeout(GRACE, async { while self.set.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("a round did not finish in time; whatever it held is given back by PostgreSQL");
        }
        tracing::info!("stopped");
        Ok(())
    }
}
