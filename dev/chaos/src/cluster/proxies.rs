use std::net::SocketAddr;

use url::Url;

use super::{PostgresServer, RedisServer, ports};
use crate::proxy::{Proxy, Upstream};

/// What stands between the processes of a cluster and its servers. The cluster's own pool and its own connection to
/// Redis go the same way.
pub struct Proxies {
    /// Before PostgreSQL.
    pub postgres: Proxy,
    /// Before Redis.
    pub redis: Proxy,
    /// Before the mail sink.
    pub mail: Proxy,
}

impl Proxies {
    pub(super) async fn start(postgres: &PostgresServer, redis: &RedisServer, mail: SocketAddr) -> Self {
        Self {
            postgres: start(Upstream::Unix(postgres.socket())).await,
            redis: start(Upstream::Unix(redis.socket())).await,
            mail: start(Upstream::Tcp(mail)).await,
        }
    }

    /// `url` by way of the proxy.
    pub(super) fn database_url(&self, url: &str) -> String {
        let url: Url = url.parse().expect("the URL of a database is a URL");
        let (user, database) = (url.username(), url.path());
        format!("postgres://{user}@{}{database}", self.postgres.address())
    }

    pub(super) fn redis_url(&self) -> String {
        format!("redis://{}", self.redis.address())
    }
}

async fn start(upstream: Upstream) -> Proxy {
    Proxy::start(ports::free(), upstream).await.expect("a free port")
}
