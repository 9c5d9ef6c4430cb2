//! Where webhooks may go: the URL when an endpoint is made and before every attempt, and the addresses that its host
//! resolves to at every attempt. Nothing here resolves a name or connects: `worker/src/http.rs` does.

mod address;

use std::{fmt, net::IpAddr, str::FromStr};

pub use address::is_global_unicast;
use ipnet::IpNet;
use url::{Host, Url};

/// The longest URL, in bytes.
pub const MAX_URL: usize = 2048;

/// Networks that endpoints of admins may reach although they are not public (`WEBHOOK_ALLOW_CIDRS`). Of what answers
/// from there only the status is kept.
#[derive(Debug, Clone, Default)]
pub struct AllowList(Vec<IpNet>);

impl AllowList {
    /// These networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// Whether it allows nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names this address. One that is mapped into IPv6 counts as the IPv4 address that it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// What the operator lets webhooks reach.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// For endpoints of admins.
    pub allow: AllowList,
    /// Ports beside 80 and 443 (`WEBHOOK_PORTS`).
    pub ports: Vec<u16>,
}

/// Whose endpoint it is, as far as that decides where it may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Public addresses only.
    User,
    /// Also what [`Reach::allow`] names.
    Admin,
}

impl Reach {
    /// Whether an endpoint of this owner may connect to `address`.
    pub fn allows(&self, owner: Owner, address: IpAddr) -> bool {
        is_global_unicast(address) || (owner == Owner::Admin && self.allow.contains(address))
    }

    /// Reads a URL as the target of an endpoint. Addresses in it are checked in every form that browsers know
    /// (`2130706433`, `0x7f.1`, `[::ffff:127.0.0.1]`); what a name resolves to is checked at every attempt.
    ///
    /// # Errors
    /// What is wrong, in a sentence for whoever wrote it.
    pub fn target(&self, text: &str, owner: Owner) -> Result<Target, TargetError> {
        if text.len() > MAX_URL {
            return Err(TargetError::TooLong);
        }
        // The URL standard drops these silently, and then it is not what somebody wrote.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(TargetError::Whitespace);
        }
        let url = Url::parse(text).map_err(TargetError::Unreadable)?;
        if url.as_str().len() > MAX_URL {
            return Err(TargetError::TooLong);
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TargetError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !matches!(port, 80 | 443) && !self.ports.contains(&port) {
            return Err(TargetError::Port { port, allowed: self.ports.clone() });
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(name)) if is_localhost(name) => {
                // RFC 6761 §6.3: it is this machine, whatever a resolver says.
                let loopback = IpAddr::from([127, 0, 0, 1]);
                if self.allows(owner, loopback) { None } else { Some(loopback) }
            }
            Some(Host::Domain(_)) => None,
            None => return Err(TargetError::Unreadable(url::ParseError::EmptyHost)),
        };
        match address {
            Some(address) if !self.allows(owner, address) => Err(TargetError::NotPublic(address)),
            _ => Ok(Target(url)),
        }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// A URL that webhooks may be sent to, in the one form in which it is stored and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Url);

impl Target {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The URL as text, at most [`MAX_URL`] bytes.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Why a URL cannot be the target of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// Longer than [`MAX_URL`].
    TooLong,
    /// With spaces, line breaks or control characters.
    Whitespace,
    /// Not a URL.
    Unreadable(url::ParseError),
    /// Neither http nor https.
    Scheme,
    /// With a user name or a password.
    Credentials,
    /// With a `#`.
    Fragment,
    /// On a port that is not allowed.
    Port {
        /// The port.
        port: u16,
        /// What the operator allows beside 80 and 443.
        allowed: Vec<u16>,
    },
    /// An address that is not public.
    NotPublic(IpAddr),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "A URL may have {MAX_URL} bytes."),
            Self::Whitespace => {
                write!(f, "A URL has no spaces, line breaks or control characters; write a space as %20.")
            }
            Self::Unreadable(error) => {
                write!(f, "This is not a URL ({error}); write it as https://example.com/hook.")
            }
            Self::Scheme => write!(f, "The URL begins with https:// or http://."),
            Self::Credentials => write!(
                f,
                "The URL may not have a user name or a password; check the signature of what arrives instead."
            ),
            Self::Fragment => {
                write!(f, "The part from # on never leaves this side; leave it out, or write %23.")
            }
            Self::Port { port, allowed } => {
                write!(f, "Port {port} is not allowed; the ports are 80, 443")?;
                for port in allowed {
                    write!(f, ", {port}")?;
                }
                write!(f, ".")
            }
            Self::NotPublic(address) => write!(
                f,
                "{address} is not an address on the public internet; webhooks go to public addresses only."
            ),
        }
    }
}

impl std::error::Error for TargetError {}

/// A network, as the operator writes it: `10.1.0.0/16`, or an address alone.
///
/// # Errors
/// The form that was expected.
pub fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| IpAddr::from_str(text).ok().map(IpNet::from));
    network.ok_or_else(|| format!("{text:?} is not a network such as 10.1.0.0/16 or fd00:1::/64"))
}

#[cfg(test)]
mod tests;
