//! The three processes in one: the API on a real socket, and the steps of scheduler and worker, taken when the test
//! says so. PostgreSQL, Redis and SMTP are real; the clock stands still until [`TestApp::advance_to`].
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up has failed")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    config::{Http, Registration, Settings},
    state::AppState,
};
use common::{
    cache::Cache,
    clock::Clock,
    config::{Accounts, Archiving, PublicAddress, Webhooks},
    db::{self, Db},
    dispatcher::DueJob,
    jobs,
    queue::Queue,
    redis::Redis,
    reminders,
    secrets::SecretKeys,
    shutdown::CancellationToken,
    testing::{TestDatabase, at, setting},
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use scheduler::{due, relay::Relay, summaries};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tools::mail_sink::{MailSink, Message, Options};

/// Where a test's clock stands at first.
pub const START: &str = "2030-01-01T00:00:00Z";
/// The password of every [`Person`].
pub const PASSWORD: &str = "correct horse battery";

/// How long a copy of a task lives: so short, that tests can wait for the cover of a change to end.
const CACHED: Duration = Duration::from_secs(3);
const LOCK: &str = "no test panicked with it";

/// Everything, for one test.
pub struct TestApp {
    /// The database, as the application role.
    pub db: Db,
    /// Redis under a prefix of this test's own.
    pub redis: Redis,
    /// What jobs are given.
    pub context: worker::Context,
    /// The mail server.
    pub sink: MailSink,
    /// Where the API is.
    pub url: String,
    /// A client without credentials.
    pub anybody: Client,
    due: Mutex<mpsc::Receiver<DueJob>>,
    read: AtomicUsize,
    people: Mutex<Vec<(Token, String)>>,
}

/// An access token, which a client sends and [`TestApp::advance_to`] renews.
type Token = Arc<Mutex<Option<String>>>;

impl TestApp {
    /// Everything, with the clock at [`START`].
    pub async fn start() -> Self {
        Self::start_at(START).await
    }

    /// Everything, where addresses have to be confirmed.
    pub async fn start_verifying() -> Self {
        Self::start_with(START, true, |_| ()).await
    }

    /// Everything, with settings of HTTP that `change` makes. Without, requests are not limited.
    pub async fn start_http(change: impl FnOnce(&mut Http)) -> Self {
        Self::start_with(START, false, change).await
    }

    /// Everything, with the clock at `instant`.
    pub async fn start_at(instant: &str) -> Self {
        Self::start_with(instant, false, |_| ()).await
    }

    async fn start_with(
        instant: &str,
        require_email_verification: bool,
        change: impl FnOnce(&mut Http),
    ) -> Self {
        let prefix = format!("test-{:x}", rand::random::<u64>());
        let redis = Redis::new(&setting("TEST_REDIS_URL"), &prefix).expect("TEST_REDIS_URL is a URL");
        let cache = Cache::new(redis.clone(), CACHED);
        let (db, due) = TestDatabase::create().await.open_with(Clock::fixed(at(instant)), cache);
        let sink = MailSink::start(Options::default()).await.expect("a mail sink");

        let keys: SecretKeys = "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().expect("keys");
        let mut settings = Settings {
            http: Http {
                bind: SocketAddr::from(([127, 0, 0, 1], 0)),
                registration: Registration::Open,
                trusted_proxies: vec!["127.0.0.1/32".parse().expect("a network")],
                shutdown_delay: 0,
                rate_limit_per_minute: 0,
                max_waiting_requests: 128,
                admin_allow_cidrs: Vec::new(),
                cors_origins: Vec::new(),
                require_if_match: false,
            },
            public: PublicAddress { public_url: "http://localhost:8000".parse().expect("a URL") },
            webhooks: Webhooks { webhook_allow_cidrs: Vec::new(), webhook_ports: Vec::new() },
            archiving: Archiving { archive_done_after_days: 30 },
            accounts: Accounts { require_email_verification },
        };
        change(&mut settings.http);
        let app = AppState::new(db.clone(), redis.clone(), &keys, settings, CancellationToken::new())
            .expect("state");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let service = api::router(app).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });

        let from = "TaskTracker <tasktracker@localhost>".parse().expect("a mailbox");
        let server = format!("smtp://{}?tls=none", sink.smtp_addr()).parse().expect("an SMTP URL");
        let smtp = Some(worker::smtp::Smtp::new(server, from));
        let settings = worker::Settings { require_email_verification, ..worker::Settings::default() };
        let context = worker::Context {
            db: db.clone(),
            redis: redis.clone(),
            secrets: common::testing::secret_keys(),
            smtp,
            http: worker::http::Http::new(common::webhooks::target::Reach::default()).expect("TLS"),
            turns: worker::Turns::default(),
            settings,
        };
        let anybody = Client {
            url: url.clone(),
            http: tools::client().build().expect("a client"),
            token: Token::default(),
        };
        let (due, read, people) = (Mutex::new(due), AtomicUsize::new(0), Mutex::default());
        Self { db, redis, context, sink, url, anybody, due, read, people }
    }

    /// A person in UTC who is logged in.
    pub async fn user(&self, name: &str) -> Person {
        self.user_in(name, "UTC").await
    }

    /// A person in a time zone who is logged in. Their daily summary is off: a test that wants it switches it on.
    pub async fn user_in(&self, name: &str, zone: &str) -> Person {
        let client = self.anybody.clone();
        let email = format!("{name}@example.com");
        let account = json!({"email": email, "password": PASSWORD, "full_name": name, "time_zone": zone});
        let user = client.post("/auth/register", account).await.assert(201).json;
        let session =
            client.post("/auth/login", json!({"email": email, "password": PASSWORD})).await.assert(200).json;
        let token = session["access_token"].as_str().expect("a token").to_owned();
        let refresh_token = session["refresh_token"].as_str().expect("a token").to_owned();
        let client = client.with_token(&token);
        let (any, off) = ([("if-match", "*")], json!({"digest_enabled": false}));
        client.send(Method::PATCH, "/me/notifications", &any, Some(off)).await.assert(200);
        self.people.lock().expect(LOCK).push((client.token.clone(), refresh_token.clone()));
        Person { client, id: user["id"].as_str().expect("an id").to_owned(), refresh_token, email }
    }

    /// Moves the clock and does all that is due then: the due step, dispatcher, relay and worker.
    /// Who is logged in stays so.
    pub async fn advance_to(&self, instant: &str) {
        self.db.clock().set(at(instant));
        let people = std::mem::take(&mut *self.people.lock().expect(LOCK));
        for (token, refresh_token) in people {
            let renewed =
                self.anybody.post("/auth/refresh", json!({"refresh_token": refresh_token})).await.assert(200);
            let text = |name: &str| renewed.json[name].as_str().expect("a token").to_owned();
            *token.lock().expect(LOCK) = Some(text("access_token"));
            self.people.lock().expect(LOCK).push((token, text("refresh_token")));
        }
        self.run_due().await;
    }

    /// Does all that is due, without moving the clock.
    pub async fn run_due(&self) {
        while due::queue_due(&self.db, reminders::CATCH_UP_PER_SECOND).await.expect("the due step").is_full()
        {
        }
        while summaries::queue_due(&self.db).await.expect("the summaries").people > 0 {}
        self.work().await;
    }

    /// Runs the jobs that are due.
    pub async fn work(&self) {
        self.dispatch().await;
        Relay::new(self.db.clone(), self.redis.clone()).relay().await.expect("the relay");
        worker::drain(&self.context, jobs::QUEUES).await.expect("the worker");
    }

    /// Pushes what was committed, as the dispatcher does.
    pub async fn dispatch(&self) {
        let mut committed = Vec::new();
        while let Ok(job) = self.due.lock().expect(LOCK).try_recv() {
            committed.push(job);
        }
        for job in committed {
            let queue = Queue::new(&self.redis, &job.queue);
            queue.push(std::slice::from_ref(&job)).await.expect("Redis takes it");
        }
    }

    /// Makes somebody an administrator.
    pub async fn make_admin(&self, person: &Person) {
        let statement = format!("UPDATE users SET role = 'admin' WHERE id = '{}'", person.id);
        let mut conn = self.db.conn().await.expect("a connection");
        db::RunQueryDsl::execute(diesel::sql_query(statement), &mut conn).await.expect("a role");
    }

    /// How many mails have come in all.
    pub fn mail_count(&self) -> usize {
        self.sink.messages().len()
    }

    /// The mails that came since the last look.
    pub async fn mail(&self) -> Vec<Arc<Message>> {
        let all = self.sink.messages();
        let seen = self.read.swap(all.len(), Ordering::SeqCst);
        all[seen..].to_vec()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mails = self.sink.messages().len();
        assert_eq!(self.read.load(Ordering::SeqCst), mails, "there is mail that the test did not look at");
        let unrun = self.due.lock().expect(LOCK).try_recv();
        assert!(unrun.is_err(), "a job was committed and not run: {unrun:?}");
    }
}

