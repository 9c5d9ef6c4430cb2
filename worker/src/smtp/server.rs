use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::transport::smtp::{
    self,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, AsyncTokioStream},
    extension::ClientId,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Failure, Phase,
    wire::{Transcript, Wire},
};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A mail server: `smtp://user:password@host:port?tls=required`, or `smtps://…` for TLS from the first byte.
///
/// `tls` is `required` (STARTTLS, or nothing is sent), `opportunistic` (STARTTLS if the server offers it) or `none`. The
/// default is `required`, and `none` for this machine. Ports: 465 for `smtps`, 587 for `smtp`, 25 with `tls=none`.
#[derive(Clone)]
pub struct Server {
    host: String,
    port: u16,
    tls: Tls,
    login: Option<Login>,
    trusted: Arc<ClientConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    None,
    Opportunistic,
    Required,
    FromTheStart,
}

#[derive(Clone, PartialEq)]
struct Login {
    user: String,
    password: String,
}

impl fmt::Debug for Server {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: url::Url =
            text.parse().map_err(|error| format!("{error}; write smtp://user:password@host:port"))?;
        let host = url.host_str().ok_or("it has no host")?.trim_matches(['[', ']']).to_owned();
        let mut wanted = None;
        for (name, value) in url.query_pairs() {
            match &*name {
                "tls" => wanted = Some(value.into_owned()),
                other => return Err(format!("it has an unknown parameter {other:?}; there is only tls")),
            }
        }
        let here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let (tls, port) = match (url.scheme(), wanted.as_deref()) {
            ("smtps", None | Some("required")) => (Tls::FromTheStart, 465),
            ("smtp", Some("required")) => (Tls::Required, 587),
            ("smtp", Some("opportunistic")) => (Tls::Opportunistic, 587),
            ("smtp", Some("none")) => (Tls::None, 25),
            ("smtp", None) if here => (Tls::None, 25),
            ("smtp", None) => (Tls::Required, 587),
            ("smtp" | "smtps", Some(_)) => {
                return Err("tls is required, opportunistic or none; smtps is always required".to_owned());
            }
            _ => return Err("it begins with smtp:// or smtps://".to_owned()),
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) => Some(Login { user: decoded(user)?, password: decoded(password)? }),
            (_, None) => return Err("it has a user and no password".to_owned()),
        };
        let trusted = trusting(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })?;
        Ok(Self { port: url.port().unwrap_or(port), host, tls, login, trusted })
    }
}

/// Undoes the percent-encoding of a part of a URL.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let code: Vec<u8> = rest.by_ref().take(2).collect();
        let byte = std::str::from_utf8(&code)
            .ok()
            .filter(|_| code.len() == 2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or("user or password is not percent-encoded")?);
    }
    String::from_utf8(bytes).map_err(|_| "user or password is not UTF-8".to_owned())
}

