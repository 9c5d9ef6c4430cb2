//! The sink as SMTP clients see it: raw sockets for the protocol's corners, lettre for a client as ours is.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lettre::message::MultiPart;
use lettre::transport::smtp::authentication::Credentials as Login;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tools::mail_sink::{Credentials, MailSink, Options};

const SOON: Duration = Duration::from_secs(10);

struct Client<S>(BufReader<S>);

impl Client<TcpStream> {
    /// Connects and says EHLO.
    async fn connect(sink: &MailSink) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(sink.smtp_addr()).await.unwrap()));
        assert_eq!(client.reply().await, "220 localhost mail sink ESMTP\r\n");
        client.ask("EHLO test\r\n", 250).await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// One reply, of one line or several.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = timeout(SOON, self.0.read_line(&mut line))
                .await
                .unwrap_or_else(|_| panic!("no reply in time, after {reply:?}"))
                .unwrap();
            assert_ne!(read, 0, "the connection is closed after {reply:?}");
            reply += &line;
            if line.as_bytes().get(3) == Some(&b' ') {
                return reply;
            }
        }
    }

    async fn ask(&mut self, command: impl AsRef<[u8]>, code: u16) -> String {
        self.send(&command).await;
        let reply = self.reply().await;
        assert!(reply.starts_with(&code.to_string()), "{}{reply}", String::from_utf8_lossy(command.as_ref()));
        reply
    }

    async fn begin(&mut self, to: &str) {
        self.ask("MAIL FROM:<from@example.com>\r\n", 250).await;
        self.ask(format!("RCPT TO:<{to}>\r\n"), 250).await;
        self.ask("DATA\r\n", 354).await;
    }

    async fn deliver(&mut self, to: &str, subject: &str) {
        self.begin(to).await;
        self.ask(format!("Subject: {subject}\r\n\r\nHello\r\n.\r\n"), 250).await;
    }
}

async fn sink() -> MailSink {
    MailSink::start(Options::default()).await.unwrap()
}

async fn locked_sink() -> MailSink {
    let credentials = Some(Credentials { user: "ann".into(), password: "secret".into() });
    MailSink::start(Options { credentials, ..Options::default() }).await.unwrap()
}

fn plain(user: &str, password: &str) -> String {
    BASE64_STANDARD.encode(format!("\0{user}\0{password}"))
}

#[tokio::test]
async fn pipelined_mails_arrive_in_order() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    let mut all = String::new();
    for number in 0..3 {
        all += &format!(
            "MAIL FROM:<from@example.com>\r\nRCPT TO:<ann@example.com>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n\
             Subject: {number}\r\n\r\nHello\r\n.\r\n"
        );
    }
    client.send(all + "QUIT\r\n").await;
    for _ in 0..3 {
        for code in ["250", "250", "250", "354", "250"] {
            let reply = client.reply().await;
            assert!(reply.starts_with(code), "{reply}");
        }
    }
    assert!(client.reply().await.starts_with("221"));

    let messages = sink.messages();
    let subjects: Vec<&str> = messages.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects, ["0", "1", "2"]);
    assert_eq!(messages[0].envelope.from, "from@example.com");
    assert_eq!(messages[0].envelope.to, ["ann@example.com", "bob@example.com"]);
    assert!(
        messages.windows(2).all(|pair| pair[0].arrived_at <= pair[1].arrived_at && pair[0].id < pair[1].id)
    );
}

#[tokio::test]
async fn the_bytes_are_kept_as_sent_without_the_stuffed_dots() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    client.begin("ann@example.com").await;
    // Neither "\n.\n" nor "\n.\r\n" nor "\r.\r\n" ends a mail, else a second one could be smuggled in.
    let sent = b"Subject: dots\r\n\r\n..\r\n..a\r\n.b\r\nbare\n.\nbare\n.\r\nbare\r.\r\n\xff\0\r\n.\r\n";
    client.ask(sent, 250).await;
    let kept = b"Subject: dots\r\n\r\n.\r\n.a\r\nb\r\nbare\n.\nbare\n.\r\nbare\r.\r\n\xff\0\r\n";
    assert_eq!(sink.messages()[0].raw, kept);
}

#[tokio::test]
async fn recipients_fail_on_purpose_and_others_of_the_same_mail_do_not() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    client.ask("MAIL FROM:<from@example.com>\r\n", 250).await;
    client.ask("RCPT TO:<bounce@example.com>\r\n", 550).await;
    client.ask("RCPT TO:<TempFail+3@example.com>\r\n", 451).await;
    client.ask("DATA\r\n", 503).await;
    client.ask("RCPT TO:<ann@example.com>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    client.ask("Subject: a\r\n\r\n.\r\n", 250).await;
    assert_eq!(sink.messages()[0].envelope.to, ["ann@example.com"]);
}

