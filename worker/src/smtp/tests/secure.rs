//! TLS and the login, against a server with certificates of an authority of ours.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tools::mail_sink::{Identity, MailSink, Options};

use super::*;

/// An authority that nobody knows but who is told.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    named_authority("Tests")
}

fn named_authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// What a server shows: a certificate for a name, good from 2020 to a year.
fn identity(authority: &CertifiedIssuer<'static, KeyPair>, name: &str, until: i32) -> Identity {
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    Identity { certificates: certificate.pem(), key: key.serialize_pem() }
}

async fn sink(implicit_tls: bool, identity: Identity) -> MailSink {
    let credentials = Some("ann:secret".parse().unwrap());
    let options = Options { implicit_tls, credentials, identity: Some(identity), ..Options::default() };
    MailSink::start(options).await.unwrap()
}

/// `localhost`, by a name that a certificate can have.
fn server(scheme: &str, sink: &MailSink, query: &str, authority: &CertifiedIssuer<'static, KeyPair>) -> Smtp {
    let url = format!("{scheme}://ann:secret@localhost:{}{query}", sink.smtp_addr().port());
    let server: Server = url.parse().unwrap();
    let server = server.trusting(authority.pem().as_bytes()).unwrap();
    Smtp::with_limit(server, "TaskTracker <tasktracker@example.com>".parse().unwrap(), LIMIT)
}

#[tokio::test]
async fn a_mail_leaves_by_every_mode_of_tls_and_logs_in() {
    let authority = authority();
    for (scheme, query, implicit, within) in [
        ("smtp", "?tls=none", false, false),
        ("smtp", "?tls=opportunistic", false, true),
        ("smtp", "?tls=required", false, true),
        ("smtps", "", true, true),
    ] {
        let sink = sink(implicit, identity(&authority, "localhost", 2100)).await;
        let smtp = server(scheme, &sink, query, &authority);
        let reply = smtp.send("ann@example.com", &mail("one"), &header()).await.unwrap();
        assert!(reply.starts_with("250"), "{reply}");
        // The same connection again, and one with a transcript.
        smtp.send("ann@example.com", &mail("two"), &header()).await.unwrap();
        let (sent, transcript) = smtp.try_out("ann@example.com", &mail("three"), &header()).await;
        sent.unwrap();
        let said = transcript.join("\n");
        assert_eq!(said.contains("-- TLSv1_3 with localhost"), within, "{said}");
        assert!(said.contains("C: AUTH PLAIN ***") && said.contains("S: 235"), "{said}");
        assert!(!said.contains("secret") && !said.contains("AGFubgBzZWNyZXQ"), "{said}");
        assert!(said.contains("C: (the mail, ") && !said.contains("three"), "{said}");
        let subjects: Vec<String> = sink.messages().iter().map(|mail| mail.subject.clone()).collect();
        assert_eq!(subjects, ["one", "two", "three"], "{scheme}{query}");
        assert!(sink.messages().iter().all(|mail| mail.envelope.user.as_deref() == Some("ann")));
    }
}

/// Each is said clearly, is tried again later, and sends nothing, not even the password.
#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_with_the_reason() {
    let (authority, stranger) = (authority(), named_authority("Strangers"));
    for (identity, why) in [
        (identity(&authority, "mail.example.com", 2100), "mail.example.com"),
        (identity(&authority, "localhost", 2021), "expired"),
        (identity(&stranger, "localhost", 2100), "UnknownIssuer"),
    ] {
        for (scheme, query, implicit) in
            [("smtp", "?tls=required", false), ("smtp", "?tls=opportunistic", false), ("smtps", "", true)]
        {
            let sink = sink(implicit, identity.clone()).await;
            let smtp = server(scheme, &sink, query, &authority);
            let Failure::Temporary { error, ambiguous: false } =
                smtp.open("ann@example.com").await.err().unwrap()
            else {
                panic!("{scheme}{query}: {why}")
            };
            assert!(error.starts_with("no TLS with localhost: ") && error.contains(why), "{error}");
            assert!(error.contains("SMTP_CA_FILE") && !error.contains("secret"), "{error}");
            assert!(sink.messages().is_empty());
        }
    }
}

#[tokio::test]
async fn without_starttls_nothing_is_said_in_the_clear_if_it_is_required() {
    let authority = authority();
    let options = Options { starttls: false, ..Options::default() };
    let sink = MailSink::start(options).await.unwrap();
    let failure =
        server("smtp", &sink, "?tls=required", &authority).open("ann@example.com").await.err().unwrap();
    let Failure::Auth { error } = failure else { panic!("{failure:?}") };
    assert!(error.contains("does not offer STARTTLS"), "{error}");
    server("smtp", &sink, "?tls=opportunistic", &authority)
        .send("ann@example.com", &mail("one"), &header())
        .await
        .unwrap();
    assert_eq!(sink.messages().len(), 1);
}

#[test]
fn authorities_that_cannot_be_read_are_refused_with_the_reason() {
    let server: Server = "smtps://mail.example.com".parse().unwrap();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, why) in
        [("", "holds no certificate"), ("nonsense", "holds no certificate"), (bad, "cannot be used")]
    {
        let error = server.clone().trusting(pem.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

/// R26 of the goals: whatever a server is silent about, the slot is free again when the limit is over.
#[tokio::test]
async fn a_silent_server_holds_a_mail_no_longer_than_the_limit() {
    let limit = Duration::from_millis(400);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // It accepts by its backlog, and never says a word.
    for scheme in ["smtp", "smtps"] {
        for query in if scheme == "smtp" { &["?tls=none", "?tls=required"][..] } else { &[""] } {
            let smtp = smtp(&format!("{scheme}://localhost:{port}{query}"), limit);
            for probing in [false, true] {
                let started = Instant::now();
                let failure = if probing {
                    smtp.probe().await.err().unwrap()
                } else {
                    smtp.send("ann@example.com", &mail("one"), &header()).await.unwrap_err()
                };
                assert!(matches!(failure, Failure::Temporary { ambiguous: false, .. }), "{failure:?}");
                assert!(started.elapsed() < limit * 5, "{:?}", started.elapsed());
            }
        }
    }
    drop(listener);
}