/// TLS 1.2 or 1.3 with whoever these authorities vouch for.
fn trusting(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl Server {
    /// Trusts the authorities of a PEM file as well as those that everybody trusts.
    ///
    /// # Errors
    /// What is wrong with the file's content.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("a certificate cannot be used: {error}"))?;
            count += 1;
        }
        if count == 0 {
            return Err("it holds no certificate in PEM form".to_owned());
        }
        self.trusted = trusting(roots)?;
        Ok(self)
    }

    /// Connects, secures the connection and logs in. TLS is ours and not lettre's, so that one configuration serves
    /// all connections, a transcript shows what was said within it, and a mail costs no 40 ms: lettre's own streams
    /// wait for the answer to a text before they send the dot that ends it.
    pub(super) async fn connect(
        &self,
        transcript: Option<&Transcript>,
    ) -> Result<AsyncSmtpConnection, Failure> {
        let hello = ClientId::default();
        let stream = self.stream(&hello, transcript).await?;
        let failed = |error: smtp::Error| self.redacted(Phase::Connect.failure(&error));
        let mut conn = AsyncSmtpConnection::connect_with_transport(stream, &hello).await.map_err(failed)?;
        if let Some(Login { user, password }) = &self.login {
            let credentials = Credentials::new(user.clone(), password.clone());
            conn.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(failed)?;
        }
        Ok(conn)
    }

    async fn stream(
        &self,
        hello: &ClientId,
        transcript: Option<&Transcript>,
    ) -> Result<Box<dyn AsyncTokioStream>, Failure> {
        let broken = |error: io::Error| temporary(format!("the connection broke: {error}"));
        let (host, port) = (self.host.as_str(), self.port);
        let stream = self
            .tcp()
            .await
            .map_err(|error| temporary(format!("cannot connect to {host}:{port}: {error}")))?;
        let peer = stream.peer_addr().map_err(broken)?;
        if let Some(transcript) = transcript {
            transcript.note(&format!("connected to {host}:{port} ({peer})"));
        }
        let wire = |stream| Wire::new(stream, peer, transcript.cloned());
        match self.tls {
            Tls::None => return Ok(Box::new(wire(stream))),
            Tls::FromTheStart => {
                let stream = self.secure(stream, transcript).await?;
                return Ok(Box::new(Wire::new(stream, peer, transcript.cloned())));
            }
            Tls::Opportunistic | Tls::Required => {}
        }
        // lettre begins with a greeting, which the server gives once: it is read here and read again there.
        let mut wire = wire(stream);
        let greeting = wire.reply().await.map_err(broken)?;
        let offers = greeting.starts_with(b"220")
            && wire.ask(&format!("EHLO {hello}")).await.map_err(broken)?.split(|byte| *byte == b'\n').any(
                |line| line.get(4..).is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS")),
            );
        if offers {
            let reply = wire.ask("STARTTLS").await.map_err(broken)?;
            if !reply.starts_with(b"220") {
                let reply = String::from_utf8_lossy(&reply);
                return Err(temporary(format!("the mail server does not begin TLS: {}", reply.trim())));
            }
            let stream = self.secure(wire.into_inner(), transcript).await?;
            return Ok(Box::new(Wire::new(stream, peer, transcript.cloned()).read_again(greeting)));
        }
        if self.tls == Tls::Required && greeting.starts_with(b"220") {
            let error = format!("{host}:{port} does not offer STARTTLS, and SMTP_URL requires it");
            return Err(Failure::Auth { error });
        }
        Ok(Box::new(wire.read_again(greeting)))
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn secure(
        &self,
        stream: TcpStream,
        transcript: Option<&Transcript>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let host = &self.host;
        let failed = |error: &dyn fmt::Display| {
            temporary(format!("no TLS with {host}: {error} (SMTP_CA_FILE names further authorities)"))
        };
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        let secured = TlsConnector::from(self.trusted.clone()).connect(name, stream).await;
        let stream = secured.map_err(|error| failed(&error))?;
        if let Some(transcript) = transcript {
            let version = stream.get_ref().1.protocol_version();
            transcript.note(&format!("{} with {host}", version.and_then(|it| it.as_str()).unwrap_or("TLS")));
        }
        Ok(stream)
    }

    /// Without what a server may have repeated of the login.
    fn redacted(&self, mut failure: Failure) -> Failure {
        let (Failure::Auth { error } | Failure::Temporary { error, .. } | Failure::Rejected { reply: error }) =
            &mut failure;
        *error = self.without_login(error);
        failure
    }

    /// A text without the password, plain or as a login says it.
    pub(super) fn without_login(&self, text: &str) -> String {
        let Some(Login { user, password }) = &self.login else { return text.to_owned() };
        let plain = STANDARD.encode(format!("\0{user}\0{password}"));
        [&plain, &STANDARD.encode(password), password]
            .into_iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

fn temporary(error: String) -> Failure {
    Failure::Temporary { error: super::shortened(&error), ambiguous: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        text.parse().unwrap()
    }

    #[test]
    fn tls_is_required_unless_the_server_is_this_machine_or_one_says_so() {
        assert!(matches!(server("smtp://mail.example.com"), Server { tls: Tls::Required, port: 587, .. }));
        assert!(matches!(
            server("smtps://mail.example.com"),
            Server { tls: Tls::FromTheStart, port: 465, .. }
        ));
        assert!(matches!(server("smtp://mail:2525?tls=none"), Server { tls: Tls::None, port: 2525, .. }));
        assert!(matches!(server("smtp://mail?tls=opportunistic"), Server { tls: Tls::Opportunistic, .. }));
        for here in ["smtp://127.0.0.1:1025", "smtp://localhost", "smtp://[::1]"] {
            assert!(matches!(server(here), Server { tls: Tls::None, .. }), "{here}");
        }
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let server = server("smtp://ann%40example.com:s%C3%A9cret@mail");
        let login = Login { user: "ann@example.com".into(), password: "sécret".into() };
        assert!(server.login == Some(login));
        assert_eq!(server.without_login("535 sécret c8OpY3JldA== no"), "535 *** *** no");
        assert!(!format!("{server:?}").contains("cret"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("mail.example.com", "write smtp://"),
            ("http://mail", "begins with smtp://"),
            ("smtp://mail?tls=yes", "tls is required"),
            ("smtps://mail?tls=none", "tls is required"),
            ("smtp://mail?starttls=1", "unknown parameter"),
            ("smtp://ann@mail", "no password"),
        ] {
            let error = text.parse::<Server>().unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
