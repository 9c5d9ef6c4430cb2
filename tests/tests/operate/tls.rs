use std::{
    fs::Permissions,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use chaos::cluster::PostgresServer;
use common::{
    clock::Clock,
    config::RedisServer,
    db::{Db, PoolOptions, RunQueryDsl as _, run_migrations},
    dispatcher::Outbox,
    testing::setting,
};
use diesel::{QueryableByName, sql_types::Bool};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// An authority that nobody knows but who is told.
pub(crate) fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, uuid::Uuid::now_v7().to_string());
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name or an address, good from 2020 to a year, and its key, as PEM.
pub(crate) fn identity(authority: &Authority, name: &str, until: i32) -> (String, String) {
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    (parameters.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// What is wrong with the certificate of each, and how the error says so.
fn bad_identities(authority: &Authority, name: &str) -> [((String, String), &'static str); 3] {
    [
        (identity(authority, "db.example.com", 2100), "not valid for name"),
        (identity(authority, name, 2021), "expired"),
        (identity(&self::authority(), name, 2100), "UnknownIssuer"),
    ]
}

/// A folder that the server's user may pass through.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tt-tls-").permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
}

/// A PostgreSQL that listens on an address of its own, with this certificate.
async fn serve(server: &mut PostgresServer, address: Ipv4Addr, (certificate, key): &(String, String)) {
    server.crash().await;
    let certificate = server.put("server.crt", certificate);
    let key = server.put("server.key", key);
    let settings = [
        format!("listen_addresses={address}"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    server.start_with(&settings).await;
}

/// Whether a connection by this URL is encrypted.
async fn is_encrypted(url: &str) -> Result<bool, String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        ssl: bool,
    }

    let said = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    };
    let db = Db::new(url, PoolOptions::default(), Clock::Database, Outbox::default())
        .map_err(|error| format!("{error:#}"))?;
    let mut conn = db.conn().await.map_err(|error| said(&error))?;
    let row: Row = diesel::sql_query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .get_result(&mut conn)
        .await
        .map_err(|error| said(&error))?;
    Ok(row.ssl)
}

/// The application's connections and those of migrations are encrypted, and the certificate is checked, under each of libpq's
/// words for it.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_reached_by_tls_and_its_certificate_is_checked() {
    let folder = folder();
    let mut server = PostgresServer::start(folder.path()).await;
    // An address of this test's own: the port is the same for all.
    let address = Ipv4Addr::new(127, 77, rand::random(), rand::random_range(1..=254));
    let known = authority();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, known.pem()).unwrap();
    let url = |role: &str, query: &str| format!("postgres://{role}@{address}/postgres?{query}");
    let trusting = |mode: &str| format!("sslmode={mode}&sslrootcert={}", file.display());

    serve(&mut server, address, &identity(&known, &address.to_string(), 2100)).await;
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        assert_eq!(is_encrypted(&url("tasktracker_app", &trusting(mode))).await, Ok(true), "{mode}");
    }
    run_migrations(&url("postgres", &trusting("verify-full"))).await.unwrap();
    let stranger = is_encrypted(&url("tasktracker_app", "sslmode=require")).await.unwrap_err();
    assert!(
        stranger.contains("UnknownIssuer"),
        "without sslrootcert only public authorities count: {stranger}"
    );

    for (identity, why) in bad_identities(&known, &address.to_string()) {
        serve(&mut server, address, &identity).await;
        let refused = is_encrypted(&url("tasktracker_app", &trusting("verify-full"))).await.unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }

    server.crash().await;
    server.start_with(&[format!("listen_addresses={address}")]).await;
    let plain = is_encrypted(&url("tasktracker_app", &trusting("require"))).await.unwrap_err();
    assert!(plain.contains("TLS"), "a server without TLS is refused: {plain}");
}

/// TLS in front of the tests' Redis, with this certificate.
pub(crate) async fn terminator((certificate, key): &(String, String)) -> SocketAddr {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates.unwrap(), key)
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = setting("TEST_REDIS_URL").replace("redis+unix://", "");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let mut outer = acceptor.accept(stream).await?;
                let mut inner = UnixStream::connect(&socket).await?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await?;
                io::Result::Ok(())
            });
        }
    });
    address
}

/// Asks a Redis something, with the settings that an operator gives.
async fn ping(address: SocketAddr, authority: Option<&Path>) -> Result<String, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = RedisServer {
        redis_url: format!("rediss://{address}").into(),
        redis_ca_file: authority.map(Path::to_owned),
        redis_prefix: "tls".to_owned(),
        cache_seconds: 0,
    };
    let redis = server.open().map_err(|error| format!("{error:#}"))?;
    redis::cmd("PING").query_async(&mut redis.queue()).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn redis_is_reached_by_tls_and_its_certificate_is_checked() {
    let folder = folder();
    let known = authority();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, known.pem()).unwrap();
    let good = terminator(&identity(&known, "127.0.0.1", 2100)).await;
    assert_eq!(ping(good, Some(&file)).await.as_deref(), Ok("PONG"));
    let stranger = ping(good, None).await.unwrap_err();
    assert!(
        stranger.contains("UnknownIssuer"),
        "without REDIS_CA_FILE only public authorities count: {stranger}"
    );
    let missing = ping(good, Some(Path::new("/nowhere/ca.pem"))).await.unwrap_err();
    assert!(missing.contains("REDIS_CA_FILE") && missing.contains("/nowhere/ca.pem"), "{missing}");
}

/// Each is refused, and the error says what is wrong with it.
#[tokio::test]
async fn a_redis_with_a_bad_certificate_is_refused_with_the_reason() {
    let folder = folder();
    let known = authority();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, known.pem()).unwrap();
    for (identity, why) in bad_identities(&known, "127.0.0.1") {
        let address = terminator(&identity).await;
        let refused = ping(address, Some(&file)).await.unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }
}