/// A person who is logged in.
pub struct Person {
    /// Their client.
    pub client: Client,
    /// Their id.
    pub id: String,
    /// Their newest refresh token.
    pub refresh_token: String,
    /// Their address.
    pub email: String,
}

impl std::ops::Deref for Person {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Person {
    /// Makes a task, and answers it.
    pub async fn create_task(&self, body: Value) -> Value {
        self.post("/tasks", body).await.assert(201).json
    }

    /// The fires of a task's only reminder.
    pub async fn fires(&self, task: &Value) -> Vec<Value> {
        let [reminder] = task["reminders"].as_array().expect("reminders").as_slice() else {
            panic!("not one reminder: {task}");
        };
        let (id, rid) = (task["id"].as_str().expect("id"), reminder["id"].as_str().expect("id"));
        let fires = self.get(&format!("/tasks/{id}/reminders/{rid}/fires")).await.assert(200).json;
        fires["data"].as_array().expect("fires").clone()
    }
}

/// The path of a task.
pub fn path(task: &Value) -> String {
    format!("/tasks/{}", task["id"].as_str().expect("a task has an id"))
}

/// An HTTP client of the API.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
    token: Token,
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or null if it is not JSON.
    pub json: Value,
    /// The body.
    pub text: String,
}

impl Answer {
    /// Fails unless the status is this one.
    #[track_caller]
    pub fn assert(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// Fails unless it is a problem with this status and code.
    #[track_caller]
    pub fn assert_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json["status"], status);
        self
    }

    /// A header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// The same client with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Arc::new(Mutex::new(Some(token.to_owned()))), ..self.clone() }
    }

    /// `GET /api/v1{path}`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    /// `POST /api/v1{path}` with a body.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// `POST /api/v1{path}` without a body.
    pub async fn act(&self, path: &str) -> Answer {
        self.send(Method::POST, path, &[], None).await
    }

    /// `PUT /api/v1{path}`.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, &[], Some(body)).await
    }

    /// `PATCH /api/v1{path}`.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, &[], Some(body)).await
    }

    /// `DELETE /api/v1{path}`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let body = body.map(|body| body.to_string().into_bytes());
        let json = [("content-type", "application/json")];
        let headers = [if body.is_some() { &json[..] } else { &[] }, headers].concat();
        self.send_raw(method, path, &headers, body.unwrap_or_default()).await
    }

    /// Any request with any body.
    pub async fn send_raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let url =
            if path.starts_with("http") { path.to_owned() } else { format!("{}/api/v1{path}", self.url) };
        let mut request = self.http.request(method, url).timeout(Duration::from_secs(20)).body(body);
        if let Some(token) = &*self.token.lock().expect(LOCK) {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("the API answers");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, json, text }
    }
}
