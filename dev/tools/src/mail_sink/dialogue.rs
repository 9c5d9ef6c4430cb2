//! What the server answers to each line of a connection. No input or output here, and no time.
//!
//! [`mailin`] knows SMTP; this module bends it where a sink needs something else:
//! - mailin's AUTH is a duty as soon as it is on, it forgets a login at RSET, and a cancelled exchange
//!   (`*`, RFC 4954 §4) hangs. So a session with AUTH is used for the exchange alone, and replaced by one without
//!   as soon as that is over.
//! - It stays in the data state when the end of the data is refused. So to mailin every mail is welcome, and the
//!   refusal is ours.
//!
//! Not supported: the null reverse path `<>`, and MAIL parameters other than `BODY`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailin::response::{AUTH_OK, AUTHENTICATION_REQUIRED, INVALID_CREDENTIALS, OK};
use mailin::{Action, AuthMechanism, Handler, Response, Session, SessionBuilder};

use super::Credentials;
use super::message::Envelope;

/// What goes wrong on purpose for a recipient, by its local part. A `+tag` is allowed, so that a test can have
/// several: `bounce+1@example.com`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// `slow@`: the mail is kept at once, and its acceptance answered late.
    Slow,
    /// `silent@`: the mail is read, dropped, and never answered.
    Silent,
    /// `tempfail@`: RCPT is refused with 451.
    TempFail,
    /// `bounce@`: RCPT is refused with 550.
    Bounce,
}

impl Trouble {
    /// The trouble of a recipient, if it is one of the four.
    pub fn of(recipient: &str) -> Option<Self> {
        let local = recipient.split(['@', '+']).next().unwrap_or_default();
        match local.to_ascii_lowercase().as_str() {
            "bounce" => Some(Self::Bounce),
            "tempfail" => Some(Self::TempFail),
            "slow" => Some(Self::Slow),
            "silent" => Some(Self::Silent),
            _ => None,
        }
    }
}

/// What holds for every connection of a server.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) credentials: Option<Credentials>,
    pub(super) starttls: bool,
    pub(super) max_size: usize,
}

/// The answer to a line.
#[derive(Debug)]
pub(super) struct Reply {
    /// Sent as they are; empty within a mail's data.
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

/// What follows once the reply is sent.
#[derive(Debug)]
pub(super) enum Then {
    /// The next line.
    Continue,
    /// The end of the connection.
    Close,
    /// The TLS handshake. What the client has already sent in the clear must be thrown away (RFC 3207 §4.2).
    StartTls,
    /// A mail was read; the reply is its acceptance.
    Mail(Incoming),
}

/// A mail whose data has ended and that was not answered yet.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) envelope: Envelope,
    pub(super) raw: Vec<u8>,
    pub(super) trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Command,
    AuthResponse,
    Data,
}

/// One connection's conversation.
pub(super) struct Dialogue {
    rules: Arc<Rules>,
    session: Session<Collector>,
    collector: Collector,
    expects: Expects,
    /// The last EHLO or HELO that was accepted, to bring a new session to where the old one was.
    hello: Vec<u8>,
    secure: bool,
    authenticated: bool,
}

impl Dialogue {
    pub(super) fn new(rules: Arc<Rules>) -> Self {
        let collector = Collector { rules: Arc::clone(&rules), mail: Arc::default() };
        let auth = rules.credentials.is_some();
        let session = new_session(&collector, auth, false);
        Self {
            rules,
            session,
            collector,
            expects: Expects::Command,
            hello: Vec::new(),
            secure: false,
            authenticated: false,
        }
    }

    pub(super) fn greeting(&self) -> Vec<u8> {
        bytes(&self.session.greeting())
    }

    /// Whether the next line belongs to a mail's data, which has no limit to the length of its lines but its own.
    pub(super) fn expects_data(&self) -> bool {
        self.expects == Expects::Data
    }

