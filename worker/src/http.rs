//! The one client for requests to addresses that people chose (design §4.6): nothing else in this workspace connects to
//! them. What leaves here goes to public addresses only, and to those of the operator's allow list for admins.
//!
//! - A name is resolved by the client itself, which connects to the addresses that passed and to no other: there is no
//!   second look at the DNS between check and use. Addresses in URLs are checked as [`Target`]s are read.
//! - No connection outlives its request. A pool would save a handshake, and would send to an address that was checked
//!   for an earlier request; a receiver that has moved to a private address must be noticed at the next one.
//! - No redirect is followed, no proxy of the environment is used, and nothing is decompressed.

use std::{
    error::Error as _,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use common::webhooks::target::{Owner, Reach, Target};
use http::{HeaderMap, header::RETRY_AFTER};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use tokio::time::{timeout, timeout_at};

/// A request takes no longer, from the resolving of the name to the end of the answer.
pub const LIMIT: Duration = Duration::from_secs(15);
/// How long an answer's body may take once its status is known: that decides, and the body is only kept.
const BODY_LIMIT: Duration = Duration::from_secs(5);
/// So many bytes of an answer are read.
pub const MAX_BODY: usize = 16 * 1024;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    reach: Arc<Reach>,
    public: Client,
    /// Also reaches what is allowed for admins.
    allowed: Client,
    limit: Duration,
}

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The beginning of its body; not kept if it came from a network that is not public.
    pub body: Option<String>,
    /// The header `Retry-After`, as it came.
    pub retry_after: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent: the host has no address that may be connected to.
    Blocked,
    /// It took too long.
    Timeout,
    /// The name has no address, or the resolver does not answer.
    Dns,
    /// No connection, or no TLS; with what is known of it.
    Connect(String),
    /// The connection broke, or what came is not HTTP.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No address is named: whoever owns the endpoint must not learn what names of ours resolve to.
            Self::Blocked => write!(f, "ssrf_blocked: the host has no address on the public internet"),
            Self::Timeout => write!(f, "timeout: no answer within {} s", LIMIT.as_secs()),
            Self::Dns => write!(f, "dns: the name of the host cannot be resolved"),
            Self::Connect(cause) => write!(f, "connect: {cause}"),
            Self::Broken(cause) => write!(f, "no answer: {cause}"),
        }
    }
}

impl Http {
    /// The client that reaches what the operator lets it.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(reach: Reach) -> anyhow::Result<Self> {
        Self::with(reach, Arc::new(System), LIMIT)
    }

    /// [`Http::new`] with another resolver and another limit.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn with(reach: Reach, resolver: Arc<dyn Resolve>, limit: Duration) -> anyhow::Result<Self> {
        let reach = Arc::new(reach);
        let client = |owner| {
            let guard = Guard { reach: reach.clone(), owner, resolver: resolver.clone() };
            Client::builder()
                .tls_backend_preconfigured(tls()?)
                .dns_resolver(Arc::new(guard))
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .http1_only()
                .pool_max_idle_per_host(0)
                .user_agent(concat!("TaskTracker/", env!("CARGO_PKG_VERSION"), " (webhooks)"))
                .build()
                .map_err(anyhow::Error::from)
        };
        Ok(Self { public: client(Owner::User)?, allowed: client(Owner::Admin)?, reach, limit })
    }

    /// What it may reach.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Posts `body` to `target`, which was read for this `owner`.
    ///
    /// # Errors
    /// If there was no answer.
    pub async fn post(
        &self,
        target: &Target,
        owner: Owner,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, Failure> {
        let client = match owner {
            Owner::User => &self.public,
            Owner::Admin => &self.allowed,
        };
        let deadline = tokio::time::Instant::now() + self.limit;
        let request = client.post(target.url().clone()).headers(headers).body(body).send();
        let response = match timeout_at(deadline, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failure(&error)),
            Err(_) => return Err(Failure::Timeout),
        };
        let is_public =
            response.remote_addr().is_some_and(|address| self.reach.allows(Owner::User, address.ip()));
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let body = if is_public { Some(beginning(response, deadline).await) } else { None };
        Ok(Answer { status, body, retry_after })
    }
}

/// The beginning of an answer's body as text, whatever came of it in time.
async fn beginning(mut response: Response, deadline: tokio::time::Instant) -> String {
    let started = Instant::now();
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY && started.elapsed() < BODY_LIMIT {
        let rest = deadline
            .saturating_duration_since(tokio::time::Instant::now())
            .min(BODY_LIMIT.saturating_sub(started.elapsed()));
        match timeout(rest, response.chunk()).await {
            Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk[..chunk.len().min(MAX_BODY - bytes.len())]),
            _ => break,
        }
    }
    text(&bytes)
}

/// As PostgreSQL can keep it: without NUL, and at most [`MAX_BODY`] bytes also where what is not UTF-8 was replaced.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_BODY));
    text
}

fn failure(error: &reqwest::Error) -> Failure {
    let mut last = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<Blocked>() {
            return Failure::Blocked;
        }
        if cause.is::<Unresolved>() {
            return Failure::Dns;
        }
        last = cause.to_string();
        source = cause.source();
    }
    // The innermost cause says it without the URL, which may carry a token.
    if error.is_connect() { Failure::Connect(last) } else { Failure::Broken(last) }
}

fn tls() -> anyhow::Result<rustls::ClientConfig> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// A resolver that keeps to itself what may not be connected to.
struct Guard {
    reach: Arc<Reach>,
    owner: Owner,
    resolver: Arc<dyn Resolve>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, owner) = (self.reach.clone(), self.owner);
        let host = name.as_str().to_owned();
        let resolving = self.resolver.resolve(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await.map_err(|_| Unresolved)?.collect();
            let (good, bad): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|address| reach.allows(owner, address.ip()));
            if !bad.is_empty() {
                tracing::warn!(host, refused = ?bad, "a webhook's host resolves to addresses that are not public");
            }
            match (good.is_empty(), bad.is_empty()) {
                (false, _) => Ok(Box::new(good.into_iter()) as Addrs),
                (true, false) => Err(Blocked.into()),
                (true, true) => Err(Unresolved.into()),
            }
        })
    }
}

/// The resolver of the operating system.
struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client puts the port of the URL in place of 0.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

#[derive(Debug)]
struct Blocked;

#[derive(Debug)]
struct Unresolved;

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address that may be connected to")
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address")
    }
}

impl std::error::Error for Blocked {}
impl std::error::Error for Unresolved {}

#[cfg(test)]
mod tests;
