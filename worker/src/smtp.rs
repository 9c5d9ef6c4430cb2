//! SMTP: how a mail leaves. Connections are kept for the next mail; a send has a hard limit, and ends in a class that
//! says what to do about it ([`Failure`]). What is sent, and what becomes of it, is the job's business.
//!
//! The pool is our own: lettre's takes a connection back although its send was cancelled, and then reads the answers to
//! one mail as the answers to the next.

mod pause;
mod server;
mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use common::{mail::Mail, metrics, telemetry::Origin};
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        client::AsyncSmtpConnection,
        commands::{self, Rcpt},
        extension::{Extension, MailParameter},
        response::{Response, Severity},
    },
};
pub(crate) use pause::{WORKER, later, refused};
pub use pause::{probe_once, watch};
pub use server::Server;
use tokio::time::{Instant, timeout, timeout_at};
use wire::Transcript;

/// The hard limit of a mail, from the connection to the server's last word (goals R26). lettre's own covers only the
/// connect (lettre#1027).
pub const LIMIT: Duration = Duration::from_secs(30);
/// After the server refused to log us in, this process leaves it alone for so long: until then, everybody knows that the
/// queue is paused. More tries might lock the account.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// An unused connection is closed after so long, before the server does it (RFC 5321 §4.5.3.2.7: five minutes).
const IDLE: Duration = Duration::from_secs(60);
/// Unused connections that are kept at most.
const KEEP: usize = 10;
/// Characters of a reply that are kept.
const REPLY: usize = 500;

/// The mail server of this process. Cheap to clone.
#[derive(Clone)]
pub struct Smtp(Arc<Inner>);

struct Inner {
    server: Server,
    from: Mailbox,
    limit: Duration,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
    refused: Mutex<Option<(Instant, String)>>,
}

/// Why a mail did not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server refuses this mail or this recipient for good (5xx).
    Rejected {
        /// Its reply.
        reply: String,
    },
    /// Later it may do: the server says so (4xx), or could not be reached.
    Temporary {
        /// What happened.
        error: String,
        /// Whether the mail had been handed over already and only the answer is missing: it may have arrived.
        ambiguous: bool,
    },
    /// The server does not want *us*: no mail will leave until somebody mends that.
    Auth {
        /// Its reply.
        error: String,
    },
}

impl Failure {
    /// Its name in metrics.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Temporary { ambiguous: false, .. } => "temporary",
            Self::Temporary { ambiguous: true, .. } => "ambiguous",
            Self::Auth { .. } => "auth",
        }
    }
}

/// How far a mail was when something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The greeting, TLS, the login.
    Connect,
    /// Sender, recipient and `DATA`.
    Envelope,
    /// The text, up to the server's word on it.
    Body,
}

impl Phase {
    fn failure(self, error: &smtp::Error) -> Failure {
        let text = reply_of(error);
        match (error.status(), self) {
            (Some(code), _) if ["530", "534", "535", "538"].contains(&code.to_string().as_str()) => {
                Failure::Auth { error: text }
            }
            (Some(code), Self::Envelope | Self::Body)
                if code.severity == Severity::PermanentNegativeCompletion =>
            {
                Failure::Rejected { reply: text }
            }
            (Some(_), _) => Failure::Temporary { error: text, ambiguous: false },
            // No STARTTLS, no way to log in that both sides know.
            (None, Self::Connect) if error.is_client() => Failure::Auth { error: text },
            (None, _) => Failure::Temporary { error: text, ambiguous: self == Self::Body },
        }
    }

    fn too_slow(self) -> Failure {
        let what = match self {
            Self::Connect => "connection",
            Self::Envelope => "answer to the recipient",
            Self::Body => "answer to the mail",
        };
        Failure::Temporary {
            error: format!("no {what} within the limit of a mail"),
            ambiguous: self == Self::Body,
        }
    }
}

/// What a mail needs beside its text.
#[derive(Debug, Clone)]
pub struct Header<'a> {
    /// The same at every try of the same mail.
    pub message_id: &'a str,
    /// Which kind of mail this is, for filters: `reminder.tasks.example.com` (RFC 2919).
    pub list_id: String,
    /// What the mail belongs to, as a message id that no mail has: mail programs show what names the same one together.
    pub thread: Option<String>,
    /// Where its reader stops mails of this kind; none for mails about the account itself.
    pub unsubscribe: Option<Unsubscribe>,
    /// When it was written.
    pub date: DateTime<Utc>,
    /// The request that it goes back to.
    pub origin: &'a Origin,
}

/// How a reader stops mails of a kind.
#[derive(Debug, Clone)]
pub struct Unsubscribe {
    /// The page.
    pub url: String,
    /// Whether a mail program may do so by a POST of its own (RFC 8058).
    pub one_click: bool,
    /// Whether nobody waits for such a mail: `Precedence: bulk` asks autoresponders to keep silent.
    pub bulk: bool,
}

impl Smtp {
    /// The server and the sender of every mail. Does not connect.
    pub fn new(server: Server, from: Mailbox) -> Self {
        Self::with_limit(server, from, LIMIT)
    }

