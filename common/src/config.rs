//! Settings: one clap struct per concern, flattened into each binary's `Config`, so that `--help` is the reference.
//! Every setting is an environment variable or a flag; every variable that holds a secret may instead be read from
//! the file that `<NAME>_FILE` names. What is missing or wrong is reported all at once.

use std::{ffi::OsString, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use chrono_tz::Tz;
use clap::{Arg, Args, Command, Parser, ValueEnum, error::ErrorKind};
use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    cache::Cache,
    clock::Clock,
    db::{Db, PoolOptions},
    dispatcher::Outbox,
    health,
    redis::Redis,
    secrets::SecretKeys,
    webhooks::target::{self, AllowList, Reach},
};

/// PostgreSQL.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct Database {
    /// Where the database is, as the role tasktracker_app: postgres://user:password@host/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = database_url)]
    pub database_url: SecretString,
    /// Connections of this process at most
    #[arg(long, env = "DATABASE_POOL_SIZE", default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=200))]
    pub database_pool_size: u16,
    /// After how many seconds a statement is given up
    #[arg(long, env = "DATABASE_STATEMENT_TIMEOUT", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub database_statement_timeout: u16,
}

impl Database {
    /// The pool.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn open(&self, outbox: Outbox) -> anyhow::Result<Db> {
        let options = PoolOptions {
            size: self.database_pool_size.into(),
            statement_timeout: Duration::from_secs(self.database_statement_timeout.into()),
            ..PoolOptions::default()
        };
        Db::new(self.database_url.expose_secret(), options, Clock::default(), outbox)
    }
}

/// Redis or Valkey.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisServer {
    /// Where Redis is: redis://…, rediss://… (TLS) or unix:///path
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL", value_parser = redis_url)]
    pub redis_url: SecretString,
    /// The certificates, in PEM form, of the authority that vouches for Redis, if it is not a public one
    #[arg(long, env = "REDIS_CA_FILE", value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// What all keys begin with, so that several installations can share a server
    #[arg(long, env = "REDIS_PREFIX", default_value = "tt", value_name = "PREFIX", value_parser = redis_prefix)]
    pub redis_prefix: String,
    /// How long a copy of a task may be kept in Redis, so that reading it again asks Redis alone (0: none is kept)
    #[arg(long, env = "CACHE_SECONDS", default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=3600))]
    pub cache_seconds: u16,
}

impl RedisServer {
    /// The copies that are kept there, if any.
    pub fn cache(&self, redis: &Redis) -> Option<Cache> {
        Cache::new(redis.clone(), Duration::from_secs(self.cache_seconds.into()))
    }

    /// The connections.
    ///
    /// # Errors
    /// If the URL or the certificates cannot be read.
    pub fn open(&self) -> anyhow::Result<Redis> {
        let authority = self.redis_ca_file.as_ref().map(|file| {
            std::fs::read(file).with_context(|| format!("REDIS_CA_FILE: cannot read {}", file.display()))
        });
        let authority = authority.transpose()?;
        Redis::trusting(self.redis_url.expose_secret(), &self.redis_prefix, authority)
            .context("REDIS_URL or REDIS_CA_FILE cannot be used")
    }
}

/// The URL of a database.
///
/// # Errors
/// If it cannot be read. Why is not said: it might be a piece of the password.
pub fn database_url(text: &str) -> Result<SecretString, String> {
    if Db::can_read(text) {
        return Ok(text.into());
    }
    Err("not postgres://user:password@host/database; what is special in user and password is percent-encoded, as %40 for @"
        .to_owned())
}

fn redis_url(text: &str) -> Result<SecretString, String> {
    if Redis::can_read(text) {
        return Ok(text.into());
    }
    Err("not redis://user:password@host, rediss://… or unix:///path; what is special in user and password is percent-encoded"
        .to_owned())
}

fn redis_prefix(text: &str) -> Result<String, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    if (1..=32).contains(&text.len()) && text.chars().all(safe) {
        Ok(text.to_owned())
    } else {
        Err("1 to 32 letters, digits or - _ : .".to_owned())
    }
}

/// Keys.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Secrets")]
pub struct Secrets {
    /// Keys as id:base64,… with at least 32 bytes each; the first signs, all verify
    #[arg(long, env = "SECRET_KEYS", hide_env_values = true, value_name = "KEYS")]
    pub secret_keys: SecretKeys,
}

