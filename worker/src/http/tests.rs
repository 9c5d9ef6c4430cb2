//! R20 and R21 at the wire: a listener counts the connections that a refused request must not make.
#![cfg(feature = "testing")]

use std::{net::IpAddr, sync::Mutex};

use common::webhooks::target::{AllowList, network};
use tools::webhook_sink::{Answer as Scripted, WebhookSink};

use super::*;

/// A resolver that answers each question with the next of its answers, and the last one for ever.
struct Scripts(Mutex<Vec<Vec<IpAddr>>>);

impl Scripts {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let addresses = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(addresses).collect())))
    }
}

impl Resolve for Scripts {
    fn resolve(&self, _: Name) -> Resolving {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        let found: Vec<SocketAddr> = answer.into_iter().map(|address| (address, 0).into()).collect();
        Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
    }
}

/// An address that is public, and to which nothing leads from a machine in a test: the first connect fails.
const PUBLIC: &str = "2a00::1";

struct Bench {
    sink: WebhookSink,
    reach: Reach,
}

impl Bench {
    async fn new() -> Self {
        let sink = WebhookSink::start().await.unwrap();
        let reach = Reach { ports: vec![sink.addr().port()], allow: AllowList::default() };
        Self { sink, reach }
    }

    async fn allowing(cidr: &str) -> Self {
        let Self { sink, mut reach } = Self::new().await;
        reach.allow = AllowList::new([network(cidr).unwrap()]);
        Self { sink, reach }
    }

    fn http(&self, answers: &[&[&str]], limit: Duration) -> Http {
        Http::with(self.reach.clone(), Scripts::new(answers), limit).unwrap()
    }

    fn target(&self, host: &str, path: &str, owner: Owner) -> Target {
        let port = self.sink.addr().port();
        self.reach.target(&format!("http://{host}:{port}{path}"), owner).unwrap()
    }

    async fn post(&self, http: &Http, host: &str, path: &str, owner: Owner) -> Result<Answer, Failure> {
        http.post(&self.target(host, path, owner), owner, HeaderMap::new(), "{}".to_owned()).await
    }
}

#[tokio::test]
async fn a_name_of_a_private_address_is_not_connected_to() {
    let bench = Bench::new().await;
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "64:ff9b::7f00:1", "10.0.0.1"] {
        let http = bench.http(&[&[address]], LIMIT);
        for owner in [Owner::User, Owner::Admin] {
            let answer = bench.post(&http, "hook.example.com", "/", owner).await;
            assert_eq!(answer, Err(Failure::Blocked), "{address}");
        }
    }
    assert_eq!(bench.sink.connections(), 0);
}

/// The name is public when it is looked at first, and ours when it is connected to.
#[tokio::test]
async fn a_name_that_is_rebound_is_not_connected_to() {
    let bench = Bench::new().await;
    let http = bench.http(&[&[PUBLIC], &["127.0.0.1"]], Duration::from_secs(1));
    let first = bench.post(&http, "hook.example.com", "/", Owner::User).await;
    assert!(matches!(first, Err(Failure::Connect(_) | Failure::Timeout)), "{first:?}");
    for _ in 0..3 {
        let answer = bench.post(&http, "hook.example.com", "/", Owner::User).await;
        assert_eq!(answer, Err(Failure::Blocked));
    }
    // Both at once: only the public one is tried, also when that fails.
    let http = bench.http(&[&[PUBLIC, "127.0.0.1"], &["127.0.0.1", PUBLIC]], Duration::from_secs(1));
    for _ in 0..2 {
        let both = bench.post(&http, "hook.example.com", "/", Owner::User).await;
        assert!(matches!(both, Err(Failure::Connect(_) | Failure::Timeout)), "{both:?}");
    }
    assert_eq!(bench.sink.connections(), 0);
}

/// Redirects are answers like others: nothing is asked of the address that they name.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let bench = Bench::allowing("127.0.0.1").await;
    let inside = WebhookSink::start().await.unwrap();
    bench.sink.script("/", [Scripted::Redirect(inside.url("/latest/meta-data/"))]);
    let http = bench.http(&[&["127.0.0.1"]], LIMIT);
    for _ in 0..2 {
        let answer = bench.post(&http, "hook.example.com", "/", Owner::Admin).await.unwrap();
        assert_eq!(answer.status, 302);
    }
    assert_eq!((inside.connections(), bench.sink.connections()), (0, 2), "each request has its connection");
}

