//! How things are reached: the REST API, as a library that tests can drive. Handlers read and check a request, call the
//! noun in `common`, and answer; a rule about tasks is not written here.

pub mod config;
pub mod openapi;
pub mod state;

mod account;
mod activity;
mod admin;
mod admission;
mod answer;
mod api_tokens;
mod auth;
mod availability;
mod comments;
mod error;
mod extract;
mod html;
mod idempotency;
mod keeping;
mod limits;
mod mail_pages;
mod meta;
mod middleware;
mod notifications;
mod overload;
mod problems;
mod projects;
mod reminders;
mod reports;
mod router;
mod routes;
mod sessions;
mod stopping;
mod tags;
mod tasks;
mod teams;
mod tokens;
mod webhooks;

use std::{net::SocketAddr, time::Duration};

pub use admin::shell::{run as admin, verify as audit};
use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use common::{
    config::Database,
    db::{self, Db},
    dispatcher::{self, Outbox},
    health::Health,
    metrics,
    shutdown::{self, CancellationToken},
    telemetry, zone,
};
pub use keeping::{Report, check_config, reseal_all as reseal};
pub use router::router;
use secrecy::ExposeSecret as _;

use crate::{
    config::{Config, Migrate},
    state::AppState,
};

/// How long requests may go on after the process is told to stop.
const DRAIN: Duration = Duration::from_secs(30);
/// After so long a question to the database counts as unanswered.
const ROUND: Duration = Duration::from_secs(5);

/// Serves the API until the process is told to stop.
///
/// # Errors
/// If a setting is wrong or a port is taken.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init("api", &config.telemetry)?;
    zone::set_instance(config.installation.default_time_zone);
    let rendered = metrics::install()?;
    metrics::start_api();
    let stop = shutdown::on_signal()?;

    let (outbox, due) = Outbox::new();
    let redis = config.redis.open()?;
    let db = config.database.open(outbox.with_cache(config.redis.cache(&redis)))?;
    let app = AppState::new(
        db.clone(),
        redis.clone(),
        &config.secrets.secret_keys,
        config.settings.clone(),
        stop.clone(),
    )?;
    let bind = config.settings.http.bind;
    let listener = tokio::net::TcpListener::bind(bind)
        .await
        .with_context(|| format!("BIND: cannot listen on {bind}"))?;

    // What outlives the last request: probes, and the jobs that it committed.
    let last = CancellationToken::new();
    let health = Health::default();
    tokio::spawn(redis.clone().watch(health.clone()));
    // A busy pool must not make the process look as if it could not work; two ask through this one.
    let asking = Database { database_pool_size: 2, ..config.database.clone() }.open(Outbox::default())?;
    watch_database(asking.clone(), app.clone(), health.clone());
    tokio::spawn(app.availability.clone().watch(asking));
    health.serve(config.internal_bind, rendered, last.clone()).await?;
    health.watch();
    let dispatcher = tokio::spawn(dispatcher::run(db, redis, due, last.clone()));
    if let Some(email) = config.first_admin.initial_admin_email {
        tokio::spawn(admin::shell::make_initial(app.db.clone(), email));
    }
    tracing::info!(address = %listener.local_addr()?, "serving");

    let (closing, draining) = (CancellationToken::new(), CancellationToken::new());
    let delay = Duration::from_secs(config.settings.http.shutdown_delay.into());
    tokio::spawn({
        let (stop, closing, draining) = (stop.clone(), closing.clone(), draining.clone());
        async move {
            stop.cancelled().await;
            health.stopping();
            tokio::time::sleep(delay).await;
            closing.cancel();
            tokio::time::sleep(stopping::FIRST_REQUEST).await;
            draining.cancel();
        }
    });
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    // An answer is written at once: holding it back for more (Nagle) gains nothing.
    let door = stopping::Door::new(listener, closing)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let served = axum::serve(door, service).with_graceful_shutdown(draining.clone().cancelled_owned());
    tokio::select! {
        result = served => result?,
        () = async { draining.cancelled().await; tokio::time::sleep(DRAIN).await } => {
            tracing::warn!("requests were still under way after {} s", DRAIN.as_secs());
        }
    }
    last.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(3), dispatcher).await;
    tracing::info!("stopped");
    Ok(())
}

/// Brings the schema up to date.
///
/// # Errors
/// If the database is away or a migration fails.
pub async fn migrate(config: Migrate) -> anyhow::Result<()> {
    telemetry::init("migrate", &config.telemetry)?;
    let ran = db::run_migrations(config.migrate_database_url.expose_secret()).await?;
    for migration in &ran {
        tracing::info!(migration, "ran");
    }
    tracing::info!(migrations = ran.len(), "the schema is up to date");
    Ok(())
}

/// Each second: which sessions ended, and whether the database is there and its schema is the one that this build
/// needs.
fn watch_database(db: Db, app: AppState, health: Health) {
    let pulse = health.pulse("sessions");
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let round = async {
                match app.tokens.refresh(&db).await {
                    Ok(()) => db::problem(&db).await,
                    Err(error) => Some(error.to_string()),
                }
            };
            // A database that swallows what it is sent is away too; waiting for it would stop the pulse.
            let problem = tokio::time::timeout(ROUND, round).await;
            let problem = problem.unwrap_or_else(|_| Some(format!("no answer within {} s", ROUND.as_secs())));
            health.dependency("postgres", problem);
            app.db.observe();
            pulse.beat();
        }
    });
}
