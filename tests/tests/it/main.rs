//! The API, the scheduler and the worker together, in process.
#![expect(clippy::unwrap_used, reason = "a test that finds something else than it looked for has failed")]

mod account;
mod admin;
mod api_tokens;
mod audit;
mod auth;
mod authorization;
mod bad_input;
mod batch;
mod cached;
mod comments;
mod documentation;
mod http;
mod limits;
mod lists;
mod mail_pages;
mod me;
mod overload;
mod projects;
mod reminders;
mod reports;
mod sessions;
mod snooze;
mod statements;
mod summaries;
mod tags;
mod tasks;
mod tree;
mod webhooks;
