//! The promise, kept by the real binaries while they are killed, stopped and cut off: nothing is lost, nothing comes
//! early, nothing runs twice without need. Each test has a cluster of its own. One that shows a row of the goals is named
//! after it, and `cargo dev chaos --scenario R12` runs it alone. Only what needs real processes belongs here; what a
//! function or a statement does is tested beside it.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this is test code, also what stands outside of a test's function"
)]

mod alive_but_stuck;
mod answers;
mod backlog;
mod crashes;
mod database;
mod fairness;
mod figures;
mod hard_jobs;
mod held_transaction;
mod kills;
mod mail;
mod nasty_titles;
mod observability;
mod options;
mod overload;
mod redis;
mod redis_trouble;
mod reminders;
mod rolling;
mod schedulers;
mod seed;
mod shutdown;
mod soak;
mod stopped;
mod traffic;
