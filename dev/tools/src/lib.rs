//! What development and tests need and production does not.
//!
//! - [`mod@bench`]: measures the job system beside the limits of its servers.
//! - [`check_dashboards`]: asks the queries of Grafana's dashboards to a live Prometheus.
//! - [`client()`]: a client of our own processes.
//! - [`fuzz`]: lets Schemathesis try the API.
//! - [`mail_sink`]: an SMTP server that keeps every mail and shows it, as a program and in process.
//! - [`seed`]: a demo user with believable tasks.
//! - [`smoke`]: runs the README's session for real and checks what it says.
//! - [`webhook_sink`]: a receiver of webhooks that keeps every request and answers as it is told.
//!
//! Nothing here may be a dependency of `common`, `api`, `worker` or `scheduler`, except of their tests.

pub mod bench;
pub mod check_dashboards;
mod client;
pub mod fuzz;
pub mod mail_sink;
pub mod seed;
pub mod smoke;
pub mod webhook_sink;

pub use client::client;