#[tokio::test]
async fn the_allow_list_opens_the_way_for_admins_and_keeps_the_body_out_of_the_log() {
    let bench = Bench::allowing("127.0.0.0/8").await;
    let http = bench.http(&[&["127.0.0.1"]], LIMIT);
    bench.sink.script("/", [Scripted::Full(429, vec![("retry-after", "7".into())], b"internal".to_vec())]);
    for host in ["hook.example.com", "127.0.0.1"] {
        let answer = bench.post(&http, host, "/", Owner::Admin).await.unwrap();
        assert_eq!(answer, Answer { status: 429, body: None, retry_after: Some("7".into()) });
    }
    let user = bench.post(&http, "hook.example.com", "/", Owner::User).await;
    assert_eq!(user, Err(Failure::Blocked));
    assert_eq!(bench.sink.connections(), 2);
    let call = &bench.sink.calls()[0];
    assert!(call.header("user-agent").starts_with("TaskTracker/"));
    assert_eq!((call.header("accept-encoding"), &call.body[..]), ("", &b"{}"[..]));
}

#[tokio::test]
async fn an_unknown_name_is_no_address() {
    let bench = Bench::new().await;
    let http = bench.http(&[&[]], LIMIT);
    let answer = bench.post(&http, "hook.example.com", "/", Owner::User).await;
    assert_eq!(answer, Err(Failure::Dns));
}

/// R21: whatever a receiver does, its slot is free in time, and little of what it says is read.
#[tokio::test]
async fn a_receiver_cannot_hold_on() {
    let bench = Bench::allowing("127.0.0.1").await;
    let limit = Duration::from_secs(2);
    let http = bench.http(&[&["127.0.0.1"]], limit);
    bench.sink.script("/hang", [Scripted::Hang]);
    bench.sink.script("/drip", [Scripted::Drip]);
    bench.sink.script("/huge", [Scripted::Huge]);
    let dripping_head = dripping_head().await;
    let mut reach = bench.reach.clone();
    reach.ports.push(dripping_head.port());
    let target = reach.target(&format!("http://{dripping_head}/"), Owner::Admin).unwrap();

    let started = Instant::now();
    let (hang, drip, huge, head) = tokio::join!(
        bench.post(&http, "hook.example.com", "/hang", Owner::Admin),
        bench.post(&http, "hook.example.com", "/drip", Owner::Admin),
        bench.post(&http, "hook.example.com", "/huge", Owner::Admin),
        http.post(&target, Owner::Admin, HeaderMap::new(), String::new()),
    );
    assert!(started.elapsed() < limit + Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!((hang, head), (Err(Failure::Timeout), Err(Failure::Timeout)));
    assert_eq!((drip.unwrap().status, huge.unwrap().status), (200, 200));
}

/// What is read of an answer, for which it does not matter where it comes from.
#[tokio::test]
async fn little_of_an_answer_is_read() {
    let sink = WebhookSink::start().await.unwrap();
    sink.script("/huge", [Scripted::Huge]);
    sink.script("/drip", [Scripted::Drip]);
    sink.script("/nul", [Scripted::Full(500, vec![], b"a\0b\xff".to_vec())]);
    let client = Client::builder().tls_backend_preconfigured(tls().unwrap()).no_proxy().build().unwrap();
    let body = async |path: &str, within: u64| {
        let response = client.post(sink.url(path)).send().await.unwrap();
        beginning(response, tokio::time::Instant::now() + Duration::from_secs(within)).await
    };
    assert_eq!(body("/huge", 10).await.len(), MAX_BODY);
    assert_eq!(body("/nul", 10).await, "a\u{fffd}b\u{fffd}");
    let drops = body("/drip", 1).await;
    assert!((1..=6).contains(&drops.len()), "{drops}");
    assert_eq!(text(&[0xff; MAX_BODY]).len(), MAX_BODY / 3 * 3);
}

/// A receiver that sends its head letter by letter.
async fn dripping_head() -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer that is earlier than the request is refused for that.
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let letters = b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat(&b'x'));
        for letter in letters {
            if stream.write_all(&[*letter]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    addr
}
