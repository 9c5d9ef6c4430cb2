use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::journal::{Journal, What};

/// A try without an answer is given up after so long.
const PATIENCE: Duration = Duration::from_secs(6);
/// And repeated after so long.
const PAUSE: Duration = Duration::from_millis(250);
const PASSWORD: &str = "correct horse battery";

/// Somebody who uses the API as a good client does: what was not answered is asked for again, of the next process.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Arc<Journal>,
    http: reqwest::Client,
    apis: Vec<SocketAddr>,
    /// Which process is asked next.
    turn: AtomicUsize,
    email: String,
    /// Where they claim to be: each from elsewhere, or logging in would be throttled.
    address: String,
    token: Mutex<String>,
}

impl Client {
    /// Makes an account and logs in.
    ///
    /// # Panics
    /// If there cannot be an HTTP client.
    #[expect(clippy::expect_used, reason = "a client without TLS has nothing that could fail")]
    pub async fn register(journal: Arc<Journal>, apis: Vec<SocketAddr>, number: usize) -> Self {
        let http = tools::client().timeout(PATIENCE).build().expect("a client");
        // Of the network that is reserved for benchmarks (RFC 2544).
        let address = Ipv4Addr::from_bits(
            Ipv4Addr::new(198, 18, 0, 0).to_bits() + u32::try_from(number).unwrap_or_default(),
        );
        let email = format!("p{number}@example.com");
        let client = Self(Arc::new(Inner {
            journal,
            http,
            apis,
            turn: AtomicUsize::new(number),
            email: email.clone(),
            address: address.to_string(),
            token: Mutex::default(),
        }));
        let account = json!({ "email": email, "password": PASSWORD, "full_name": email, "time_zone": "UTC" });
        // 409 is the answer to a repeated request whose first answer was lost.
        client.ask(Method::POST, "/auth/register", &[], Some(&account)).await;
        client.log_in().await;
        // A summary would name the titles by which the books know reminders.
        let no_summaries = json!({ "digest_enabled": false });
        client.ask(Method::PATCH, "/me/notifications", &[], Some(&no_summaries)).await;
        client
    }

    /// Wants to be told of every change of their tasks, at `receiver`.
    pub async fn subscribe(&self, receiver: &str) {
        let endpoint = json!({
            "url": format!("{receiver}/{}", self.email()),
            "events": ["task.created", "task.updated", "task.completed", "task.deleted"],
        });
        let key = [("idempotency-key", "subscribe")];
        let (status, answer) = self.ask(Method::POST, "/webhooks", &key, Some(&endpoint)).await;
        self.0.journal.note(if status.is_success() {
            What::Subscribed { person: self.email().to_owned() }
        } else {
            let (request, body) = ("POST /webhooks".to_owned(), answer.to_string());
            What::Odd { request, status: status.as_u16(), body }
        });
    }

    /// Their address.
    pub fn email(&self) -> &str {
        &self.0.email
    }

    async fn log_in(&self) {
        let login = json!({ "email": self.0.email, "password": PASSWORD });
        let (_, session) = Box::pin(self.ask(Method::POST, "/auth/login", &[], Some(&login))).await;
        let token = session["access_token"].as_str().unwrap_or_default().to_owned();
        *self.0.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Asks until there is an answer that asking again would not change.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let Inner { journal, .. } = &*self.0;
        loop {
            if let Ok((status, answer)) = self.try_once(&method, path, headers, body).await {
                journal.requests.fetch_add(1, Relaxed);
                let in_progress = answer["code"] == "idempotency_in_progress";
                match status {
                    StatusCode::UNAUTHORIZED if !path.starts_with("/auth/") => self.log_in().await,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {}
                    StatusCode::CONFLICT if in_progress => {}
                    _ if status.is_server_error() => {
                        let request = format!("{method} {path}");
                        let what = What::Odd { request, status: status.as_u16(), body: answer.to_string() };
                        journal.note(what);
                    }
                    _ => return (status, answer),
                }
            }
            journal.repeats.fetch_add(1, Relaxed);
            sleep(PAUSE).await;
        }
    }

    async fn try_once(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let Inner { http, apis, turn, address, token, .. } = &*self.0;
        let api = apis[turn.fetch_add(1, Relaxed) % apis.len()];
        let url = format!("http://{api}/api/v1{path}");
        let mut request = http.request(method.clone(), url).header("x-forwarded-for", address);
        let token = token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !token.is_empty() && !path.starts_with("/auth/") {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok((status, answer))
    }
}
