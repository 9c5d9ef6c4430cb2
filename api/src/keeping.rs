//! `tasktracker-api check-config` and `tasktracker-api reseal`: what an operator runs before a start, and when keys change.
//! Nothing here is reached over HTTP.

use std::{fmt, net::IpAddr};

use common::{
    db::{self, Db, RunQueryDsl as _},
    dispatcher::Outbox,
    redis::Redis,
    webhooks::reseal::{Summary, reseal},
};
use diesel::{
    QueryableByName,
    sql_types::{Bool, Integer},
};

use crate::config::{Config, Registration, Reseal};

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, and hardly as somebody wants it.
    Doubtful,
    /// It will not work.
    Wrong,
}

/// What was looked at, and what was found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
}

/// What a look at the configuration found.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

impl Report {
    /// Whether the process can do its work.
    pub fn is_good(&self) -> bool {
        self.0.iter().all(|finding| finding.verdict != Verdict::Wrong)
    }

    fn add(&mut self, verdict: Verdict, what: &'static str, found: impl Into<String>) {
        self.0.push(Finding { verdict, what, found: found.into() });
    }

    /// What is known without asking anybody.
    fn look(&mut self, config: &Config) {
        let settings = &config.settings;
        let url = &settings.public.public_url;
        let is_here = url.host_str().is_some_and(|host| {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        });
        if url.scheme() == "https" || is_here {
            self.add(Verdict::Good, "PUBLIC_URL", url.as_str());
        } else {
            self.add(
                Verdict::Doubtful,
                "PUBLIC_URL",
                format!("{url} is not https: passwords and links travel readable"),
            );
        }
        if settings.http.trusted_proxies.is_empty() && url.scheme() == "https" {
            self.add(
                Verdict::Doubtful,
                "TRUSTED_PROXIES",
                "nobody is trusted: behind a proxy, all people share its address and its limits",
            );
        }
        if settings.http.registration == Registration::Open && !settings.accounts.require_email_verification {
            self.add(
                Verdict::Doubtful,
                "REGISTRATION",
                "everybody may make an account for any address, and mail it reminders (REQUIRE_EMAIL_VERIFICATION=false)",
            );
        }
        self.add(
            Verdict::Good,
            "SECRET_KEYS",
            format!("{:?}, the first one signs", config.secrets.secret_keys),
        );
    }

    async fn look_at_postgres(&mut self, db: &Db) {
        match postgres(db).await {
            Ok(server) if server.version < 150_000 => {
                let found = format!("version {} is too old: 15 or newer is needed", server.version / 10_000);
                self.add(Verdict::Wrong, "DATABASE_URL", found);
            }
            Ok(server) => {
                self.add(
                    Verdict::Good,
                    "DATABASE_URL",
                    format!("PostgreSQL {} answers", server.version / 10_000),
                );
                if server.may_change_schema {
                    self.add(
                        Verdict::Doubtful,
                        "DATABASE_URL",
                        "this role may change the schema: use tasktracker_app, and the owner for migrations only",
                    );
                }
                match db::problem(db).await {
                    None => self.add(Verdict::Good, "schema", "is current, and can be written"),
                    Some(problem) => self.add(Verdict::Wrong, "DATABASE_URL", problem),
                }
            }
            Err(error) => self.add(Verdict::Wrong, "DATABASE_URL", format!("{error:#}")),
        }
    }

    async fn look_at_redis(&mut self, redis: &Redis) {
        if let Some(problem) = redis.problem().await {
            return self.add(Verdict::Wrong, "REDIS_URL", problem);
        }
        let info = match redis::cmd("INFO").query_async::<String>(&mut redis.queue()).await {
            Ok(info) => info,
            Err(error) => return self.add(Verdict::Wrong, "REDIS_URL", error.to_string()),
        };
        let value = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let version = value("valkey_version").or(value("redis_version")).unwrap_or("of unknown version");
        self.add(Verdict::Good, "REDIS_URL", format!("Redis {version} answers"));
        let policy = value("maxmemory_policy").unwrap_or("noeviction");
        if policy != "noeviction" && value("maxmemory") != Some("0") {
            let found = format!(
                "maxmemory-policy is {policy}: it throws jobs away that have to be found again; use noeviction"
            );
            self.add(Verdict::Doubtful, "REDIS_URL", found);
        }
        if value("aof_enabled") == Some("0") {
            self.add(
                Verdict::Doubtful,
                "REDIS_URL",
                "appendonly is off: after a restart all that waits is pushed again",
            );
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { verdict, what, found } in &self.0 {
            let verdict = match verdict {
                Verdict::Good => "ok",
                Verdict::Doubtful => "warning",
                Verdict::Wrong => "WRONG",
            };
            writeln!(f, "{verdict:<8} {what:<16} {found}")?;
        }
        Ok(())
    }
}

#[derive(QueryableByName)]
struct Server {
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Bool)]
    may_change_schema: bool,
}

async fn postgres(db: &Db) -> anyhow::Result<Server> {
    let server = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int AS version,
             has_schema_privilege('public', 'CREATE') AS may_change_schema",
    );
    Ok(server.get_result(&mut db.conn().await?).await?)
}

/// Looks whether the API could do its work with these settings, and changes nothing.
///
/// # Errors
/// If a URL cannot be used at all.
pub async fn check_config(config: &Config) -> anyhow::Result<Report> {
    let mut report = Report::default();
    report.look(config);
    report.look_at_postgres(&config.database.open(Outbox::default())?).await;
    report.look_at_redis(&config.redis.open()?).await;
    Ok(report)
}

/// Seals everything that is sealed with the first key of `SECRET_KEYS`, and answers what to print.
///
/// # Errors
/// If the database is away, or something does not open: then the key that sealed it must not be thrown away.
pub async fn reseal_all(config: Reseal) -> anyhow::Result<String> {
    let db = config.database.open(Outbox::default())?;
    let Summary { moved, current, lost } = reseal(&db, &config.secrets.secret_keys).await?;
    anyhow::ensure!(
        lost.is_empty(),
        "{moved} secrets were sealed anew, but those of {} webhook endpoints open with no key of SECRET_KEYS: put the key back \
         that is missing, or let their owners rotate them: {}",
        lost.len(),
        lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    );
    Ok(format!("{moved} secrets were sealed anew, {current} were sealed with the first key already\n"))
}