    /// The TLS handshake is done: the client starts again (RFC 3207 §4.2).
    pub(super) fn secured(&mut self) {
        self.secure = true;
        self.authenticated = false;
        self.hello.clear();
        *self.collector.current() = Mail::default();
        self.restart(self.must_authenticate());
    }

    /// A line of the mail's data was longer than any mail may be, and was thrown away.
    pub(super) fn oversized_line(&mut self) {
        self.collector.current().too_big = true;
    }

    /// Answers a line that ends with CRLF.
    pub(super) fn line(&mut self, line: &[u8]) -> Reply {
        match self.expects {
            Expects::Data => self.data(line),
            Expects::AuthResponse if line == b"*\r\n" => {
                self.expects = Expects::Command;
                self.restart(self.must_authenticate());
                reply(501, "Authentication cancelled")
            }
            Expects::Command | Expects::AuthResponse => self.command(line),
        }
    }

    fn data(&mut self, line: &[u8]) -> Reply {
        let response = self.session.process(line);
        if response.action == Action::NoReply {
            return Reply { bytes: Vec::new(), then: Then::Continue };
        }
        self.expects = Expects::Command;
        let Mail { envelope, raw, too_big } = self.collector.take();
        if too_big {
            return reply(552, &format!("The mail is larger than {} bytes", self.rules.max_size));
        }
        let trouble = envelope.to.iter().filter_map(|to| Trouble::of(to)).max();
        Reply { bytes: bytes(&response), then: Then::Mail(Incoming { envelope, raw, trouble }) }
    }

    fn command(&mut self, line: &[u8]) -> Reply {
        let verb =
            line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_slice() {
            b"STARTTLS" if self.secure => return reply(503, "TLS is already active"),
            b"AUTH" if self.authenticated => return reply(503, "Already authenticated"),
            // A sink takes any login that it does not require; mailin needs a session in which it is a duty.
            b"AUTH" if !self.must_authenticate() && self.expects == Expects::Command => self.restart(true),
            b"MAIL" if self.must_authenticate() => {
                return Reply { bytes: bytes(&AUTHENTICATION_REQUIRED), then: Then::Continue };
            }
            _ => {}
        }

        let authenticating = verb == b"AUTH" || self.expects == Expects::AuthResponse;
        let response = self.session.process(line);
        self.expects = match response.code {
            334 => Expects::AuthResponse,
            354 => Expects::Data,
            _ => Expects::Command,
        };
        match response.code {
            235 => {
                self.authenticated = true;
                self.restart(false);
            }
            400.. if authenticating => self.restart(self.must_authenticate()),
            _ => {}
        }

        let mut sent = bytes(&response);
        if verb == b"EHLO" && response.code == 250 {
            sent = self.with_extensions(&sent);
        }
        if matches!(verb.as_slice(), b"EHLO" | b"HELO") && response.code == 250 {
            self.hello = line.to_vec();
        }
        let then = match response.action {
            Action::Close => Then::Close,
            Action::UpgradeTls => Then::StartTls,
            Action::Reply | Action::NoReply => Then::Continue,
        };
        Reply { bytes: sent, then }
    }

    fn must_authenticate(&self) -> bool {
        self.rules.credentials.is_some() && !self.authenticated
    }

    /// Replaces the session by one that is where a client is after its EHLO.
    fn restart(&mut self, auth: bool) {
        self.session = new_session(&self.collector, auth, self.secure);
        if !self.hello.is_empty() {
            self.session.process(&self.hello);
        }
    }

    /// Adds what this module does for mailin to its list of extensions.
    fn with_extensions(&self, ehlo: &[u8]) -> Vec<u8> {
        let mut extensions = b"250-PIPELINING\r\n".to_vec();
        // A session in which AUTH is a duty lists it itself.
        if self.rules.credentials.is_none() && !self.authenticated {
            extensions.extend_from_slice(b"250-AUTH PLAIN LOGIN\r\n");
        }
        let first_line = ehlo.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        [&ehlo[..first_line], &extensions, &ehlo[first_line..]].concat()
    }
}

