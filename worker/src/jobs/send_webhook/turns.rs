use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::ids::EndpointId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Attempts of one endpoint at once in a process.
const AT_ONCE: u32 = 4;
/// Deliveries of one endpoint that wait in a process for their turn, each in a slot of the queue's concurrency.
const WAITING: usize = 4;
/// They wait so long at most, and only for a receiver whose attempts take less than [`QUICK`].
const PATIENCE: Duration = Duration::from_secs(2);
/// See [`PATIENCE`].
const QUICK: Duration = Duration::from_millis(500);
/// A delivery that finds no turn comes back after this at the earliest, and
const SOONEST: Duration = Duration::from_millis(50);
/// after this at the latest, however many stand before it.
const LATEST: Duration = Duration::from_secs(60);
/// Endpoints are forgotten that nobody uses when there are more than this.
const KEPT: usize = 1_000;

/// Whose turn it is to be sent, endpoint by endpoint: a receiver that is slow takes a few slots of this process and no
/// more, however much is queued for it.
///
/// Who finds no turn is put off behind those who were put off before, at the pace at which the receiver takes them: each
/// of a thousand deliveries is claimed once or twice in all, and not each of them at every turn.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<EndpointId, Arc<Line>>>>);

#[derive(Debug)]
struct Line {
    /// One permit for an attempt, all of them for one that has to be alone.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// How long attempts take, in microseconds, the recent ones weighing more; 0 before the first ended.
    took: AtomicU64,
    /// When the last of those comes back who were put off.
    last: Mutex<Instant>,
}

/// The right to make an attempt, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    line: Arc<Line>,
    since: Instant,
    has_waited: bool,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Whether others were before it.
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.line.took.load(Relaxed);
        let took = if before == 0 { now } else { before / 4 * 3 + now / 4 };
        self.line.took.store(took.max(1), Relaxed);
    }
}

impl Turns {
    /// A turn of `endpoint`, `alone` or beside a few others; or after which pause to ask again.
    pub(crate) async fn take(&self, endpoint: EndpointId, alone: bool) -> Result<Turn, Duration> {
        let line = self.line(endpoint);
        let permits = if alone { AT_ONCE } else { 1 };
        let turn = |permit, has_waited| {
            let since = Instant::now();
            Turn { line: line.clone(), since, has_waited, _permit: permit }
        };
        if let Ok(permit) = line.permits.clone().try_acquire_many_owned(permits) {
            return Ok(turn(permit, false));
        }
        if line.is_quick() && line.waiting.load(Relaxed) < WAITING {
            line.waiting.fetch_add(1, Relaxed);
            let _waiting = Waiting(&line.waiting);
            let asked = line.permits.clone().acquire_many_owned(permits);
            if let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, asked).await {
                return Ok(turn(permit, true));
            }
        }
        Err(line.put_off(if alone { 1 } else { AT_ONCE }))
    }

    fn line(&self, endpoint: EndpointId) -> Arc<Line> {
        let mut lines = lock(&self.0);
        if lines.len() > KEPT {
            let now = Instant::now();
            lines.retain(|_, line| Arc::strong_count(line) > 1 || *lock(&line.last) > now);
        }
        lines.entry(endpoint).or_insert_with(|| Arc::new(Line::new())).clone()
    }
}

impl Line {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_ONCE as usize)),
            waiting: AtomicUsize::new(0),
            took: AtomicU64::new(0),
            last: Mutex::new(Instant::now()),
        }
    }

    fn took(&self) -> Option<Duration> {
        let micros = self.took.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    fn is_quick(&self) -> bool {
        self.took().is_some_and(|took| took < QUICK)
    }

    /// Behind everybody who was put off before. Beyond [`LATEST`] the order is given up, so that nobody waits long for a
    /// receiver that has become quick.
    fn put_off(&self, at_once: u32) -> Duration {
        let pace = (self.took().unwrap_or(QUICK) / at_once).max(SOONEST);
        let mut last = lock(&self.last);
        let now = Instant::now();
        let mine = (*last).max(now) + pace;
        if mine > now + LATEST {
            return LATEST.mul_f64(0.5 + 0.5 * rand::random::<f64>());
        }
        *last = mine;
        mine - now
    }
}

/// One who waits, also if they are dropped before their turn.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_at_once_and_one_where_there_is_trouble() {
        let (turns, ann, ben) = (Turns::default(), EndpointId::new(), EndpointId::new());
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(turns.take(ann, false).await.unwrap());
        }
        assert!(turns.take(ann, false).await.is_err());
        assert!(turns.take(ann, true).await.is_err());
        let alone = turns.take(ben, true).await.unwrap();
        assert!(turns.take(ben, false).await.is_err(), "nobody beside one who is alone");
        held.pop();
        assert!(turns.take(ann, true).await.is_err(), "alone means that all others have gone");
        held.push(turns.take(ann, false).await.unwrap());
        drop((held, alone));
        assert!(turns.take(ann, true).await.is_ok() && turns.take(ben, true).await.is_ok());
    }

    #[tokio::test]
    async fn who_finds_no_turn_is_put_off_one_after_the_other() {
        let (turns, endpoint) = (Turns::default(), EndpointId::new());
        let _held = turns.take(endpoint, true).await.unwrap();
        let mut pauses = Vec::new();
        for _ in 0..1_000 {
            pauses.push(turns.take(endpoint, true).await.unwrap_err());
        }
        assert!(pauses[..100].is_sorted(), "{:?}", &pauses[..100]);
        assert!(pauses.iter().all(|pause| (SOONEST..=LATEST).contains(pause)));
        assert!(pauses[99] > Duration::from_secs(40), "{:?}", pauses[99]);
    }

    #[tokio::test]
    async fn a_quick_receiver_is_waited_for() {
        let (turns, endpoint) = (Turns::default(), EndpointId::new());
        drop(turns.take(endpoint, true).await.unwrap());
        let held = turns.take(endpoint, true).await.unwrap();
        let waiting: Vec<_> = (0..=WAITING)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(endpoint, true).await.map(|turn| turn.has_waited()) })
            })
            .collect();
        // The last of them finds too many waiting, and only then the turn becomes free.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(held);
        let mut ends = Vec::new();
        for task in waiting {
            ends.push(task.await.unwrap());
        }
        assert_eq!(ends.iter().filter(|end| **end == Ok(true)).count(), WAITING, "{ends:?}");
    }

    #[test]
    fn endpoints_that_nobody_uses_are_forgotten() {
        let turns = Turns::default();
        for _ in 0..5 * KEPT {
            turns.line(EndpointId::new());
        }
        assert!(lock(&turns.0).len() <= KEPT + 1);
    }
}
