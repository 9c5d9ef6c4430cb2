//! A client of our own processes: plain HTTP, on this machine.

/// One that asks no proxy.
pub fn client() -> reqwest::ClientBuilder {
    // The worker's client brings TLS into reqwest, which wants a provider from then on, also for plain HTTP. Fails only
    // if there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
