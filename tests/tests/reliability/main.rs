//! The promise, kept by the real binaries while they are killed, stopped and cut off: nothing is lost, nothing comes
//! early, nothing runs twice without need. Each test has a cluster of its own and names the row of the goals that it
//! shows. Only what needs real processes belongs here; what a function or a statement does is tested beside it.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this is test code, also what stands outside of a test's function"
)]

mod alive_but_stuck;
mod backlog;
mod crashes;
mod database;
mod figures;
mod mail;
mod observability;
mod redis;
mod reminders;
mod schedulers;
mod seed;