#[tokio::test]
async fn a_slow_recipient_is_answered_late_though_the_mail_is_there() {
    let slow_for = Duration::from_millis(300);
    let sink = MailSink::start(Options { slow_for, ..Options::default() }).await.unwrap();
    let mut client = Client::connect(&sink).await;
    client.begin("slow@example.com").await;
    let sent_at = std::time::Instant::now();
    client.send("Subject: slow\r\n\r\n.\r\n").await;
    sink.wait_for_count(1, SOON).await.unwrap();
    assert!(client.reply().await.starts_with("250"));
    assert!(sent_at.elapsed() >= slow_for);
}

#[tokio::test]
async fn a_silent_recipient_is_never_answered_and_others_go_on() {
    let sink = sink().await;
    let mut silent = Client::connect(&sink).await;
    silent.begin("silent@example.com").await;
    silent.send("Subject: silent\r\n\r\n.\r\nNOOP\r\n").await;

    let mut client = Client::connect(&sink).await;
    client.deliver("ann@example.com", "heard").await;
    let mut byte = [0];
    assert!(
        timeout(Duration::from_millis(200), silent.0.read(&mut byte)).await.is_err(),
        "something was answered"
    );
    assert_eq!(sink.messages().len(), 1);

    drop(silent);
    timeout(SOON, sink.stop()).await.expect("a silent connection keeps the sink from stopping");
}

#[tokio::test]
async fn a_mail_over_the_limit_is_refused_and_the_next_is_taken() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    let limit = Options::default().max_size;
    let line = "x".repeat(998) + "\r\n";

    client.begin("ann@example.com").await;
    client.ask(line.repeat(limit / 1000 + 1) + ".\r\n", 552).await;
    // One line as long as that, with what looks like the end of the mail right behind the limit.
    client.begin("ann@example.com").await;
    client.ask("y".repeat(limit + 4) + ".\r\nz\r\n.\r\n", 552).await;
    assert!(sink.messages().is_empty());

    let exact = line.repeat(limit / 1000) + &"z".repeat(limit % 1000 - 2) + "\r\n";
    client.begin("ann@example.com").await;
    client.ask(exact.clone() + ".\r\n", 250).await;
    assert_eq!(sink.messages()[0].raw.len(), limit);
    client.deliver("ann@example.com", "after").await;
    assert_eq!(sink.messages().len(), 2);
}

#[tokio::test]
async fn nonsense_is_answered_and_survived() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    client.ask("\r\n", 500).await;
    client.ask("\u{0}\u{1}bäh\r\n", 500).await;
    client.ask("RCPT TO:<ann@example.com>\r\n", 503).await;
    client.ask("DATA\r\n", 503).await;
    client.ask("x".repeat(100_000) + "\r\n", 500).await;
    client.ask("MAIL FROM:<from@example.com>\r\n", 250).await;
    client.ask("RSET\r\n", 250).await;
    client.deliver("ann@example.com", "still here").await;
}

#[tokio::test]
async fn a_login_is_taken_where_none_is_required() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    assert!(client.ask("EHLO test\r\n", 250).await.contains("250-AUTH PLAIN LOGIN\r\n"));
    client.deliver("ann@example.com", "without").await;
    client.ask(format!("AUTH PLAIN {}\r\n", plain("ann", "whatever")), 235).await;
    client.ask("RSET\r\n", 250).await;
    client.deliver("ann@example.com", "with").await;
    client.deliver("ann@example.com", "again").await;
    let messages = sink.messages();
    let users: Vec<_> = messages.iter().map(|message| message.envelope.user.as_deref()).collect();
    assert_eq!(users, [None, Some("ann"), Some("ann")]);
}

#[tokio::test]
async fn a_required_login_is_required() {
    let sink = locked_sink().await;
    let mut client = Client::connect(&sink).await;
    client.ask("MAIL FROM:<from@example.com>\r\n", 530).await;
    client.ask(format!("AUTH PLAIN {}\r\n", plain("ann", "wrong")), 535).await;
    client.ask("MAIL FROM:<from@example.com>\r\n", 530).await;
    client.ask("AUTH PLAIN\r\n", 334).await;
    client.ask("*\r\n", 501).await;
    client.ask("AUTH PLAIN\r\n", 334).await;
    client.ask("no base64!\r\n", 500).await;
    client.ask("AUTH PLAIN\r\n", 334).await;
    client.ask(plain("ann", "secret") + "\r\n", 235).await;
    client.ask("AUTH PLAIN\r\n", 503).await;
    client.ask("RSET\r\n", 250).await;
    client.deliver("ann@example.com", "plain").await;
    client.ask("EHLO test\r\n", 250).await;
    client.deliver("ann@example.com", "after another EHLO").await;

    let mut client = Client::connect(&sink).await;
    assert_eq!(client.ask("AUTH LOGIN\r\n", 334).await, "334 VXNlcm5hbWU6\r\n");
    client.ask(BASE64_STANDARD.encode("ann") + "\r\n", 334).await;
    client.ask(BASE64_STANDARD.encode("wrong") + "\r\n", 535).await;
    client.ask(format!("AUTH LOGIN {}\r\n", BASE64_STANDARD.encode("ann")), 334).await;
    client.ask(BASE64_STANDARD.encode("secret") + "\r\n", 235).await;
    client.deliver("ann@example.com", "login").await;
    assert_eq!(sink.messages().len(), 3);
}

