use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use common::credentials::Client;
use ipnet::IpNet;

use crate::{error::Result, state::AppState};

/// Where a request came from. Behind proxies that are trusted it is the last address that none of them has, as far as
/// what they wrote can be read: what stands before a hop that cannot be read may be the client's own invention. Only
/// `X-Forwarded-For` is read, as a proxy that writes one header passes the client's `Forwarded` (RFC 7239) on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(pub(crate) IpAddr);

impl FromRequestParts<AppState> for Address {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip());
        let headers = parts.headers.get_all("x-forwarded-for").iter();
        let hops: Vec<&str> =
            headers.flat_map(|value| value.to_str().unwrap_or_default().split(',')).collect();
        Ok(Self::behind(&app.settings.http.trusted_proxies, peer, &hops))
    }
}

impl Address {
    fn behind(trusted: &[IpNet], peer: IpAddr, hops: &[&str]) -> Self {
        // A socket for both families gives IPv4 as ::ffff:….
        let mut address = peer.to_canonical();
        let mut hops = hops.iter().rev();
        while trusted.iter().any(|network| network.contains(&address)) {
            let Some(hop) = hops.next().and_then(|hop| hop_address(hop.trim())) else { break };
            address = hop.to_canonical();
        }
        Self(address)
    }

    /// What is kept of the client with a session.
    pub(crate) fn client(self, app: &AppState, headers: &HeaderMap) -> Client {
        let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Client {
            user_agent: user_agent.map(|text| text.chars().take(200).collect()),
            ip_hash: self.hash(app),
        }
    }

    /// The address under a key of this installation: it can be told whether two are the same, and not what they are.
    pub(crate) fn hash(self, app: &AppState) -> Option<Vec<u8>> {
        app.ip_keys.first().map(|key| key.sign(self.0.to_string().as_bytes()).to_vec())
    }
}

/// The address of a hop, which some proxies write with a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_last_that_no_trusted_proxy_has() {
        let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let behind =
            |peer: &str, hops: &[&str]| Address::behind(&trusted, peer.parse().unwrap(), hops).0.to_string();
        assert_eq!(
            behind("192.0.2.1", &["198.51.100.1"]),
            "192.0.2.1",
            "a peer that is not trusted is the client"
        );
        assert_eq!(behind("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.1", " 192.0.2.1"]), "192.0.2.1");
        assert_eq!(behind("::ffff:10.0.0.1", &["192.0.2.1", "fd00::1"]), "192.0.2.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.1", "192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(behind("10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        for unreadable in ["unknown", "", "_hidden", "192.0.2.1:port"] {
            assert_eq!(behind("10.0.0.1", &["198.51.100.1", unreadable]), "10.0.0.1", "{unreadable}");
        }
        assert_eq!(behind("10.0.0.1", &["10.0.0.3", "10.0.0.2"]), "10.0.0.3", "a client inside");
    }
}
