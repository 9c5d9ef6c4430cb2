use common::{
    secrets::{Purpose, SecretKeys},
    testing::setting,
};

use super::*;

/// Limiters of as many processes, on one Redis.
fn limiters<const N: usize>() -> [Limits; N] {
    let keys: SecretKeys = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
    let key = keys.derive(Purpose::IpHash).remove(0);
    let prefix = format!("test:{}", uuid::Uuid::now_v7());
    std::array::from_fn(|_| {
        Limits::new(Redis::new(&setting("TEST_REDIS_URL"), &prefix).unwrap(), key.clone(), 100)
    })
}

#[tokio::test]
async fn a_limit_holds_when_redis_goes_away_and_comes_back() {
    let [up] = limiters();
    let down = Limits { redis: Redis::new("redis://127.0.0.1:1", "gone").unwrap(), ..up.clone() };
    for limits in [&up, &up, &down, &down, &up] {
        limits.take(Bucket::LoginAccount, "ann").await.unwrap();
    }
    for limits in [&down, &up] {
        assert!(matches!(
            limits.take(Bucket::LoginAccount, "ann").await,
            Err(Error::TooManyRequests { retry_after }) if retry_after <= WINDOW && !retry_after.is_zero()
        ));
        limits.take(Bucket::LoginAccount, "bob").await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_says_how_the_caller_stands() {
    let [one, other] = limiters();
    let user = UserId::new();
    for left in (0..100).rev() {
        let limits = if left % 2 == 0 { &one } else { &other };
        let counted = limits.count_user(user).await.unwrap();
        assert!(counted.allowed().is_ok());
        assert_eq!(counted.standing.remaining, left);
    }
    let counted = other.count_user(user).await.unwrap();
    assert!(counted.allowed().is_err());
    let mut headers = HeaderMap::new();
    counted.say(&mut headers);
    assert_eq!(headers["ratelimit-policy"], "\"default\";q=100;w=60");
    let reset: u64 = headers["x-ratelimit-reset"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&reset));
    assert_eq!(headers["ratelimit"], format!("\"default\";r=0;t={reset}"));
    assert_eq!(
        (&headers["x-ratelimit-limit"], &headers["x-ratelimit-remaining"]),
        (&HeaderValue::from_static("100"), &HeaderValue::from_static("0"))
    );
    let off = Limits { per_minute: 0, ..one };
    assert!(off.count_user(user).await.is_none() && off.count_address([127, 0, 0, 1].into()).await.is_none());
}

mod window {
    use proptest::{prelude::*, test_runner::TestRunner};

    use super::*;

    /// A call that was let through: Redis decided between these two instants.
    struct Passed {
        sent: Instant,
        answered: Instant,
    }

    /// Calls by two processes at once, each after its pause in milliseconds.
    async fn call(limits: &[Limits; 2], quota: Quota, pauses: &[(bool, u64)]) -> (Vec<Passed>, usize) {
        let (mut passed, mut refused) = (Vec::new(), 0);
        let mut pending = Vec::new();
        for (which, pause) in pauses {
            if *pause > 0 {
                tokio::time::sleep(Duration::from_millis(*pause)).await;
            }
            let limits = limits[usize::from(*which)].clone();
            pending.push(tokio::spawn(async move {
                let sent = Instant::now();
                let standing = limits.decide(Bucket::Digest, quota, "ann").await;
                (standing.wait.is_none(), Passed { sent, answered: Instant::now() })
            }));
        }
        for call in pending {
            match call.await.unwrap() {
                (true, call) => passed.push(call),
                (false, _) => refused += 1,
            }
        }
        (passed, refused)
    }

    /// Whatever two processes do on one Redis, no window holds more calls than the limit: of any `limit + 1` that were let
    /// through, the last was decided a window after the first. Only what must be a breach counts as one.
    #[test]
    fn no_window_holds_more_than_the_limit() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let quota = |limit| Quota { limit, window: Duration::from_millis(60) };
        let calls = prop::collection::vec((any::<bool>(), prop_oneof![3 => Just(0), 1 => 0..25_u64]), 5..40);
        let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
        let refusals = std::cell::Cell::new(0);
        TestRunner::new(config)
            .run(&(1..6_usize, calls), |(limit, pauses)| {
                let quota = quota(limit);
                let (mut passed, refused) = runtime.block_on(async {
                    // A new Redis prefix for each case: nothing is left over from the one before.
                    call(&limiters(), quota, &pauses).await
                });
                refusals.set(refusals.get() + refused);
                prop_assert!(!passed.is_empty());
                passed.sort_by_key(|call| call.answered);
                for window in passed.windows(limit + 1) {
                    let sent = window.iter().map(|call| call.sent).min().unwrap();
                    let apart = window[limit].answered.duration_since(sent);
                    prop_assert!(apart >= quota.window, "{} calls within {apart:?}", limit + 1);
                }
                Ok(())
            })
            .unwrap();
        assert!(refusals.get() > 0, "the limit was never reached");
    }
}
