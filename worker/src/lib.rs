//! What happens later, and to the outside world: jobs, run once they are due. A job's payload and policy are in
//! `common::jobs`, its work in `jobs/<kind>.rs`; how jobs are fetched, kept and ended is nobody else's business.

mod backend;
pub mod context;
pub mod job;
mod jobs;
mod runner;

pub use context::Context;
pub use runner::{Options, Running, drain, run};