    /// With another limit than [`LIMIT`], for tests that do not wait so long.
    pub(crate) fn with_limit(server: Server, from: Mailbox, limit: Duration) -> Self {
        let inner = Inner { server, from, limit, idle: Mutex::default(), refused: Mutex::default() };
        Self(Arc::new(inner))
    }

    /// Begins a mail: connected, logged in, the recipient accepted. What happens until [`Draft::send`] is up to the
    /// caller, within the limit of the mail.
    ///
    /// # Errors
    /// As [`Failure`] says; no mail was sent.
    pub async fn open(&self, to: &str) -> Result<Draft, Failure> {
        let started = Instant::now();
        let opened = self.try_open(to, started + self.0.limit).await;
        if let Err(failure) = &opened {
            if let Failure::Auth { error } = failure {
                *lock(&self.0.refused) = Some((started, error.clone()));
            }
            metrics::smtp_sent(started.elapsed(), Some(failure.class()));
        }
        let (conn, to) = opened?;
        Ok(Draft { smtp: self.clone(), conn, to, started })
    }

    async fn try_open(&self, to: &str, deadline: Instant) -> Result<(AsyncSmtpConnection, Address), Failure> {
        let recipient = recipient(to)?;
        let mut conn =
            timeout_at(deadline, self.connection()).await.map_err(|_| Phase::Connect.too_slow())??;
        match timeout_at(deadline, self.envelope(&mut conn, &recipient)).await {
            Err(_) => Err(Phase::Envelope.too_slow()),
            Ok(Ok(())) => Ok((conn, recipient)),
            Ok(Err(failure)) => {
                if matches!(failure, Failure::Rejected { .. }) {
                    self.reset(conn).await;
                }
                Err(failure)
            }
        }
    }

