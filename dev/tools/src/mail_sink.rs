//! An SMTP server that keeps what it gets, with a page and an API to read it.
//!
//! A recipient decides by its local part what goes wrong ([`Trouble`]). The API is the part of
//! [Mailpit's](https://mailpit.axllent.org/docs/api-v1/) that scripts need, with its paths and field names.
//! Everything is in memory, bounded, and gone when the sink stops.
//!
//! - `dialogue`: what to answer to a line. No input or output, so it is the place of the protocol's rules.
//! - `smtp`: connections, TLS, time.
//! - `message`, `store`: what a mail is, and those that are kept.
//! - `api`, `search`, `page`: how they are read over HTTP.

mod api;
mod dialogue;
mod message;
mod page;
mod search;
mod smtp;
mod store;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use dialogue::Trouble;
pub use message::{Address, Attachment, Envelope, Message};

use store::Store;

/// How long [`MailSink::stop`] waits for open connections.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How a sink behaves. The default suits tests: free ports of 127.0.0.1, no login.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen for SMTP; port 0 takes a free one.
    pub smtp: SocketAddr,
    /// Where to serve the page and the API; port 0 takes a free one.
    pub http: SocketAddr,
    /// The login a client must give. `None` takes mail without one, and accepts any that is offered.
    pub credentials: Option<Credentials>,
    /// TLS from the first byte instead of STARTTLS.
    pub implicit_tls: bool,
    /// Whether STARTTLS is offered.
    pub starttls: bool,
    /// What it shows in the TLS handshake; its own, made anew, unless given.
    pub identity: Option<Identity>,
    /// How long a mail to `slow@` waits for its answer.
    pub slow_for: Duration,
    /// How many mails are kept.
    pub keep: usize,
    /// How many bytes of mail are kept, however few mails that is. The newest mail always is.
    pub keep_bytes: usize,
    /// The largest mail, in bytes after dot-unstuffing.
    pub max_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            smtp: (Ipv4Addr::LOCALHOST, 0).into(),
            http: (Ipv4Addr::LOCALHOST, 0).into(),
            credentials: None,
            implicit_tls: false,
            starttls: true,
            identity: None,
            slow_for: Duration::from_secs(5),
            keep: 10_000,
            keep_bytes: 256 << 20,
            max_size: 10 << 20,
        }
    }
}

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, followed by those of the authorities between it and the root.
    pub certificates: String,
    /// The key of the first.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A user name and a password, written `user:password` on the command line. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name given with AUTH.
    pub user: String,
    /// The password given with AUTH.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl FromStr for Credentials {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                Ok(Self { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err("write a user name and a password with a colon between them, as in ann:secret"),
        }
    }
}

/// A running sink. It stops when dropped.
#[derive(Debug)]
pub struct MailSink {
    smtp_addr: SocketAddr,
    http_addr: SocketAddr,
    certificate_pem: String,
    store: Arc<Store>,
    tasks: TaskTracker,
    shutdown: DropGuard,
}

impl MailSink {
    /// Binds both ports and serves until [`stop`](Self::stop) or drop.
    ///
    /// # Errors
    /// When a port cannot be bound, or no certificate can be made for STARTTLS.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let smtp = listen(options.smtp, "SMTP").await?;
        let http = listen(options.http, "the mail page").await?;
        let (smtp_addr, http_addr) = (smtp.local_addr()?, http.local_addr()?);
        let tls = match &options.identity {
            Some(identity) => smtp::Tls::with(identity).context("cannot use the identity")?,
            None => smtp::Tls::self_signed().context("cannot make a certificate for TLS")?,
        };
        let certificate_pem = tls.certificate_pem.clone();

        let store = Arc::new(Store::new(options.keep, options.keep_bytes));
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let server = smtp::Server {
            rules: Arc::new(dialogue::Rules {
                credentials: options.credentials,
                starttls: options.starttls,
                max_size: options.max_size,
            }),
            implicit_tls: options.implicit_tls,
            slow_for: options.slow_for,
            store: Arc::clone(&store),
            tls,
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(Arc::new(server).accept(smtp));
        tasks.spawn(api::serve(http, Arc::clone(&store), shutdown.clone()));
        tasks.close();

        Ok(Self { smtp_addr, http_addr, certificate_pem, store, tasks, shutdown: shutdown.drop_guard() })
    }

    /// Where SMTP is served.
    pub fn smtp_addr(&self) -> SocketAddr {
        self.smtp_addr
    }

    /// Where the page and the API are served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The page's address, without a slash at the end.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http_addr)
    }

    /// The certificate shown after STARTTLS, for `localhost` and `127.0.0.1`, made anew at each start.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Everything kept, oldest first.
    pub fn messages(&self) -> Vec<Arc<Message>> {
        self.store.messages()
    }

    /// Forgets everything kept.
    pub fn clear(&self) {
        self.store.clear();
    }

    /// Waits until `wanted` says yes to what is kept (oldest first), and returns it. It is asked at once, and after
    /// every mail.
    ///
    /// # Errors
    /// When that takes longer than `within`; the error lists what had come.
    pub async fn wait_for(
        &self,
        wanted: impl FnMut(&[Arc<Message>]) -> bool,
        within: Duration,
    ) -> Result<Vec<Arc<Message>>, NotArrived> {
        match tokio::time::timeout(within, self.store.wait_for(wanted)).await {
            Ok(messages) => Ok(messages),
            Err(_) => Err(NotArrived { within, arrived: self.messages() }),
        }
    }

    /// Waits until at least `count` mails are kept, and returns all of them, oldest first.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_for_count(
        &self,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Arc<Message>>, NotArrived> {
        self.wait_for(|messages| messages.len() >= count, within).await
    }

    /// Frees the ports, ends open connections with 421, and waits for them, though not for a client that does not
    /// read.
    pub async fn stop(self) {
        drop(self.shutdown);
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("stopped with {} connections still open", self.tasks.len());
        }
    }
}

async fn listen(addr: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!(
            "cannot listen on {addr} for {what}; stop the program that uses it, or choose another address"
        )
    })
}

/// The awaited mail did not come in time.
#[derive(Debug)]
pub struct NotArrived {
    /// How long was waited.
    pub within: Duration,
    /// What had come by then, oldest first.
    pub arrived: Vec<Arc<Message>>,
}

impl fmt::Display for NotArrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the awaited mail did not come within {:?}; {} came:", self.within, self.arrived.len())?;
        for message in &self.arrived {
            write!(
                f,
                "\n  {} to {}: {}",
                message.arrived_at,
                message.envelope.to.join(", "),
                message.subject
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for NotArrived {}
