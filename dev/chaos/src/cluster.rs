//! The real binaries together, for tests that kill, stop and restart them: any number of API, worker and scheduler
//! processes on a database of their own, a part of the shared Redis or a private one, and a mail sink. Whatever is
//! started here is ended when the [`Cluster`] is dropped, also by a panic; the last lines of every log are printed then.
//!
//! Waiting is always for a condition, with a limit ([`until`]). What jobs did is read from a file that they write
//! ([`Effects`]), never from PostgreSQL, which is one of the suspects.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set itself up, or does not see in time what it waits for, has failed"
)]

mod effects;
mod exposition;
mod jobs;
mod people;
mod ports;
mod postgres;
mod process;
mod proxies;
mod redis;
mod wait;

use std::{
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{
    clock::Clock,
    db::{AsyncPgConnection, Db, RunQueryDsl as _},
    dispatcher,
    jobs::PROBE,
    queue::Queue,
    testing::{TestDatabase, setting},
};
use diesel_async::AsyncConnection as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use tools::{
    mail_sink::{MailSink, Message, Options},
    webhook_sink::WebhookSink,
};

pub use effects::{Effect, Effects};
pub use exposition::{Exposition, Family};
pub use jobs::JobRow;
pub use people::{Answer, Person};
pub use postgres::PostgresServer;
pub use process::{Process, Program, Signal};
pub use proxies::Proxies;
pub use redis::RedisServer;
pub use wait::until;

/// 32 zero bytes: it guards nothing.
const SECRET_KEYS: &str = "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Connections of each process; a cluster of seven must leave room for the others on a server with 100.
const POOL_SIZE: &str = "5";

/// What a cluster consists of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Processes of the API.
    pub apis: usize,
    /// Workers.
    pub workers: usize,
    /// Schedulers.
    pub schedulers: usize,
    /// A Redis of its own, which the test may stop, kill and flush.
    pub own_redis: bool,
    /// A PostgreSQL of its own, which the test may crash.
    pub own_postgres: bool,
    /// Each server behind a proxy that can cut it off. Needs `own_redis` and `own_postgres`.
    pub proxied: bool,
    /// Where the programs are that it starts with, if not those of this build.
    pub programs: Option<PathBuf>,
    /// Further settings of each process.
    pub settings: Vec<(&'static str, String)>,
    /// Further arguments of each worker.
    pub worker_arguments: Vec<String>,
    /// Further arguments of each scheduler.
    pub scheduler_arguments: Vec<String>,
}

/// What the goals call a cluster: two schedulers, three workers, one API.
impl Default for Shape {
    fn default() -> Self {
        Self {
            apis: 1,
            workers: 3,
            schedulers: 2,
            own_redis: false,
            own_postgres: false,
            proxied: false,
            programs: None,
            settings: Vec::new(),
            worker_arguments: Vec::new(),
            scheduler_arguments: Vec::new(),
        }
    }
}

/// Processes, and what they need.
pub struct Cluster {
    /// The API's processes.
    pub apis: Vec<Process>,
    /// The workers.
    pub workers: Vec<Process>,
    /// The schedulers.
    pub schedulers: Vec<Process>,
    database: TestDatabase,
    db: Db,
    redis: common::redis::Redis,
    redis_server: Option<RedisServer>,
    postgres_server: Option<PostgresServer>,
    proxies: Option<Proxies>,
    mail: Option<MailSink>,
    mail_options: Options,
    webhooks: WebhookSink,
    settings: Vec<(&'static str, String)>,
    worker_arguments: Vec<String>,
    folder: Option<tempfile::TempDir>,
    _dispatching: DropGuard,
}

impl Cluster {
    /// Starts everything, and waits until all of it is ready.
    pub async fn start(shape: Shape) -> Self {
        // Others may pass through: PostgreSQL is somebody else.
        let passable = Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().prefix("tt-cluster-").permissions(passable).tempdir();
        let folder = folder.expect("a temporary folder");
        let (postgres_server, mut database) = if shape.own_postgres {
            let server = PostgresServer::start(folder.path()).await;
            let database = TestDatabase::create_on(&server.url()).await;
            (Some(server), database)
        } else {
            (None, TestDatabase::create().await)
        };
        let redis_server = if shape.own_redis { Some(RedisServer::start(folder.path()).await) } else { None };
        let mut redis_url = redis_server.as_ref().map_or_else(|| setting("TEST_REDIS_URL"), RedisServer::url);
        let mail_options = Options { smtp: ports::free(), keep: 100_000, ..Options::default() };
        let mail = MailSink::start(mail_options.clone()).await.expect("the mail sink starts");
        let mut smtp = mail.smtp_addr();
        let proxies = match (&postgres_server, &redis_server) {
            (Some(postgres), Some(redis)) if shape.proxied => {
                let proxies = Proxies::start(postgres, redis, smtp).await;
                database.app_url = proxies.database_url(&database.app_url);
                redis_url = proxies.redis_url();
                smtp = proxies.mail.address();
                Some(proxies)
            }
            _ => None,
        };
        let webhooks = WebhookSink::start().await.expect("the receiver of webhooks starts");
        let prefix = format!("t{}", &uuid::Uuid::now_v7().simple().to_string()[..24]);
        let redis = common::redis::Redis::new(&redis_url, &prefix).expect("the URL of Redis is good");
        let (db, due) = database.open(Clock::Database);
        let dispatching = CancellationToken::new();
        tokio::spawn(dispatcher::run(db.clone(), redis.clone(), due, dispatching.clone()));

        let mut settings = vec![
            ("DATABASE_URL", database.app_url.clone()),
            ("DATABASE_POOL_SIZE", POOL_SIZE.to_owned()),
            ("REDIS_URL", redis_url),
            ("REDIS_PREFIX", prefix),
            ("SMTP_URL", format!("smtp://{smtp}")),
            ("MAIL_FROM", "TaskTracker <tasktracker@localhost>".to_owned()),
            ("PUBLIC_URL", "http://127.0.0.1:8000".to_owned()),
            ("SECRET_KEYS", SECRET_KEYS.to_owned()),
            ("WEBHOOK_ALLOW_CIDRS", "127.0.0.1/32".to_owned()),
            ("WEBHOOK_PORTS", webhooks.addr().port().to_string()),
            // People log in at once, and no mail is counted but those that a test is about.
            ("REQUIRE_EMAIL_VERIFICATION", "false".to_owned()),
            // Each person comes from an address of their own, or logging in would be throttled.
            ("TRUSTED_PROXIES", "127.0.0.1".to_owned()),
            ("RATE_LIMIT_PER_MINUTE", "0".to_owned()),
            ("LOG", "info".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        settings.extend(shape.settings);
        let programs = shape.programs.as_deref();
        let many = |program: Program, count: usize, arguments: &[String]| -> Vec<Process> {
            (1..=count)
                .map(|number| Process::start(program, number, arguments, &settings, programs, folder.path()))
                .collect()
        };
        let mut cluster = Self {
            apis: many(Program::Api, shape.apis, &[]),
            workers: many(Program::Worker, shape.workers, &shape.worker_arguments),
            schedulers: many(Program::Scheduler, shape.schedulers, &shape.scheduler_arguments),
            database,
            db,
            redis,
            redis_server,
            postgres_server,
            proxies,
            mail: Some(mail),
            mail_options,
            webhooks,
            settings,
            worker_arguments: shape.worker_arguments,
            folder: Some(folder),
            _dispatching: dispatching.drop_guard(),
        };
        for process in cluster.processes_mut() {
            process.wait_ready().await;
        }
        cluster
    }

    /// The default [`Shape`].
    pub async fn start_default() -> Self {
        Self::start(Shape::default()).await
    }

    /// Every process.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.apis.iter_mut().chain(&mut self.workers).chain(&mut self.schedulers)
    }

    /// Starts again what has ended, as a supervisor would, and answers how many processes that were.
    pub fn restart_ended(&mut self) -> usize {
        let ended = self.processes_mut().filter_map(|process| {
            let ended = process.exited().is_some();
            ended.then(|| process.restart())
        });
        ended.count()
    }

    /// Fails if a process has ended since it was last started, and says how.
    pub fn assert_all_live(&mut self) {
        for process in self.processes_mut() {
            if let Some(status) = process.exited() {
                panic!("{} has ended: {status}", process.name());
            }
        }
    }

    /// A pool as the application has it; what is committed through it is dispatched as by the API.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// A connection as superuser to the server, outside of the cluster's database.
    pub async fn superuser(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&setting("TEST_DATABASE_URL"))
            .await
            .expect("TEST_DATABASE_URL can be reached")
    }

    /// A connection to the cluster's database as its owner, who may change the schema.
    pub async fn owner(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.database.owner_url).await.expect("the database can be reached")
    }

    /// The URL by which its schema is changed.
    pub fn owner_url(&self) -> &str {
        &self.database.owner_url
    }

    /// The name of the cluster's database.
    pub fn database_name(&self) -> &str {
        self.database.app_url.rsplit('/').next().expect("a URL of a database ends with its name")
    }

    /// The URL by which its processes reach the database, unless they are told another.
    pub fn database_url(&self) -> &str {
        &self.database.app_url
    }

    /// The cluster's part of Redis.
    pub fn redis(&self) -> &common::redis::Redis {
        &self.redis
    }

    /// The queue of probes.
    pub fn queue(&self) -> Queue {
        Queue::new(&self.redis, PROBE)
    }

    /// Redis as a server, of a cluster that has its own.
    pub fn redis_server(&mut self) -> &mut RedisServer {
        self.redis_server.as_mut().expect("a cluster whose shape says own_redis")
    }

    /// PostgreSQL as a server, of a cluster that has its own.
    pub fn postgres_server(&mut self) -> &mut PostgresServer {
        self.postgres_server.as_mut().expect("a cluster whose shape says own_postgres")
    }

    /// What stands before the servers, in a cluster whose shape says proxied.
    pub fn proxies(&self) -> &Proxies {
        self.proxies.as_ref().expect("a cluster whose shape says proxied")
    }

    /// Where its processes log.
    pub fn path(&self) -> &Path {
        self.folder()
    }

    /// Leaves the logs where they are when it is dropped, and answers where.
    pub fn keep_logs(&mut self) -> Option<PathBuf> {
        self.folder.take().map(tempfile::TempDir::keep)
    }

    /// The mail sink.
    pub fn mail(&self) -> &MailSink {
        self.mail.as_ref().expect("the mail sink runs")
    }

    /// The receiver of webhooks.
    pub fn webhooks(&self) -> &WebhookSink {
        &self.webhooks
    }

    /// Stops the mail sink: connections are refused until [`Cluster::start_mail`]. Answers what had come.
    pub async fn stop_mail(&mut self) -> Vec<Arc<Message>> {
        let Some(sink) = self.mail.take() else { return Vec::new() };
        let messages = sink.messages();
        sink.stop().await;
        messages
    }

    /// Starts the mail sink again, on the same port and empty.
    pub async fn start_mail(&mut self) {
        self.mail =
            Some(MailSink::start(self.mail_options.clone()).await.expect("the mail sink starts again"));
    }

    /// Starts one more worker, and waits until it is ready.
    pub async fn add_worker(&mut self) {
        let number = self.workers.len() + 1;
        let folder = self.folder.as_ref().expect("until drop").path();
        let mut worker =
            Process::start(Program::Worker, number, &self.worker_arguments, &self.settings, None, folder);
        worker.wait_ready().await;
        self.workers.push(worker);
    }

    /// Runs a statement in the cluster's database, as the application's role, and answers how many rows it touched.
    pub async fn sql(&self, statement: &str) -> usize {
        let mut conn = self.db.conn().await.expect("a connection");
        let ran = diesel::sql_query(statement).execute(&mut conn).await;
        ran.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Registers somebody with the first API and logs in.
    pub async fn person(&self, name: &str) -> Person {
        Person::register(self.api(), name).await
    }

    /// A queue.
    pub fn queue_named(&self, name: &str) -> Queue {
        Queue::new(&self.redis, name)
    }

    /// Where the first API listens.
    pub fn api(&self) -> SocketAddr {
        self.apis[0].public()
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("until drop").path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.processes_mut() {
                process.print_log(30);
            }
            let kept: Option<PathBuf> = self.folder.take().map(tempfile::TempDir::keep);
            #[expect(clippy::print_stderr, reason = "whoever reads the failure wants to know where to look")]
            if let Some(kept) = kept {
                eprintln!("the logs are kept in {}", kept.display());
            }
        }
    }
}

/// Seconds, for tests that read better with it.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