#[tokio::test]
async fn starttls_begins_anew_and_forgets_what_came_in_the_clear() {
    let sink = locked_sink().await;
    let mut client = Client::connect(&sink).await;
    assert!(client.ask("EHLO test\r\n", 250).await.contains("STARTTLS"));
    client.ask(format!("AUTH PLAIN {}\r\n", plain("ann", "secret")), 235).await;
    // The NOOP in the clear must not be answered over TLS (RFC 3207 §4.2).
    client.ask("STARTTLS\r\nNOOP\r\n", 220).await;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(sink.certificate_pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = timeout(SOON, connector.connect(name, client.0.into_inner())).await.unwrap().unwrap();

    let mut client = Client(BufReader::new(stream));
    let extensions = client.ask("EHLO test\r\n", 250).await;
    assert!(extensions.starts_with("250-") && !extensions.contains("STARTTLS"), "{extensions}");
    client.ask("STARTTLS\r\n", 503).await;
    client.ask("MAIL FROM:<from@example.com>\r\n", 530).await;
    client.ask(format!("AUTH PLAIN {}\r\n", plain("ann", "secret")), 235).await;
    client.deliver("ann@example.com", "over TLS").await;
    assert_eq!(sink.messages()[0].subject, "over TLS");
}

#[tokio::test]
async fn lettre_sends_with_starttls_login_and_a_pool() {
    let sink = locked_sink().await;
    let certificate = Certificate::from_pem(sink.certificate_pem().as_bytes()).unwrap();
    let tls = TlsParameters::builder("localhost".to_owned())
        .add_root_certificate(certificate)
        .build_rustls()
        .unwrap();
    let transport = |password: &str| {
        AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1")
            .port(sink.smtp_addr().port())
            .tls(Tls::Required(tls.clone()))
            .credentials(Login::new("ann".to_owned(), password.to_owned()))
            .build()
    };
    let mail = || {
        lettre::Message::builder()
            .from("TaskTracker <noreply@example.com>".parse().unwrap())
            .to("Jürgen <jurgen@example.com>".parse().unwrap())
            .subject("Größe 📦")
            .multipart(MultiPart::alternative_plain_html(
                ".\r\nfällig".to_owned(),
                "<p>fällig</p>".to_owned(),
            ))
            .unwrap()
    };
    let right = transport("secret");
    for _ in 0..3 {
        right.send(mail()).await.unwrap();
    }
    let error = transport("wrong").send(mail()).await.unwrap_err();
    assert_eq!(error.status().map(|code| code.to_string()).as_deref(), Some("535"), "{error}");

    let messages = sink.wait_for_count(3, SOON).await.unwrap();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[0].subject, "Größe 📦");
    assert_eq!(messages[0].to[0].name, "Jürgen");
    assert_eq!(messages[0].text.trim_end(), ".\r\nfällig");
    assert_eq!(messages[0].html.trim_end(), "<p>fällig</p>");
    assert_eq!(messages[0].envelope.user.as_deref(), Some("ann"));
}

#[tokio::test]
async fn waiting_ends_with_the_mail_or_says_what_came() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    let (found, ()) = tokio::join!(
        sink.wait_for(|messages| messages.iter().any(|message| message.subject == "second"), SOON),
        async {
            client.deliver("ann@example.com", "first").await;
            client.deliver("ann@example.com", "second").await;
        }
    );
    assert_eq!(found.unwrap().len(), 2);
    let error = sink.wait_for_count(3, Duration::from_millis(20)).await.unwrap_err().to_string();
    assert!(error.contains("2 came:") && error.contains("to ann@example.com: second"), "{error}");
    sink.clear();
    assert!(sink.messages().is_empty());
}

#[tokio::test]
async fn stopping_tells_clients_and_frees_the_ports() {
    let sink = sink().await;
    let (smtp, http) = (sink.smtp_addr(), sink.http_addr());
    let mut client = Client::connect(&sink).await;
    let taken = MailSink::start(Options { smtp, ..Options::default() }).await.unwrap_err().to_string();
    assert!(taken.starts_with(&format!("cannot listen on {smtp} for SMTP; ")), "{taken}");
    timeout(SOON, sink.stop()).await.expect("did not stop");
    assert!(client.reply().await.starts_with("421"));
    MailSink::start(Options { smtp, http, ..Options::default() }).await.unwrap();
}

#[tokio::test]
async fn a_dropped_sink_stops() {
    let sink = sink().await;
    let mut client = Client::connect(&sink).await;
    drop(sink);
    assert!(client.reply().await.starts_with("421"));
}
