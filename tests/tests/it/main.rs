//! The API, the scheduler and the worker together, in process.

mod auth;
mod bad_input;
mod documentation;
mod lists;
mod reminders;
mod tasks;
