//! What happens later, and to the outside world: jobs, run once they are due. A job's payload and policy are in
//! `common::jobs`, its work in `jobs/<kind>.rs`; how jobs are fetched, kept and ended is nobody else's business.

mod backend;
pub mod config;
pub mod context;
pub mod http;
pub mod job;
mod jobs;
mod runner;
pub mod shell;
pub mod smtp;
#[cfg(all(test, feature = "testing"))]
mod testing;

use std::time::Duration;

use common::{
    db::{self, Db},
    dispatcher::{self, Outbox},
    health::Health,
    metrics,
    shutdown::{self, CancellationToken},
    telemetry, zone,
};
pub use config::Config;
pub use context::{Context, Settings};
pub use jobs::Turns;
pub use runner::{Options, Running, drain, run};

/// Runs jobs until the process is told to stop.
///
/// # Errors
/// If a setting is wrong, the internal port is taken, or a queue is worked on no more, which is a defect.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init("worker", &config.telemetry)?;
    zone::set_instance(config.installation.default_time_zone);
    let rendered = metrics::install()?;
    metrics::start_worker();
    let stop = shutdown::on_signal()?;

    let (outbox, due) = Outbox::new();
    let redis = config.redis.open()?;
    let db = config.database.open(outbox.with_cache(config.redis.cache(&redis)))?;
    // Probes, and the jobs that jobs commit, outlive the last job.
    let last = CancellationToken::new();
    let health = Health::default();
    health.serve(config.internal_bind, rendered, last.clone()).await?;
    health.watch();
    let dispatcher = tokio::spawn(dispatcher::run(db.clone(), redis.clone(), due, last.clone()));
    watch_database(db.clone(), config.smtp.clone(), health.clone());
    tokio::spawn(redis.clone().watch(health.clone()));

    let context = Context::new(&config, db, redis)?;
    tokio::spawn(smtp::watch(context.clone()));
    let result = run(context, config.work.options(), health, stop).await;
    last.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(3), dispatcher).await;
    tracing::info!("stopped");
    result
}

/// Every two seconds: whether the database is there and its schema is the one that this build needs. Once it is, the
/// mail queue is paused if there is no mail server to send to.
fn watch_database(db: Db, smtp: config::Smtp, health: Health) {
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(2));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut smtp = Some(smtp);
        loop {
            every.tick().await;
            let problem = db::problem(&db).await;
            if let (None, Some(setting)) = (&problem, &smtp)
                && setting.pause_without_server(&db).await.is_ok()
            {
                smtp = None;
            }
            health.dependency("postgres", problem);
            db.observe();
        }
    });
}
