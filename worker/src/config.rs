//! The settings of this process; what several processes share is in `common::config`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use common::{
    config::{
        Accounts, Archiving, Database, Installation, InternalBind, PublicAddress, RedisServer, Secrets,
        Telemetry, Webhooks,
    },
    db::Db,
    error::Result,
    jobs, ledger,
};
use lettre::message::Mailbox;

use crate::{runner::Options, smtp};

/// How many jobs of a queue run at once, unless said otherwise.
const CONCURRENCY: usize = 20;
/// Mails that are sent at once: a mail server does not like more.
const MAIL_CONCURRENCY: usize = 10;

/// Runs jobs: mails, archive, pruning.
///
/// Commands: `tasktracker-worker jobs` lists, shows, retries and cancels jobs; `tasktracker-worker queues` shows, pauses
/// and resumes queues. Both need DATABASE_URL alone. Without a command jobs are run.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tasktracker-worker", version)]
pub struct Config {
    /// PostgreSQL.
    #[command(flatten)]
    pub database: Database,
    /// Redis.
    #[command(flatten)]
    pub redis: RedisServer,
    /// Keys.
    #[command(flatten)]
    pub secrets: Secrets,
    /// Whose clock stands in for an unknown one.
    #[command(flatten)]
    pub installation: Installation,
    /// Whose host mails name.
    #[command(flatten)]
    pub public: PublicAddress,
    /// What is asked of accounts.
    #[command(flatten)]
    pub accounts: Accounts,
    /// The mail server.
    #[command(flatten)]
    pub smtp: Smtp,
    /// Where webhooks may go.
    #[command(flatten)]
    pub webhooks: Webhooks,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: Retention,
    /// Which jobs, and how many.
    #[command(flatten)]
    pub work: Work,
    /// Logs.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "INTERNAL_BIND",
        default_value = "127.0.0.1:9465",
        value_name = "ADDRESS",
        help_heading = "Logs and probes"
    )]
    pub internal_bind: InternalBind,
}

/// The mail server.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mail")]
pub struct Smtp {
    /// The mail server: smtp://user:password@host:port?tls=required|opportunistic|none, or smtps://…; without it no mail leaves
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<smtp::Server>,
    /// Whom mails come from, needed with SMTP_URL: TaskTracker <tasktracker@example.com>
    #[arg(long, env = "MAIL_FROM", value_name = "MAILBOX")]
    pub mail_from: Option<Mailbox>,
    /// Certificates of further authorities that may vouch for the mail server, in PEM form
    #[arg(long, env = "SMTP_CA_FILE", value_name = "FILE")]
    pub smtp_ca_file: Option<PathBuf>,
    /// Mails that a person gets on a day (UTC) at most, security mail aside; the rest waits for the next day
    #[arg(long, env = "MAIL_PER_USER_PER_DAY", default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub mail_per_user_per_day: u32,
}

/// How long things are kept.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Retention")]
pub struct Retention {
    /// When finished tasks are put away.
    #[command(flatten)]
    pub archiving: Archiving,
    /// After how many days an archived task is deleted; never, unless this is set
    #[arg(long, env = "PURGE_ARCHIVED_AFTER_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub purge_archived_after_days: Option<u16>,
    /// For how many days finished jobs are kept; dead ones at least 30
    #[arg(long, env = "JOB_RETENTION", default_value_t = 7, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    pub job_retention: u16,
}

/// Which jobs this process runs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Work")]
pub struct Work {
    /// The queues that this process works on, separated by commas; all of them, unless said
    #[arg(long, env = "QUEUES", value_delimiter = ',', value_name = "QUEUE", value_parser = queue)]
    pub queues: Vec<String>,
    /// How many jobs of a queue run at once: mail=10,maintenance=5
    #[arg(long, env = "CONCURRENCY", value_delimiter = ',', value_name = "QUEUE=N", value_parser = concurrency)]
    pub concurrency: Vec<(String, usize)>,
    /// How many seconds running jobs may go on after the process is told to stop
    #[arg(long, env = "SHUTDOWN_GRACE", default_value_t = 25, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub shutdown_grace: u16,
}

fn queue(name: &str) -> Result<String, String> {
    if jobs::QUEUES.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!("there is no queue {name:?}; the queues are {}", jobs::QUEUES.join(", ")))
    }
}

fn concurrency(text: &str) -> Result<(String, usize), String> {
    let (name, number) = text.split_once('=').ok_or("write it as mail=10")?;
    match number.parse() {
        Ok(number @ 1..=1000) => Ok((queue(name)?, number)),
        _ => Err(format!("{number:?} is not a number from 1 to 1000")),
    }
}

