//! What every job is given. Only what several kinds need belongs here; what one of them needs, it makes.

use common::{db::Db, redis::Redis, secrets::SecretKeys};

use crate::{config::Config, http::Http, jobs::Turns, smtp::Smtp};

/// What a job works with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// PostgreSQL. Do not hold a connection while waiting for somebody else.
    pub db: Db,
    /// Redis, for the queue.
    pub redis: Redis,
    /// The keys of links in mails and of what is sealed at rest.
    pub secrets: SecretKeys,
    /// The mail server, if there is one.
    pub smtp: Option<Smtp>,
    /// The way to the receivers of webhooks.
    pub http: Http,
    /// Whose turn it is with them.
    pub turns: Turns,
    /// What the operator decided.
    pub settings: Settings,
}

/// What the operator decided about jobs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where people reach the API. Message ids end in its host.
    pub public_url: url::Url,
    /// Whether an address has to be confirmed before anything but account mail goes to it.
    pub require_email_verification: bool,
    /// Mails that a person gets on a day at most, security mail aside.
    pub mail_per_user_per_day: u32,
    /// After how many days a finished task is put away.
    pub archive_done_after_days: i32,
    /// After how many days a task that was put away is deleted; never without it.
    pub purge_archived_after_days: Option<i32>,
    /// For how many days finished jobs are kept.
    pub job_retention_days: i32,
}

impl Context {
    /// The context that the configuration describes.
    ///
    /// # Errors
    /// If settings do not fit together.
    pub fn new(config: &Config, db: Db, redis: Redis) -> anyhow::Result<Self> {
        Ok(Self {
            db,
            redis,
            secrets: config.secrets.secret_keys.clone(),
            smtp: config.smtp.open()?,
            http: Http::new(config.webhooks.reach())?,
            turns: Turns::default(),
            settings: Settings {
                public_url: config.public.public_url.clone(),
                require_email_verification: config.accounts.require_email_verification,
                mail_per_user_per_day: config.smtp.mail_per_user_per_day,
                archive_done_after_days: config.retention.archiving.archive_done_after_days.into(),
                purge_archived_after_days: config.retention.purge_archived_after_days.map(Into::into),
                job_retention_days: config.retention.job_retention.into(),
            },
        })
    }
}

#[cfg(feature = "testing")]
impl Default for Settings {
    /// The defaults of the configuration, on this machine; addresses need not be confirmed.
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a constant")]
        let public_url = "http://localhost:8000".parse().expect("a URL");
        Self {
            public_url,
            require_email_verification: false,
            mail_per_user_per_day: 200,
            archive_done_after_days: 30,
            purge_archived_after_days: None,
            job_retention_days: 7,
        }
    }
}
