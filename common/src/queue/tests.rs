//! Against a real server: `TEST_REDIS_URL`. Each test has keys of its own.

use chrono::{DateTime, Utc};

use super::*;

const LEASE: Duration = Duration::from_secs(15);

fn redis() -> Redis {
    let url = std::env::var("TEST_REDIS_URL").expect("TEST_REDIS_URL names the Redis for tests");
    Redis::new(&url, &format!("test:{}", Uuid::now_v7().simple())).unwrap()
}

fn queue() -> Queue {
    Queue::new(&redis(), "q")
}

/// A moment, so many milliseconds after another that is long past.
fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
}

fn job(lane: &str, priority: i16, ms: i64) -> DueJob {
    DueJob { id: JobId::new(), queue: "q".into(), lane: lane.into(), priority, run_at: at(ms) }
}

async fn fetch(queue: &Queue, n: usize) -> Vec<JobId> {
    queue.fetch(n, LEASE).await.unwrap().into_iter().map(|leased| leased.id).collect()
}

fn ids(jobs: &[DueJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

/// Ends the leases as if their time were over; returns when each ended, in ms.
async fn expire(queue: &Queue, ids: &[JobId], ago: i64) -> f64 {
    let mut redis = queue.redis.clone();
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    let ended = (seconds * 1000 - ago) as f64;
    for id in ids {
        let _: () = redis.zadd(&queue.leased, *id, ended).await.unwrap();
    }
    ended
}

async fn score(queue: &Queue, id: JobId) -> Option<f64> {
    queue.redis.clone().zscore(&queue.wait, id).await.unwrap()
}

#[tokio::test]
async fn jobs_come_in_the_order_in_which_they_fell_due() {
    let queue = queue();
    let jobs = [job("c", 1, 300), job("a", 1, 100), job("b", 1, 200)];
    assert_eq!(queue.push(&jobs).await.unwrap(), []);
    assert_eq!(fetch(&queue, 2).await, [jobs[1].id, jobs[2].id]);
    assert_eq!(fetch(&queue, 2).await, [jobs[0].id]);
    assert_eq!(fetch(&queue, 2).await, []);
    assert_eq!(queue.sizes().await.unwrap(), (0, 3));
}

#[tokio::test]
async fn a_push_refuses_what_waits_or_is_leased_and_says_so() {
    let queue = queue();
    let (waiting, leased, new) = (job("a", 1, 5), job("a", 0, 0), job("a", 1, 9));
    queue.push(&[leased.clone(), waiting.clone()]).await.unwrap();
    assert_eq!(fetch(&queue, 1).await, [leased.id]);
    let refused = queue.push(&[new.clone(), waiting.clone(), leased.clone(), new.clone()]).await.unwrap();
    assert_eq!(refused, [waiting.id, leased.id, new.id], "the second mention of `new` is refused too");
    assert_eq!(queue.sizes().await.unwrap(), (2, 1));
    queue.ack(&[leased.id]).await.unwrap();
    assert_eq!(queue.push(&[leased]).await.unwrap(), [], "free again after its ack");
}

#[tokio::test]
async fn ten_jobs_of_one_lane_do_not_wait_for_fifty_thousand_of_another() {
    let queue = queue();
    let large: Vec<_> = (0..50_000).map(|_| job("large", 1, 0)).collect();
    queue.push(&large).await.unwrap();
    let small: Vec<_> = (0..10).map(|_| job("small", 1, 2_000)).collect();
    queue.push(&small).await.unwrap();
    let first = fetch(&queue, 30).await;
    let of_small = first.iter().filter(|id| ids(&small).contains(id)).count();
    assert_eq!(of_small, 10, "lane by lane, one a second each");
    assert_eq!(first[0], large[0].id, "nobody is starved: the large lane is served too");
}

/// Goals R45, as the relay and a dispatcher push: a large lane in batches, a small one in between, and again after it.
#[tokio::test]
async fn a_small_lane_comes_first_also_between_the_batches_of_a_large_one() {
    let queue = queue();
    let mut pushed = 0;
    for round in 0..10 {
        let batch: Vec<_> = (0..1_000).map(|_| job("large", 1, 0)).collect();
        queue.push(&batch).await.unwrap();
        pushed += batch.len();
        let small: Vec<_> = (0..10).map(|_| job("small", 1, 1_000 * round)).collect();
        for job in &small {
            queue.push(std::slice::from_ref(job)).await.unwrap();
        }
        // Lanes take turns a second apart, so what is small is through after about as much of what is large.
        let mut waiting = ids(&small);
        let mut fetched = 0;
        while !waiting.is_empty() {
            let some = fetch(&queue, 5).await;
            assert!(!some.is_empty());
            fetched += some.len();
            waiting.retain(|id| !some.contains(id));
        }
        assert!(fetched <= 50, "round {round}: {fetched} were fetched until the 10 were among them");
    }
    let (left, _) = queue.sizes().await.unwrap();
    assert!(left > pushed as u64 - 500, "the large lane was not served before: {left}");
}

#[tokio::test]
async fn a_lane_that_worked_alone_is_not_held_back_afterwards() {
    let queue = queue();
    let large: Vec<_> = (0..100).map(|_| job("large", 1, 0)).collect();
    queue.push(&large).await.unwrap();
    assert_eq!(fetch(&queue, 500).await.len(), 100);
    let (next, other) = (job("large", 1, 10), job("other", 1, 20));
    queue.push(&[other.clone(), next.clone()]).await.unwrap();
    assert_eq!(fetch(&queue, 2).await, [next.id, other.id]);
}

#[tokio::test]
async fn lanes_with_nothing_waiting_are_forgotten() {
    let queue = queue();
    let last: Vec<_> = (0..40).map(|i| job(&format!("last{i}"), 1, 1_000_000)).collect();
    queue.push(&last).await.unwrap();
    for round in 0..60 {
        let jobs: Vec<_> = (0..50).map(|_| job(&Uuid::now_v7().to_string(), 1, round)).collect();
        queue.push(&jobs).await.unwrap();
        assert_eq!(fetch(&queue, 50).await.len(), 50);
    }
    let lanes: Vec<String> = queue.redis.clone().hkeys(&queue.lanes).await.unwrap();
    assert!(lanes.len() < 300, "{} lanes, 2,960 of 3,040 are done", lanes.len());
    let kept = lanes.iter().filter(|lane| lane.contains("last")).count();
    assert_eq!(kept, 40, "who has work waiting is kept");
    fetch(&queue, 500).await;
    assert!(
        !queue.redis.clone().exists::<_, bool>(&queue.lanes).await.unwrap(),
        "nothing waits, nothing is kept"
    );
}

#[tokio::test]
async fn a_priority_step_counts_like_a_minute_of_waiting() {
    let queue = queue();
    let minute = 60_000;
    let jobs = [
        job("a", 1, 0),
        job("b", 0, minute - 1),
        job("c", 0, minute + 1),
        job("d", 3, -2 * minute - 2),
        job("e", 2, -minute + 2),
    ];
    queue.push(&jobs).await.unwrap();
    let order: Vec<_> =
        ["d", "b", "a", "c", "e"].map(|lane| jobs.iter().find(|j| j.lane == lane).unwrap().id).into();
    assert_eq!(fetch(&queue, 5).await, order);
}

#[tokio::test]
async fn an_urgent_job_does_not_wait_for_the_backlog_of_its_own_lane() {
    let queue = queue();
    let backlog: Vec<_> = (0..1_000).map(|_| job("a", 1, 0)).collect();
    queue.push(&backlog).await.unwrap();
    let urgent = job("a", 0, 30_000);
    queue.push(std::slice::from_ref(&urgent)).await.unwrap();
    assert_eq!(fetch(&queue, 1).await, [urgent.id]);
}

#[tokio::test]
async fn an_expired_lease_comes_back_scored_by_when_it_ended() {
    let queue = queue();
    let jobs = [job("a", 1, 0), job("b", 1, 0)];
    queue.push(&jobs).await.unwrap();
    assert_eq!(fetch(&queue, 2).await.len(), 2);
    assert_eq!(fetch(&queue, 2).await, [], "leased");
    let ended = expire(&queue, &[jobs[0].id], 1_000).await;
    let back = queue.fetch(2, LEASE).await.unwrap();
    assert_eq!(back, [Leased { id: jobs[0].id, score: ended }]);
}

#[tokio::test]
async fn no_more_than_five_hundred_leases_come_back_at_once() {
    let queue = queue();
    let jobs: Vec<_> = (0..700).map(|i| job(&i.to_string(), 1, 0)).collect();
    queue.push(&jobs).await.unwrap();
    assert_eq!(fetch(&queue, 500).await.len() + fetch(&queue, 500).await.len(), 700);
    expire(&queue, &ids(&jobs), 0).await;
    assert_eq!(fetch(&queue, 1).await.len(), 1);
    assert_eq!(queue.sizes().await.unwrap(), (499, 201));
}

#[tokio::test]
async fn a_renewal_brings_back_a_lost_lease_and_takes_the_job_out_of_the_line() {
    let queue = queue();
    let jobs = [job("a", 1, 0), job("b", 1, 0)];
    queue.push(&jobs).await.unwrap();
    assert_eq!(fetch(&queue, 1).await, [jobs[0].id]);
    let _: () = queue.redis.clone().del(&queue.leased).await.unwrap();
    queue.renew(&ids(&jobs), LEASE).await.unwrap();
    assert_eq!(queue.sizes().await.unwrap(), (0, 2));
    queue.renew(&ids(&jobs), Duration::ZERO).await.unwrap();
    assert_eq!(fetch(&queue, 5).await.len(), 2, "a lease of no length is over at once");
}

#[tokio::test]
async fn a_released_job_gets_its_own_place_back() {
    let queue = queue();
    let jobs = [job("a", 1, 0), job("b", 1, 1), job("c", 1, 2)];
    queue.push(&jobs).await.unwrap();
    let first = queue.fetch(2, LEASE).await.unwrap();
    queue.release(&first[..1]).await.unwrap();
    assert_eq!(fetch(&queue, 5).await, [jobs[0].id, jobs[2].id]);
}

#[tokio::test]
async fn an_ack_forgets_a_job_wherever_it_is() {
    let queue = queue();
    let jobs = [job("a", 1, 0), job("b", 1, 1), job("c", 1, 2)];
    queue.push(&jobs).await.unwrap();
    assert_eq!(fetch(&queue, 1).await.len(), 1);
    assert_eq!(queue.ack(&ids(&jobs[..2])).await.unwrap(), 1);
    assert_eq!(queue.sizes().await.unwrap(), (1, 0));
    assert_eq!(queue.ack(&[]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_redis_does_not_hold_is_unknown() {
    let queue = queue();
    let jobs: Vec<_> = (0..1_200).map(|i| job(&i.to_string(), 1, i)).collect();
    queue.push(&jobs[..1_100]).await.unwrap();
    assert_eq!(fetch(&queue, 500).await.len(), 500);
    assert_eq!(queue.unknown(&ids(&jobs)).await.unwrap(), ids(&jobs[1_100..]));
}

#[tokio::test]
async fn milliseconds_stay_exact() {
    let queue = queue();
    // Lua's `..` would keep 14 digits of them, and a JSON-minded double prints 2^53 − 1 in full.
    let last_exact =
        DateTime::from_timestamp_millis((1 << 53) - 1 - 60_000).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let jobs = [
        DueJob { run_at: DateTime::from_timestamp_millis(1_763_697_601_234).unwrap(), ..job("a", 1, 0) },
        DueJob { run_at: last_exact, ..job("b", 1, 0) },
        DueJob { run_at: DateTime::from_timestamp_millis(-62_135_596_800_000).unwrap(), ..job("c", 0, 0) },
    ];
    queue.push(&jobs).await.unwrap();
    for job in &jobs {
        let exact = job.run_at.timestamp_millis() + i64::from(job.priority) * PRIORITY_STEP;
        assert_eq!(score(&queue, job.id).await, Some(exact as f64));
    }
    let fetched = queue.fetch(3, LEASE).await.unwrap();
    queue.release(&fetched).await.unwrap();
    let again = queue.fetch(3, LEASE).await.unwrap();
    assert_eq!(again, fetched, "a score survives the way there and back");
}

#[tokio::test]
async fn scripts_survive_script_flush_and_a_lost_epoch_shows() {
    let queue = queue();
    let epoch = Uuid::now_v7();
    queue.set_epoch(epoch).await.unwrap();
    assert_eq!(queue.epoch().await.unwrap(), Some(epoch));
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut queue.redis.clone()).await.unwrap();
    let one = job("a", 1, 0);
    assert_eq!(queue.push(std::slice::from_ref(&one)).await.unwrap(), []);
    assert_eq!(fetch(&queue, 1).await, [one.id]);
    let _: () = queue.redis.clone().del(&queue.epoch).await.unwrap();
    assert_eq!(queue.epoch().await.unwrap(), None);
}

#[tokio::test]
async fn a_push_wakes_who_listens_and_names_the_queue() {
    let redis = redis();
    let queues = [Queue::new(&redis, "one"), Queue::new(&redis, "two")];
    let mut wakes = std::pin::pin!(wakes(&redis, &queues).await.unwrap());
    queues[1].push(&[job("a", 1, 0)]).await.unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(5), wakes.next()).await.unwrap();
    assert_eq!(woken, Some(1));
}