impl Work {
    /// What the runner works on.
    pub fn options(&self) -> Options {
        let mut concurrency: BTreeMap<&str, usize> =
            jobs::QUEUES.iter().map(|name| (*name, CONCURRENCY)).collect();
        concurrency.insert(jobs::MAIL, MAIL_CONCURRENCY);
        concurrency.extend(self.concurrency.iter().map(|(name, number)| (name.as_str(), *number)));
        let wanted = |name: &str| self.queues.is_empty() || self.queues.iter().any(|queue| queue == name);
        Options {
            queues: concurrency
                .into_iter()
                .filter(|(name, _)| wanted(name))
                .map(|(name, number)| (name.to_owned(), number))
                .collect(),
            grace: Duration::from_secs(self.shutdown_grace.into()),
        }
    }
}

impl Smtp {
    /// The mail server; `None` if none is configured.
    ///
    /// # Errors
    /// If a mail would have no sender, or the authorities cannot be read.
    pub fn open(&self) -> anyhow::Result<Option<smtp::Smtp>> {
        match (&self.smtp_url, &self.mail_from) {
            (None, _) => Ok(None),
            (Some(server), Some(from)) => {
                let mut server = server.clone();
                if let Some(file) = &self.smtp_ca_file {
                    let failed = |error: &dyn std::fmt::Display| {
                        anyhow::anyhow!("SMTP_CA_FILE: {}: {error}", file.display())
                    };
                    let pem = std::fs::read(file).map_err(|error| failed(&error))?;
                    server = server.trusting(&pem).map_err(|error| failed(&error))?;
                }
                Ok(Some(smtp::Smtp::new(server, from.clone())))
            }
            (Some(_), None) => {
                anyhow::bail!("MAIL_FROM is missing: with SMTP_URL, say whom mails come from")
            }
        }
    }

    /// Pauses the mail queue if there is no mail server, and resumes it if that was the reason for the pause: mails wait
    /// in the ledger instead of failing (design §2.5). Once, at the start of the process.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn pause_without_server(&self, db: &Db) -> Result<()> {
        let mut conn = db.conn().await?;
        if self.smtp_url.is_some() {
            ledger::resume(&mut conn, jobs::MAIL, smtp::WORKER).await
        } else {
            tracing::warn!("SMTP_URL is not set: the mail queue is paused");
            let reason = "SMTP_URL is not set: mails wait until there is a mail server";
            ledger::pause(&mut conn, db.clock().now(), jobs::MAIL, smtp::WORKER, reason).await
        }
    }
}

#[cfg(test)]
mod tests {
    use common::config::try_parse;

    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let all = [
            "worker",
            "--database-url=postgres://x/x",
            "--redis-url=redis://x",
            "--secret-keys=test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "--public-url=http://localhost",
        ];
        let all = all.iter().chain(arguments).map(Into::into).collect();
        try_parse(all, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_all_queues_are_worked_on() {
        let work = config(&[]).unwrap().work.options();
        let names: Vec<&str> = work.queues.iter().map(|(name, _)| name.as_str()).collect();
        assert!(jobs::QUEUES.iter().all(|name| names.contains(name)) && names.len() == jobs::QUEUES.len());
        let work = config(&["--queues=mail,maintenance", "--concurrency=mail=3"]).unwrap().work.options();
        assert_eq!(work.queues, [("mail".to_owned(), 3), ("maintenance".to_owned(), CONCURRENCY)]);
    }

    #[cfg(feature = "testing")]
    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_mail_server_mails_wait() {
        let bench = crate::testing::Bench::at("2030-01-01T00:00:00Z").await;
        let with = config(&["--smtp-url=smtp://mail", "--mail-from=a@example.com"]).unwrap().smtp;
        let paused =
            "queues WHERE name = 'mail' AND paused_at IS NOT NULL AND reason LIKE 'SMTP_URL is not set%'";
        for (smtp, count) in [(config(&[]).unwrap().smtp, 1), (with.clone(), 0)] {
            smtp.pause_without_server(bench.db()).await.unwrap();
            assert_eq!(bench.count(paused).await, count);
        }
        // What somebody else paused stays so.
        bench.run("UPDATE queues SET paused_at = now(), paused_by = 'ann', reason = 'mine'").await;
        with.pause_without_server(bench.db()).await.unwrap();
        assert_eq!(bench.count("queues WHERE paused_by = 'ann'").await, 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (argument, what) in [
            ("--queues=post", "there is no queue"),
            ("--concurrency=mail", "mail=10"),
            ("--concurrency=mail=0", "not a number"),
            ("--smtp-url=http://ann:secret@mail", "begins with smtp://"),
            ("--mail-from=nobody", "MAIL_FROM"),
            ("--archive-done-after-days=0", "ARCHIVE_DONE_AFTER_DAYS"),
        ] {
            let error = config(&[argument]).unwrap_err();
            assert!(error.contains(what) && !error.contains("ann:secret"), "{argument}: {error}");
        }
        let without_sender = config(&["--smtp-url=smtp://mail.example.com"]).unwrap().smtp.open();
        assert!(without_sender.err().unwrap().to_string().starts_with("MAIL_FROM is missing"));
    }
}
