//! Against a real server: `TEST_REDIS_URL`. Each test has keys of its own.

use redis::AsyncCommands as _;

use super::*;

const LIFE: Duration = Duration::from_secs(60);

fn cache() -> Cache {
    let url = std::env::var("TEST_REDIS_URL").expect("TEST_REDIS_URL names the Redis for tests");
    let redis = Redis::new(&url, &format!("test:{}", Uuid::now_v7().simple())).unwrap();
    Cache::new(redis, LIFE).unwrap()
}

async fn get(cache: &Cache, reader: &str) -> Found {
    // The first command on a new connection may take longer than a request waits.
    let _: () = redis::cmd("PING").query_async(&mut cache.redis.queue()).await.unwrap();
    cache.get("thing", reader.to_owned()).await
}

async fn lease(cache: &Cache, reader: &str) -> Option<Lease> {
    match get(cache, reader).await {
        Found::Nothing(None) => None,
        Found::Nothing(Some(place)) => {
            cache.missed.again(&place);
            cache.lease(place).await
        }
        Found::Copy(copy) => panic!("there is a copy: {copy:?}"),
    }
}

/// Puts a copy there as [`Cache::put`] does, and waits for it.
async fn put(cache: &Cache, lease: Lease, copy: &str) -> bool {
    let mut call = PUT.key(lease.place.key);
    call.arg(lease.place.reader).arg(lease.mark).arg(copy);
    call.invoke_async(&mut cache.redis.queue()).await.unwrap()
}

async fn copy(cache: &Cache, reader: &str) -> Option<String> {
    match get(cache, reader).await {
        Found::Copy(copy) => Some(String::from_utf8(copy).unwrap()),
        Found::Nothing(_) => None,
    }
}

/// Waits for a condition that must become true.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn cover(cache: &Cache) {
    cache.cover(&["thing".to_owned()]).await;
}

#[tokio::test]
async fn a_copy_is_its_readers_own_and_ends_by_itself() {
    let cache = cache();
    let granted = lease(&cache, "ann").await.unwrap();
    cache.put(granted, b"one".to_vec());
    until(async || copy(&cache, "ann").await.as_deref() == Some("one")).await;
    assert_eq!(copy(&cache, "eda").await, None);
    let left: i64 = cache.redis.queue().pttl(cache.key("thing")).await.unwrap();
    assert!((1..=60_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn what_is_read_once_gets_no_copy() {
    let cache = cache();
    for (reader, is_granted) in [("ann", false), ("eda", false), ("ann", true)] {
        let Found::Nothing(Some(place)) = get(&cache, reader).await else { panic!("there is a copy") };
        assert_eq!(cache.lease(place).await.is_some(), is_granted, "{reader}");
    }
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_put_there_after_it() {
    let cache = Cache { cover: Duration::from_millis(500), ..cache() };
    let before = lease(&cache, "ann").await.unwrap();
    cover(&cache).await;
    assert!(lease(&cache, "ann").await.is_none(), "while it is being changed nobody may");
    assert!(!put(&cache, before, "old").await);
    until(async || lease(&cache, "ann").await.is_some()).await;
    assert_eq!(copy(&cache, "ann").await, None);
    let after = lease(&cache, "ann").await.unwrap();
    assert!(put(&cache, after, "new").await);
    assert_eq!(copy(&cache, "ann").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_change_takes_all_copies_away_and_its_cover_ends_by_itself() {
    let cache = cache();
    for reader in ["ann", "eda"] {
        let granted = lease(&cache, reader).await.unwrap();
        assert!(put(&cache, granted, "old").await);
    }
    cover(&cache).await;
    assert_eq!((copy(&cache, "ann").await, copy(&cache, "eda").await), (None, None));
    let left: i64 = cache.redis.queue().pttl(cache.key("thing")).await.unwrap();
    assert!((5_000..=10_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn a_later_change_covers_for_longer() {
    let cache = Cache { cover: Duration::from_millis(400), ..cache() };
    cover(&cache).await;
    let begun = Instant::now();
    let longer = Cache { cover: Duration::from_secs(5), ..cache.clone() };
    cover(&longer).await;
    assert!(!longer.is_over(begun));
    until(async || cache.is_over(begun)).await;
    assert!(lease(&cache, "ann").await.is_none());
}

#[tokio::test]
async fn a_change_that_takes_long_covers_once_more() {
    let cache = cache();
    let is_covered = async || cache.redis.queue().exists::<_, bool>(cache.key("thing")).await.unwrap();
    let mut outdated = Outdated::default();
    outdated.add(&cache, vec!["thing".to_owned()]);
    outdated.cover(&cache).await;
    assert!(is_covered().await);
    let _: () = cache.redis.queue().del(cache.key("thing")).await.unwrap();
    outdated.cover(&cache).await;
    assert!(!is_covered().await, "it was set a moment ago");
    outdated.since = Instant::now().checked_sub(cache.cover);
    outdated.cover(&cache).await;
    assert!(is_covered().await);
}

#[tokio::test]
async fn while_redis_could_not_be_told_of_a_change_no_copy_is_used() {
    let cache = Cache { life: Duration::from_millis(500), ..cache() };
    let granted = lease(&cache, "ann").await.unwrap();
    assert!(put(&cache, granted, "old").await);
    let away = Cache { redis: Redis::new("redis://127.0.0.1:1", "test").unwrap(), ..cache.clone() };
    cover(&away).await;
    assert_eq!(copy(&cache, "ann").await, None, "the copy is older than what was acknowledged");
    assert!(lease(&cache, "ann").await.is_none());
    until(async || lease(&cache, "ann").await.is_some()).await;
    assert_eq!(copy(&cache, "ann").await, None, "it has ended meanwhile");
}

#[tokio::test]
async fn a_large_copy_is_not_kept_and_without_a_life_there_is_no_cache() {
    let cache = cache();
    let granted = lease(&cache, "ann").await.unwrap();
    cache.put(granted, vec![b'x'; MAX_BYTES + 1]);
    assert!(lease(&cache, "ann").await.is_some());
    assert!(Cache::new(cache.redis, Duration::ZERO).is_none());
}
