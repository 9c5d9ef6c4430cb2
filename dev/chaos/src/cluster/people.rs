use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

/// Somebody with an account, as a client of the REST API.
#[derive(Debug, Clone)]
pub struct Person {
    /// Where their mail goes.
    pub email: String,
    api: SocketAddr,
    /// Where they claim to be.
    address: Ipv4Addr,
    http: reqwest::Client,
    token: String,
}

static PEOPLE: AtomicU32 = AtomicU32::new(0);

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `X-Request-Id`.
    pub request_id: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The JSON body, or null.
    pub body: Value,
}

impl Person {
    pub(super) async fn register(api: SocketAddr, name: &str) -> Self {
        const PASSWORD: &str = "correct horse battery";
        let http = tools::client()
            .timeout(Duration::from_secs(10))
            .no_proxy()
            .build()
            .expect("a client without TLS");
        let email = format!("{name}@example.com");
        // Of the network that is reserved for benchmarks (RFC 2544).
        let number = PEOPLE.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number);
        let mut person = Self { email: email.clone(), api, address, http, token: String::new() };
        let account = json!({ "email": email, "password": PASSWORD, "full_name": name, "time_zone": "UTC" });
        person.expect(StatusCode::CREATED, "/auth/register", account).await;
        let login = json!({ "email": email, "password": PASSWORD });
        let session = person.expect(StatusCode::OK, "/auth/login", login).await;
        person.token = session.body["access_token"].as_str().expect("a token").to_owned();
        // At eight in the morning there would be one mail more.
        let no_summaries = Some(json!({ "digest_enabled": false }));
        let answer = person.request(Method::PATCH, "/me/notifications", no_summaries).await;
        assert_eq!(answer.expect("an answer").status, StatusCode::OK);
        person
    }

    /// The same person, asking another API process.
    pub fn through(&self, api: SocketAddr) -> Self {
        Self { api, ..self.clone() }
    }

    /// A request to a path below `/api/v1` as it goes over the wire (RFC 9112), for who sends many and has no time for a client.
    pub fn bytes_of(&self, method: &Method, path: &str, body: Option<&Value>) -> Vec<u8> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (api, address, token, length) = (self.api, self.address, &self.token, body.len());
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: {api}\r\nx-forwarded-for: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        (head + &body).into_bytes()
    }

    /// Creates a task.
    ///
    /// # Panics
    /// If the answer is not 201.
    pub async fn create_task(&self, task: Value) -> Answer {
        self.expect(StatusCode::CREATED, "/tasks", task).await
    }

    async fn expect(&self, status: StatusCode, path: &str, body: Value) -> Answer {
        let answer = self
            .request(Method::POST, path, Some(body))
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        answer
    }

    /// Sends a request to a path below `/api/v1`.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        self.send(method, path, None, body).await
    }

    /// The same with an `Idempotency-Key`.
    ///
    /// # Errors
    /// As [`Person::request`].
    pub async fn request_keyed(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: Value,
    ) -> reqwest::Result<Answer> {
        self.send(method, path, Some(key), Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let url = format!("http://{}/api/v1{path}", self.api);
        let mut request = self.http.request(method, url).header("x-forwarded-for", self.address.to_string());
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let request_id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = request_id.unwrap_or_default().to_owned();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer { status, request_id, headers, body })
    }
}