/// What the process says about itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs and probes")]
pub struct Telemetry {
    /// What is logged: a level, or tracing directives such as info,worker=debug
    #[arg(long, env = "LOG", default_value = "info", value_name = "DIRECTIVES", value_parser = log_directives)]
    pub log: String,
    /// How it is logged; auto is pretty on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

fn log_directives(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Where people reach this installation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Installation")]
pub struct PublicAddress {
    /// Where people reach the API; links and addresses in mails are made of it
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: url::Url,
}

/// Where webhooks may go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct Webhooks {
    /// Networks that are not public and that the webhooks of admins may reach, separated by commas: 10.1.0.0/16,fd00:1::/64
    #[arg(long, env = "WEBHOOK_ALLOW_CIDRS", value_delimiter = ',', value_name = "CIDR", value_parser = target::network)]
    pub webhook_allow_cidrs: Vec<IpNet>,
    /// Ports that webhooks may use beside 80 and 443, separated by commas
    #[arg(long, env = "WEBHOOK_PORTS", value_delimiter = ',', value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub webhook_ports: Vec<u16>,
}

impl Webhooks {
    /// What the settings let webhooks reach.
    pub fn reach(&self) -> Reach {
        let allow = AllowList::new(self.webhook_allow_cidrs.iter().copied());
        Reach { allow, ports: self.webhook_ports.clone() }
    }
}

/// What is asked of accounts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Installation")]
pub struct Accounts {
    /// Whether an address has to be confirmed before anything but account mail goes to it
    #[arg(long, env = "REQUIRE_EMAIL_VERIFICATION", default_value_t = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub require_email_verification: bool,
}

/// When finished tasks are put away.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention")]
pub struct Archiving {
    /// After how many days a finished task is archived
    #[arg(long, env = "ARCHIVE_DONE_AFTER_DAYS", default_value_t = 30, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub archive_done_after_days: u16,
}

/// What the people of this installation share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Installation")]
pub struct Installation {
    /// The time zone of people who have not chosen one, and of the cron table
    #[arg(long, env = "DEFAULT_TIME_ZONE", default_value = "UTC", value_name = "ZONE", value_parser = time_zone)]
    pub default_time_zone: Tz,
}

fn time_zone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| "not a name of the IANA time zone database, such as Europe/Berlin".to_owned())
}

/// The internal port: `/metrics`, `/livez`, `/readyz`. Its default differs by process, so each binary declares it.
pub type InternalBind = SocketAddr;

