use std::{fmt, str::FromStr, time::Duration};

use lettre::transport::smtp::{
    self,
    authentication::{Credentials, DEFAULT_MECHANISMS},
    client::{AsyncSmtpConnection, TlsParameters},
    extension::ClientId,
};
use tokio::{net::TcpStream, time::timeout};

use super::{Failure, Phase};

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
    credentials: Option<Credentials>,
}

#[derive(Clone)]
enum Tls {
    None,
    Opportunistic(TlsParameters),
    Required(TlsParameters),
    FromTheStart(TlsParameters),
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
        let parameters = || TlsParameters::new(host.clone()).map_err(|error| error.to_string());
        let (tls, port) = match (url.scheme(), wanted.as_deref()) {
            ("smtps", None | Some("required")) => (Tls::FromTheStart(parameters()?), 465),
            ("smtp", Some("required")) => (Tls::Required(parameters()?), 587),
            ("smtp", Some("opportunistic")) => (Tls::Opportunistic(parameters()?), 587),
            ("smtp", Some("none")) => (Tls::None, 25),
            ("smtp", None) if here => (Tls::None, 25),
            ("smtp", None) => (Tls::Required(parameters()?), 587),
            ("smtp" | "smtps", Some(_)) => {
                return Err("tls is required, opportunistic or none; smtps is always required".to_owned());
            }
            _ => return Err("it begins with smtp:// or smtps://".to_owned()),
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) => Some(Credentials::new(decoded(user)?, decoded(password)?)),
            (_, None) => return Err("it has a user and no password".to_owned()),
        };
        Ok(Self { port: url.port().unwrap_or(port), host, tls, credentials })
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

impl Server {
    /// Connects, secures the connection and logs in.
    pub(super) async fn connect(&self) -> Result<AsyncSmtpConnection, Failure> {
        let hello = ClientId::default();
        let mut conn = match &self.tls {
            Tls::FromTheStart(parameters) => {
                let address = (self.host.as_str(), self.port);
                AsyncSmtpConnection::connect_tokio1(
                    address,
                    Some(CONNECT),
                    &hello,
                    Some(parameters.clone()),
                    None,
                )
                .await
            }
            _ => AsyncSmtpConnection::connect_with_transport(Box::new(self.stream().await?), &hello).await,
        }
        .map_err(failed)?;
        match &self.tls {
            Tls::Required(parameters) => conn.starttls(parameters.clone(), &hello).await.map_err(failed)?,
            Tls::Opportunistic(parameters) if conn.can_starttls() => {
                conn.starttls(parameters.clone(), &hello).await.map_err(failed)?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            conn.auth(DEFAULT_MECHANISMS, credentials).await.map_err(failed)?;
        }
        Ok(conn)
    }

    /// A stream that sends what it is given at once. lettre's own waits for the answer to the text before it sends the
    /// dot that ends it, which costs every mail the 40 ms by which the other side may delay that answer.
    async fn stream(&self) -> Result<TcpStream, Failure> {
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let connected: std::io::Result<_> =
            timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        connected.map_err(|error| Failure::Temporary {
            error: format!("cannot connect to {}:{}: {error}", self.host, self.port),
            ambiguous: false,
        })
    }
}

fn failed(error: smtp::Error) -> Failure {
    Phase::Connect.failure(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        text.parse().unwrap()
    }

    #[test]
    fn tls_is_required_unless_the_server_is_this_machine_or_one_says_so() {
        assert!(matches!(server("smtp://mail.example.com"), Server { tls: Tls::Required(_), port: 587, .. }));
        assert!(matches!(
            server("smtps://mail.example.com"),
            Server { tls: Tls::FromTheStart(_), port: 465, .. }
        ));
        assert!(matches!(server("smtp://mail:2525?tls=none"), Server { tls: Tls::None, port: 2525, .. }));
        assert!(matches!(server("smtp://mail?tls=opportunistic"), Server { tls: Tls::Opportunistic(_), .. }));
        for here in ["smtp://127.0.0.1:1025", "smtp://localhost", "smtp://[::1]"] {
            assert!(matches!(server(here), Server { tls: Tls::None, .. }), "{here}");
        }
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let server = server("smtp://ann%40example.com:s%C3%A9cret@mail");
        assert_eq!(server.credentials, Some(Credentials::new("ann@example.com".into(), "sécret".into())));
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
