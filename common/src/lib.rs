//! What things are, and how they are stored. Everything that two processes share is here; what only one of
//! them does is there. The list is closed: a new module is a new noun of the product, or a reason in an ADR.

// Ground: no noun of the product may be named in these.
pub mod cache;
pub mod clock;
pub mod config;
pub mod db;
pub mod error;
pub mod health;
pub mod ids;
pub mod metrics;
pub mod page;
pub mod redis;
pub mod schema;
pub mod secrets;
pub mod shutdown;
pub mod telemetry;
pub mod zone;

// Who may see and change which noun.
pub mod access;

// Nouns: the row, its rules, its queries.
pub mod allowance;
pub mod api_tokens;
pub mod audit;
pub mod comments;
pub mod credentials;
pub mod events;
pub mod notifications;
pub mod one_time;
pub mod projects;
pub mod reminders;
pub mod reports;
pub mod summaries;
pub mod suppressions;
pub mod tags;
pub mod tasks;
pub mod teams;
pub mod users;
pub mod webhooks;

// Later: what is owed, and how it reaches a worker.
pub mod dispatcher;
pub mod jobs;
pub mod ledger;
pub mod mail;
pub mod queue;

#[cfg(feature = "testing")]
pub mod sabotage;
#[cfg(feature = "testing")]
pub mod testing;
