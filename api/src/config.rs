//! The settings of this process.

use std::net::{IpAddr, SocketAddr};

use clap::{Parser, Subcommand, ValueEnum};
use common::config;
use secrecy::SecretString;

use crate::admin::shell::address;

/// The REST API of TaskTracker.
///
/// Commands: `tasktracker-api migrate` brings the database schema up to date; `tasktracker-api check-config` looks whether these
/// settings would work; `tasktracker-api admin` makes somebody an administrator; `tasktracker-api reseal` moves sealed secrets to
/// the first key; `tasktracker-api openapi` prints the OpenAPI document. Without a command the API is served.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-api", version)]
pub struct Config {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: config::Database,
    /// Redis.
    #[command(flatten)]
    pub redis: config::RedisServer,
    /// Keys.
    #[command(flatten)]
    pub secrets: config::Secrets,
    /// What people share.
    #[command(flatten)]
    pub installation: config::Installation,
    /// What handlers go by.
    #[command(flatten)]
    pub settings: Settings,
    /// The first administrator.
    #[command(flatten)]
    pub first_admin: FirstAdmin,
    /// Logs.
    #[command(flatten)]
    pub telemetry: config::Telemetry,
    /// Where /metrics, /livez and /readyz are served
    #[arg(long, env = "INTERNAL_BIND", default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub internal_bind: config::InternalBind,
}

/// What handlers go by.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// HTTP.
    #[command(flatten)]
    pub http: Http,
    /// Where people reach the API.
    #[command(flatten)]
    pub public: config::PublicAddress,
    /// Where webhooks may go.
    #[command(flatten)]
    pub webhooks: config::Webhooks,
    /// When finished tasks are put away.
    #[command(flatten)]
    pub archiving: config::Archiving,
    /// What is asked of accounts.
    #[command(flatten)]
    pub accounts: config::Accounts,
}

/// How the API is reached, and by whom.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub struct Http {
    /// Where the API is served
    #[arg(long, env = "BIND", default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub bind: SocketAddr,
    /// Whether everybody may make an account
    #[arg(long, env = "REGISTRATION", value_enum, default_value_t = Registration::Open)]
    pub registration: Registration,
    /// Proxies whose X-Forwarded-For is believed: addresses or networks, separated by commas
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Requests of one person in any minute, and six times as many of one address; 0 switches both limits off
    #[arg(long, env = "RATE_LIMIT_PER_MINUTE", default_value_t = 100, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_limit_per_minute: u32,
    /// Requests that may wait for a database connection; while so many do, further ones are answered 503 at once
    #[arg(long, env = "MAX_WAITING_REQUESTS", default_value_t = 128, value_name = "REQUESTS", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub max_waiting_requests: u16,
    /// From where /api/v1/admin may be used, beside the role: addresses or networks, separated by commas; everywhere if
    /// none is named
    #[arg(long, env = "ADMIN_ALLOW_CIDRS", value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    pub admin_allow_cidrs: Vec<ipnet::IpNet>,
    /// Web pages whose scripts may use the API (CORS): origins such as `https://app.example.com`, separated by commas
    #[arg(long, env = "CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<http::HeaderValue>,
    /// Whether PATCH, PUT and DELETE of what has a version have to say which one they mean, by If-Match (else 428)
    #[arg(long, env = "REQUIRE_IF_MATCH", default_value_t = false, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub require_if_match: bool,
    /// For how many seconds a stopping process is not ready and still accepts, so that a balancer can turn away
    #[arg(long, env = "SHUTDOWN_DELAY", default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(0..=60))]
    pub shutdown_delay: u16,
}

/// Whether everybody may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Nobody.
    Closed,
}

fn network(text: &str) -> Result<ipnet::IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from))
        .map_err(|_| "not an address or a network such as 10.0.0.0/8".to_owned())
}

/// An origin as browsers write it (RFC 6454 §6.2): scheme, host and a port that is not the scheme's own.
fn origin(text: &str) -> Result<http::HeaderValue, String> {
    let is_one = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    };
    let value = text.parse::<url::Url>().ok().filter(is_one).and_then(|_| text.parse().ok());
    value.ok_or_else(|| {
        "not an origin such as https://app.example.com: no path, no slash at the end, lower case".to_owned()
    })
}

/// Brings the database schema up to date, as the role that owns it.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-api migrate", version)]
pub struct Migrate {
    /// Where the database is, as the role tasktracker_owner: postgres://user:password@host/database
    #[arg(long, env = "MIGRATE_DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = config::database_url)]
    pub migrate_database_url: SecretString,
    /// Logs.
    #[command(flatten)]
    pub telemetry: config::Telemetry,
}

/// Seals what is sealed with the first key of `SECRET_KEYS`, so that older keys can be thrown away.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-api reseal", version)]
pub struct Reseal {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: config::Database,
    /// Keys.
    #[command(flatten)]
    pub secrets: config::Secrets,
}

/// The first administrator.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Accounts")]
pub struct FirstAdmin {
    /// Who becomes an administrator while nobody is one: an account without a password is made for this address
    #[arg(long, env = "INITIAL_ADMIN_EMAIL", value_name = "ADDRESS", value_parser = address)]
    pub initial_admin_email: Option<String>,
}

/// Makes somebody an administrator, for whoever has the database's password.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-api admin", version)]
pub struct AdminCommand {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: config::Database,
    /// Keys.
    #[command(flatten)]
    pub secrets: config::Secrets,
    /// Where links lead.
    #[command(flatten)]
    pub public: config::PublicAddress,
    /// What to do.
    #[command(subcommand)]
    pub task: AdminTask,
}

/// Looks whether the audit trail is as it was written. Ends with 1 if it is not.
#[derive(Debug, Parser)]
#[command(name = "tasktracker-api audit", version)]
pub struct AuditCommand {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: config::Database,
    /// What to do.
    #[command(subcommand)]
    pub task: AuditTask,
}

/// What `tasktracker-api audit` does.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum AuditTask {
    /// Compare every row with its seal, and every seal with the one before
    Verify,
}

/// What `tasktracker-api admin` does.
#[derive(Debug, Subcommand)]
pub enum AdminTask {
    /// Make an address an active administrator, and print a link that sets a password once, if it has none
    Create {
        /// The address; it gets an account if it has none
        #[arg(value_parser = address)]
        email: String,
        /// What they are called, for a new account
        #[arg(long, default_value = "Administrator", value_parser = name)]
        name: String,
    },
    /// Print a link that sets an account's password once, within 24 hours
    Link {
        /// The address of the account
        #[arg(value_parser = address)]
        email: String,
    },
}

fn name(text: &str) -> Result<String, String> {
    let count = text.trim().chars().count();
    if (1..=200).contains(&count) && !text.contains(char::is_control) {
        Ok(text.trim().to_owned())
    } else {
        Err("a name has 1 to 200 characters".to_owned())
    }
}
