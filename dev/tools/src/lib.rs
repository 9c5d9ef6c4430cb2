//! What development and tests need and production does not.
//!
//! - [`mod@bench`]: measures the job system beside the limits of its servers.
//! - [`mail_sink`]: an SMTP server that keeps every mail and shows it, as a program and in process.
//! - [`seed`]: a demo user with believable tasks.
//! - [`smoke`]: runs the README's session for real and checks what it says.
//!
//! Nothing here may be a dependency of `common`, `api`, `worker` or `scheduler`, except of their tests.

pub mod bench;
pub mod mail_sink;
pub mod seed;
pub mod smoke;