/// The command `healthcheck` of a program: ends with 0 if its process on this machine is ready, else says why not and ends
/// with 1. `internal_bind` is the default of the program's `INTERNAL_BIND`.
pub fn healthcheck(program: &'static str, internal_bind: &'static str) -> ExitCode {
    let bind = Arg::new("internal-bind")
        .long("internal-bind")
        .env("INTERNAL_BIND")
        .value_name("ADDRESS")
        .default_value(internal_bind)
        .value_parser(clap::value_parser!(SocketAddr))
        .help("Where the process serves /readyz");
    let command = Command::new(program)
        .about("Says whether this program's process on this machine is ready")
        .subcommand_required(true)
        .subcommand(Command::new("healthcheck").arg(bind));
    let matches = command.get_matches();
    let asked = matches
        .subcommand()
        .and_then(|(_, matches)| matches.get_one::<SocketAddr>("internal-bind"))
        .map_or_else(|| Err("INTERNAL_BIND is missing".to_owned()), |bind| health::ask(*bind));
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration from arguments and environment, or says everything that is wrong with it and exits
/// with status 2.
pub fn parse<C: Parser>() -> C {
    parse_from(std::env::args_os().collect())
}

/// [`parse`] with the arguments given, the name of the program first: for a command of a program.
pub fn parse_from<C: Parser>(arguments: Vec<OsString>) -> C {
    let environment = |name: &str| std::env::var_os(name);
    match try_parse(arguments, &environment) {
        Ok(config) => config,
        Err(error) => error.exit(),
    }
}

/// [`parse`] with the arguments and the environment given.
///
/// # Errors
/// One error that names every setting that is missing or wrong; also what `--help` and `--version` print.
pub fn try_parse<C: Parser>(
    mut arguments: Vec<OsString>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<C, clap::Error> {
    let command = C::command();
    let mut problems = Vec::new();
    if arguments.is_empty() {
        arguments.push(command.get_name().into());
    }
    let wants_no_settings =
        arguments.iter().any(|a| a == "--help" || a == "-h" || a == "--version" || a == "-V");
    if !wants_no_settings {
        from_files(&command, &mut arguments, environment, &mut problems);
    }
    let parsed = command.clone().try_get_matches_from(&arguments).and_then(|m| C::from_arg_matches(&m));
    let error = match parsed {
        Ok(config) if problems.is_empty() => return Ok(config),
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument | ErrorKind::ValueValidation | ErrorKind::InvalidValue
            ) =>
        {
            return Err(error);
        }
        other => other.err(),
    };
    check_each(&command, &arguments, environment, &mut problems);
    // All settings are good: it is an argument of a command.
    if let Some(error) = error.filter(|_| problems.is_empty()) {
        return Err(error);
    }
    let text = format!(
        "{} settings are missing or wrong:\n\n{}\nRun `{} --help` for all of them.\n",
        problems.len(),
        problems.concat(),
        command.get_name(),
    );
    Err(C::command().error(ErrorKind::ValueValidation, text))
}

/// For each variable `X` that holds a secret and is not set: if `X_FILE` is, its content becomes the argument.
fn from_files(
    command: &Command,
    arguments: &mut Vec<OsString>,
    environment: &dyn Fn(&str) -> Option<OsString>,
    problems: &mut Vec<String>,
) {
    // Options of the program itself stand before a subcommand.
    let mut read = Vec::new();
    for arg in command.get_arguments().filter(|arg| arg.is_hide_env_values_set()) {
        let (Some(name), Some(flag)) = (arg.get_env().and_then(|name| name.to_str()), arg.get_long()) else {
            continue;
        };
        let given = environment(name).is_some() || arguments.iter().any(|a| is_flag(a, flag));
        let file = format!("{name}_FILE");
        let Some(path) = environment(&file).filter(|_| !given) else {
            continue;
        };
        match std::fs::read_to_string(&path) {
            Ok(value) => read.push(OsString::from(format!("--{flag}={}", value.trim()))),
            Err(error) => problems.push(format!("  {file}: cannot read {}: {error}\n", path.display())),
        }
    }
    arguments.splice(1..1, read);
}

fn is_flag(argument: &OsString, flag: &str) -> bool {
    argument
        .to_str()
        .and_then(|a| a.strip_prefix("--"))
        .is_some_and(|a| a == flag || a.starts_with(&format!("{flag}=")))
}

/// clap stops at the first bad value, so each setting is tried alone.
fn check_each(
    command: &Command,
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    problems: &mut Vec<String>,
) {
    for arg in command.get_arguments() {
        let (Some(name), Some(flag)) = (arg.get_env().and_then(|name| name.to_str()), arg.get_long()) else {
            continue;
        };
        let value = arguments
            .iter()
            .find(|a| is_flag(a, flag))
            .and_then(|a| a.to_str()?.split_once('=').map(|(_, value)| OsString::from(value)))
            .or_else(|| environment(name));
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        match value {
            None if arg.is_required_set()
                && !problems.iter().any(|p| p.contains(&format!("{name}_FILE:"))) =>
            {
                problems.push(format!("  {name} is missing: {help}\n"));
            }
            None => {}
            Some(value) => {
                let mut flag_with_value = OsString::from(format!("--{flag}="));
                flag_with_value.push(&value);
                let alone = Command::new("setting").arg(arg.clone().required(false));
                if let Err(error) = alone.try_get_matches_from([OsString::from("setting"), flag_with_value]) {
                    problems
                        .push(format!("  {name} {}: {help}\n", reason(&error, arg.is_hide_env_values_set())));
                }
            }
        }
    }
}

/// clap's reason without the usage around it, and without the value where that is a secret.
fn reason(error: &clap::Error, secret: bool) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    match (secret, source) {
        (_, Some(source)) => format!("is wrong ({source})"),
        (true, None) => "is wrong".to_owned(),
        (false, None) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("is wrong ({})", line.trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "test")]
    struct Config {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        secrets: Secrets,
        #[command(flatten)]
        installation: Installation,
        #[command(flatten)]
        public: PublicAddress,
    }

    fn try_with(environment: &[(&str, &str)]) -> Result<Config, String> {
        // clap reads the process's environment itself; what the test wants goes through flags of the same name.
        let mut arguments = vec![OsString::from("test")];
        arguments.extend(environment.iter().filter(|(name, _)| !name.ends_with("_FILE")).map(
            |(name, value)| OsString::from(format!("--{}={value}", name.to_lowercase().replace('_', "-"))),
        ));
        let lookup = |name: &str| {
            environment.iter().find(|(n, _)| *n == name && n.ends_with("_FILE")).map(|(_, v)| v.into())
        };
        try_parse(arguments, &lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_and_no_secret_with_it() {
        let error = try_with(&[
            ("SECRET_KEYS", "k:c2VjcmV0LXNlY3JldA=="),
            ("PUBLIC_URL", "nonsense"),
            ("DEFAULT_TIME_ZONE", "Mars/Base"),
        ])
        .unwrap_err();
        for name in [
            "DATABASE_URL is missing",
            "SECRET_KEYS is wrong",
            "PUBLIC_URL is wrong",
            "DEFAULT_TIME_ZONE is wrong",
        ] {
            assert!(error.contains(name), "{name} in:\n{error}");
        }
        assert!(!error.contains("c2VjcmV0"), "{error}");
        assert!(error.starts_with("error: 4 settings"), "{error}");
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let folder = std::env::temp_dir().join(format!("tasktracker-config-{}", std::process::id()));
        std::fs::write(&folder, "postgres://localhost/x\n").unwrap();
        let config = try_with(&[
            ("DATABASE_URL_FILE", folder.to_str().unwrap()),
            ("SECRET_KEYS", "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ("PUBLIC_URL", "https://example.com"),
        ]);
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(config.unwrap().database.database_url.expose_secret(), "postgres://localhost/x");
        let error = try_with(&[("DATABASE_URL_FILE", "/nonexistent")]).unwrap_err();
        assert!(error.contains("DATABASE_URL_FILE: cannot read"), "{error}");
    }
}
