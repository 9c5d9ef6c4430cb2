//! Against a real server behind a door that can be shut: `TEST_REDIS_URL`.

use std::sync::atomic::AtomicU8;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

use super::*;

const OPEN: u8 = 0;
const STALLED: u8 = 1;
const SHUT: u8 = 2;

/// Passes bytes between a TCP port and the server; can be told to hold them back, or to hang up.
struct Door {
    state: Arc<AtomicU8>,
    url: String,
}

impl Door {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let state = Arc::new(AtomicU8::new(OPEN));
        let door = state.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, door.clone()));
            }
        });
        Self { state, url }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, door: Arc<AtomicU8>) {
    let url = std::env::var("TEST_REDIS_URL").expect("TEST_REDIS_URL names the Redis for tests");
    let (from_client, to_client) = client.into_split();
    match url.split_once("://").unwrap() {
        ("unix" | "redis+unix", path) => {
            let (from_server, to_server) = UnixStream::connect(path).await.unwrap().into_split();
            tokio::join!(copy(from_client, to_server, &door), copy(from_server, to_client, &door));
        }
        (_, address) => {
            let address = address.split('/').next().unwrap();
            let (from_server, to_server) = TcpStream::connect(address).await.unwrap().into_split();
            tokio::join!(copy(from_client, to_server, &door), copy(from_server, to_client, &door));
        }
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, door: &AtomicU8) {
    let mut buffer = [0; 4096];
    let mut held = Vec::new();
    loop {
        let tick = tokio::time::sleep(Duration::from_millis(1));
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(n @ 1..) => held.extend_from_slice(&buffer[..n]),
                _ => return,
            },
            () = tick => {}
        }
        match door.load(Ordering::SeqCst) {
            OPEN if to.write_all(&std::mem::take(&mut held)).await.is_err() => return,
            SHUT => return,
            _ => {}
        }
    }
}

async fn ping(connection: &mut impl ConnectionLike) -> (RedisResult<String>, Duration) {
    let start = Instant::now();
    (redis::cmd("PING").query_async(connection).await, start.elapsed())
}

/// Waits for a condition that must become true.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_costs_a_request_its_budget_once_a_second_and_is_got_over() {
    let door = Door::new().await;
    let redis = Redis::new(&door.url, "test").unwrap();
    let mut request = redis.request();
    until(async || ping(&mut request).await.0.is_ok()).await;

    door.set(STALLED);
    let (stalled, took) = ping(&mut request).await;
    assert!(stalled.unwrap_err().is_timeout());
    assert!(took >= REQUEST_BUDGET, "{took:?}");
    let (refused, took) = ping(&mut request).await;
    assert!(refused.unwrap_err().to_string().contains("within the last second"));
    assert!(took < REQUEST_BUDGET, "the breaker answers at once: {took:?}");

    door.set(OPEN);
    until(async || ping(&mut request).await.0.is_ok()).await;
}

/// What reads an answer and what hands it on are tasks like all others, which have their turns late in a process that has too much to do. The
/// clock stands still but for what the runtime waits for: the answer is read in the instant in which the time is over.
#[tokio::test(start_paused = true)]
async fn an_answer_that_has_come_in_time_is_not_taken_for_silence() {
    let (read, mut to_hand_on) = tokio::sync::mpsc::channel(1);
    let (hand_on, handed_on) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(REQUEST_BUDGET).await;
        read.send("PONG").await.unwrap();
    });
    tokio::spawn(async move { hand_on.send(to_hand_on.recv().await.unwrap()) });
    assert_eq!(in_budget(async { Ok(handed_on.await.unwrap()) }).await.unwrap(), "PONG");

    let silence: RedisResult<()> = in_budget(std::future::pending()).await;
    assert!(silence.unwrap_err().is_timeout());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_replaced_on_both_paths() {
    let door = Door::new().await;
    let redis = Redis::new(&door.url, "test").unwrap();
    let (mut queue, mut request) = (redis.queue(), redis.request());
    until(async || ping(&mut queue).await.0.is_ok() && ping(&mut request).await.0.is_ok()).await;
    door.set(SHUT);
    until(async || ping(&mut queue).await.0.is_err() && ping(&mut request).await.0.is_err()).await;
    door.set(OPEN);
    until(async || ping(&mut queue).await.0.is_ok() && ping(&mut request).await.0.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_process_starts_and_commands_fail_quickly() {
    let redis = Redis::new("redis://127.0.0.1:1", "test").unwrap();
    for _ in 0..3 {
        let (answer, took) = ping(&mut redis.queue()).await;
        assert!(answer.is_err() && took < Duration::from_secs(1), "{took:?}");
    }
    assert!(!redis.is_up().await);
    assert!(ping(&mut redis.request()).await.0.is_err());
    assert!(Redis::new("http://example.org", "test").is_err());
}

#[tokio::test]
async fn the_address_is_not_shown() {
    let redis = Redis::new("redis://:hunter2@127.0.0.1:1", "test").unwrap();
    assert!(!format!("{redis:?} {:?}", redis.request()).contains("hunter2"));
}