    /// Sends a mail whose text is already certain.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub async fn send(&self, to: &str, mail: &Mail, header: &Header<'_>) -> Result<String, Failure> {
        self.open(to).await?.send(mail, header).await
    }

    /// Sends a mail on a connection of its own, and answers also what was said on it, without login and text.
    pub async fn try_out(
        &self,
        to: &str,
        mail: &Mail,
        header: &Header<'_>,
    ) -> (Result<String, Failure>, Vec<String>) {
        let (started, transcript) = (Instant::now(), Transcript::default());
        let deadline = started + self.0.limit;
        let work = async {
            let recipient = recipient(to)?;
            let mut conn = self.0.server.connect(Some(&transcript)).await?;
            self.envelope(&mut conn, &recipient).await?;
            let bytes = self.message(recipient, mail, header).map_err(unsendable)?;
            let reply = transfer(&mut conn, &bytes, deadline).await?;
            let _ = timeout(Duration::from_secs(1), conn.quit()).await;
            Ok(reply)
        };
        let result = timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Phase::Connect.too_slow()));
        metrics::smtp_sent(started.elapsed(), result.as_ref().err().map(Failure::class));
        let lines = transcript.lines();
        (result, lines.iter().map(|line| self.0.server.without_login(line)).collect())
    }

    /// Begins a mail to our own sender, and takes it back: whether the server lets us send at all.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        *lock(&self.0.refused) = None;
        let deadline = Instant::now() + self.0.limit;
        let mut conn =
            timeout_at(deadline, self.connection()).await.map_err(|_| Phase::Connect.too_slow())??;
        let opened = timeout_at(deadline, self.envelope(&mut conn, &self.0.from.email)).await;
        match opened.map_err(|_| Phase::Envelope.too_slow())? {
            Err(failure @ Failure::Auth { .. }) => Err(failure),
            // Whatever it thinks of this recipient, it has let us in.
            Ok(()) | Err(_) => {
                self.reset(conn).await;
                Ok(())
            }
        }
    }

    /// A connection that answers, old or new.
    async fn connection(&self) -> Result<AsyncSmtpConnection, Failure> {
        loop {
            let Some((mut conn, since)) = lock(&self.0.idle).pop() else { break };
            if since.elapsed() < IDLE && conn.test_connected().await {
                return Ok(conn);
            }
            tokio::spawn(async move { timeout(Duration::from_secs(1), conn.abort()).await });
        }
        if let Some((at, error)) = &*lock(&self.0.refused)
            && at.elapsed() < REFUSED_FOR
        {
            return Err(Failure::Auth { error: error.clone() });
        }
        let conn = self.0.server.connect(None).await?;
        *lock(&self.0.refused) = None;
        Ok(conn)
    }

    async fn envelope(&self, conn: &mut AsyncSmtpConnection, to: &Address) -> Result<(), Failure> {
        let from = &self.0.from.email;
        let mut parameters = Vec::new();
        if !(from.as_ref() as &str).is_ascii() || !(to.as_ref() as &str).is_ascii() {
            if !conn.server_info().supports_feature(Extension::SmtpUtfEight) {
                let reply =
                    "not sent: the mail server does not take addresses beyond ASCII (RFC 6531)".to_owned();
                return Err(Failure::Rejected { reply });
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let failed = |error| Phase::Envelope.failure(&error);
        conn.command(commands::Mail::new(Some(from.clone()), parameters)).await.map_err(failed)?;
        conn.command(Rcpt::new(to.clone(), Vec::new())).await.map_err(failed)?;
        Ok(())
    }

    /// Keeps a connection for the next mail, in a state that knows nothing of this one.
    async fn reset(&self, mut conn: AsyncSmtpConnection) {
        if let Ok(Ok(_)) = timeout(Duration::from_secs(2), conn.command(commands::Rset)).await {
            self.keep(conn);
        }
    }

    fn keep(&self, conn: AsyncSmtpConnection) {
        let mut idle = lock(&self.0.idle);
        if idle.len() < KEEP {
            idle.push((conn, Instant::now()));
        }
    }

    fn message(
        &self,
        to: Address,
        mail: &Mail,
        header: &Header<'_>,
    ) -> Result<Vec<u8>, lettre::error::Error> {
        let mut message = Message::builder()
            .from(self.0.from.clone())
            .to(Mailbox::new(None, to))
            .subject(literal(&mail.subject))
            .message_id(Some(header.message_id.to_owned()))
            .date(SystemTime::from(header.date))
            .raw_header(raw("Auto-Submitted", "auto-generated"))
            .raw_header(raw("List-Id", &format!("<{}>", header.list_id)));
        if let Some(unsubscribe) = &header.unsubscribe {
            message = message.raw_header(raw("List-Unsubscribe", &format!("<{}>", unsubscribe.url)));
            if unsubscribe.one_click {
                message = message.raw_header(raw("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
            }
            if unsubscribe.bulk {
                message = message.raw_header(raw("Precedence", "bulk"));
            }
        }
        if let Some(thread) = &header.thread {
            message = message.in_reply_to(thread.clone()).references(thread.clone());
        }
        for (name, value) in
            [("X-Request-Id", &header.origin.request_id), ("traceparent", &header.origin.traceparent)]
        {
            if let Some(value) = value.as_deref().filter(|value| value.bytes().all(|b| b.is_ascii_graphic()))
            {
                message = message.raw_header(raw(name, value));
            }
        }
        let body = MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone());
        Ok(message.multipart(body)?.formatted())
    }
}

/// A mail whose recipient the server has accepted, and whose text it waits for.
pub struct Draft {
    smtp: Smtp,
    conn: AsyncSmtpConnection,
    to: Address,
    started: Instant,
}

impl Draft {
    /// Hands over the text, and answers with the server's reply.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub async fn send(self, mail: &Mail, header: &Header<'_>) -> Result<String, Failure> {
        let Self { smtp, mut conn, to, started } = self;
        let deadline = started + smtp.0.limit;
        let result = match smtp.message(to, mail, header) {
            Ok(bytes) => transfer(&mut conn, &bytes, deadline).await,
            Err(error) => Err(unsendable(error)),
        };
        metrics::smtp_sent(started.elapsed(), result.as_ref().err().map(Failure::class));
        match &result {
            Ok(_) => smtp.keep(conn),
            Err(Failure::Rejected { .. }) => smtp.reset(conn).await,
            // What the server will say next is not known: the connection is closed.
            Err(_) => {}
        }
        result
    }

    /// Takes it back: nothing is sent.
    pub async fn abandon(self) {
        self.smtp.reset(self.conn).await;
    }
}

async fn transfer(
    conn: &mut AsyncSmtpConnection,
    bytes: &[u8],
    deadline: Instant,
) -> Result<String, Failure> {
    timeout_at(deadline, conn.command(commands::Data))
        .await
        .map_err(|_| Phase::Envelope.too_slow())?
        .map_err(|error| Phase::Envelope.failure(&error))?;
    let response = timeout_at(deadline, conn.message(bytes))
        .await
        .map_err(|_| Phase::Body.too_slow())?
        .map_err(|error| Phase::Body.failure(&error))?;
    Ok(text_of(&response))
}

fn recipient(to: &str) -> Result<Address, Failure> {
    to.parse().map_err(|error: lettre::address::AddressError| Failure::Rejected {
        reply: format!("not sent: the address is not valid ({error})"),
    })
}

fn unsendable(error: lettre::error::Error) -> Failure {
    Failure::Rejected { reply: format!("not sent: {error}") }
}

/// A subject that is read as it was written. lettre leaves ASCII as it is, also where a mail program would decode it as an
/// encoded word (RFC 2047 §2), with control characters and all. A word joiner, which nobody sees, keeps its beginning apart.
fn literal(subject: &str) -> String {
    subject.replace("=?", "=\u{2060}?")
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

fn text_of(response: &Response) -> String {
    let lines: Vec<&str> = response.message().collect();
    shortened(&format!("{} {}", response.code(), lines.join(" ")))
}

/// What the server said, or why nothing was heard from it.
fn reply_of(error: &smtp::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match error.status() {
        Some(code) => shortened(&format!("{code} {cause}")),
        None => shortened(&error.to_string()),
    }
}

/// One line of at most 500 characters, without control characters.
fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REPLY).collect()
}

/// A poisoned lock still holds a valid value: nothing between lock and unlock can leave it half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, feature = "testing"))]
mod tests;