fn new_session(collector: &Collector, auth: bool, secure: bool) -> Session<Collector> {
    let mut builder = SessionBuilder::new("localhost mail sink");
    if auth {
        builder
            .enable_auth(AuthMechanism::Plain)
            .enable_auth(AuthMechanism::Login)
            .insecure_enable_plaintext_auth();
    }
    if !secure && collector.rules.starttls {
        builder.enable_start_tls();
    }
    // mailin hands the address to its handler, and ours does not look at it.
    let mut session = builder.build(IpAddr::V4(Ipv4Addr::LOCALHOST), collector.clone());
    if secure {
        session.tls_active();
    }
    session
}

fn bytes(response: &Response) -> Vec<u8> {
    // Writing to a Vec does not fail.
    response.buffer().unwrap_or_default()
}

fn reply(code: u16, text: &str) -> Reply {
    Reply { bytes: bytes(&Response::custom(code, text.to_owned())), then: Then::Continue }
}

/// The mail that a session is being told; shared by the sessions that follow each other in a dialogue.
#[derive(Debug, Clone)]
struct Collector {
    rules: Arc<Rules>,
    mail: Arc<Mutex<Mail>>,
}

#[derive(Debug, Default)]
struct Mail {
    envelope: Envelope,
    raw: Vec<u8>,
    too_big: bool,
}

impl Collector {
    fn current(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mail that is complete. The login stays for the next one.
    fn take(&self) -> Mail {
        let mut mail = self.current();
        let user = mail.envelope.user.clone();
        std::mem::replace(
            &mut *mail,
            Mail { envelope: Envelope { user, ..Envelope::default() }, ..Mail::default() },
        )
    }

    fn authenticate(&self, user: &str, password: &str) -> Response {
        let right = match &self.rules.credentials {
            Some(known) => known.user == user && known.password == password,
            None => true,
        };
        if !right {
            return INVALID_CREDENTIALS;
        }
        self.current().envelope.user = Some(user.to_owned());
        AUTH_OK
    }
}

impl Handler for Collector {
    fn rcpt(&mut self, to: &str) -> Response {
        match Trouble::of(to) {
            Some(Trouble::Bounce) => Response::custom(550, format!("<{to}>: no such mailbox here")),
            Some(Trouble::TempFail) => Response::custom(451, format!("<{to}>: try again later")),
            Some(Trouble::Slow | Trouble::Silent) | None => OK,
        }
    }

    fn data_start(&mut self, _domain: &str, from: &str, _is8bit: bool, to: &[String]) -> Response {
        let mut mail = self.current();
        let user = mail.envelope.user.take();
        *mail =
            Mail { envelope: Envelope { from: from.to_owned(), to: to.to_vec(), user }, ..Mail::default() };
        OK
    }

    fn data(&mut self, line: &[u8]) -> std::io::Result<()> {
        let mut mail = self.current();
        mail.too_big |= mail.raw.len() + line.len() > self.rules.max_size;
        if mail.too_big {
            mail.raw = Vec::new();
        } else {
            mail.raw.extend_from_slice(line);
        }
        Ok(())
    }

    fn auth_plain(&mut self, _authorization_id: &str, authentication_id: &str, password: &str) -> Response {
        self.authenticate(authentication_id, password)
    }

    fn auth_login(&mut self, username: &str, password: &str) -> Response {
        self.authenticate(username, password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_in_the_local_part_alone() {
        assert_eq!(Trouble::of("bounce@example.com"), Some(Trouble::Bounce));
        assert_eq!(Trouble::of("TempFail+7@example.com"), Some(Trouble::TempFail));
        assert_eq!(Trouble::of("bouncer@example.com"), None);
        assert_eq!(Trouble::of("ann@bounce.example.com"), None);
        assert_eq!(Trouble::of("ann+bounce@example.com"), None);
    }

    #[test]
    fn silence_outweighs_slowness() {
        assert_eq!([Trouble::Silent, Trouble::Slow].into_iter().max(), Some(Trouble::Silent));
    }
}
