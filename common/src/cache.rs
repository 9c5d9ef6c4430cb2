//! Copies in Redis of what is read often (cache-aside). Who changes a thing takes its copies away **before** the change is
//! committed, and none is put there until it is: so what was acknowledged as changed is not shown as it was before, also if the
//! process dies at any point. Why it is safe, and what is left: `docs/adr/0010-copies-of-tasks.md`.
//!
//! | Key | Holds | Lives |
//! |---|---|---|
//! | `tt:copies:{thing}` hash | `reader`: what they see of it · `?reader`: a lease to put that there · `!`: it is being changed | [`Cache::new`] |
//!
//! A copy belongs to one reader, and only those have one whose right to see the thing is a part of the thing itself: to change
//! their right is to change the thing. What is read once gets none: it would save nothing.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redis::RedisResult;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use uuid::Uuid;

use crate::{
    metrics,
    redis::{Redis, script},
};

/// A cover stays for this part of a copy's life, which is longer than a commit takes.
const COVER: u32 = 6;
/// How many things a script takes at most.
const MAX_THINGS: usize = 500;
/// A larger copy costs more memory than it saves time.
const MAX_BYTES: usize = 4096;
/// How often what Redis did not take is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// How many questions may wait for the one before; who comes when there are more does without a copy.
const QUESTIONS: usize = 1024;
/// How many questions Redis is asked at once, at most.
const AT_ONCE: usize = 128;
/// Of how many places a process remembers that their copies were missed.
const REMEMBERED: usize = 8192;

script!(LEASE, "cache/lease.lua");
script!(PUT, "cache/put.lua");
script!(COVER_ALL, "cache/cover.lua");

/// Copies in Redis. Without Redis there are none, and nobody waits for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    redis: Redis,
    life: Duration,
    cover: Duration,
    questions: mpsc::Sender<Question>,
    missed: Arc<Missed>,
    /// Changes that were committed while Redis could not be told.
    owed: Arc<AtomicUsize>,
}

/// What there is of a thing.
#[derive(Debug)]
pub enum Found {
    /// The reader's copy.
    Copy(Vec<u8>),
    /// None; and where one may be put, by a [`Cache::lease`].
    Nothing(Option<Place>),
}

/// Where a copy is: the key of its thing, and its reader.
#[derive(Debug)]
pub struct Place {
    key: String,
    reader: String,
}

/// What a request wants to know. The place is given back.
#[derive(Debug)]
struct Question {
    place: Place,
    answer: oneshot::Sender<(Place, Held)>,
}

/// What is there: the copy, and a cover.
type Held = (Option<Vec<u8>>, Option<String>);

/// The right to put a copy there.
#[derive(Debug)]
pub struct Lease {
    place: Place,
    mark: String,
}

impl Cache {
    /// Copies live so long, however often they are read; all processes have to have the same, and with 0 there are none. Must be called
    /// in a Tokio runtime.
    pub fn new(redis: Redis, life: Duration) -> Option<Self> {
        if life.is_zero() {
            return None;
        }
        let (questions, asked) = mpsc::channel(QUESTIONS);
        tokio::spawn(ask(redis.clone(), asked));
        Some(Self {
            redis,
            life,
            cover: life / COVER,
            questions,
            missed: Arc::default(),
            owed: Arc::default(),
        })
    }

    /// The reader's copy of a thing, or else where it may be put.
    pub async fn get(&self, thing: &str, reader: String) -> Found {
        let found = self.look(Place { key: self.key(thing), reader }).await;
        metrics::cache_request(matches!(found, Found::Copy(_)));
        found
    }

    async fn look(&self, place: Place) -> Found {
        // What is there may be older than what this process has acknowledged.
        if self.owed.load(Ordering::Acquire) > 0 {
            return Found::Nothing(None);
        }
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { place, answer }).is_err() {
            return Found::Nothing(None);
        }
        match answered.await {
            Ok((_, (Some(copy), _))) => Found::Copy(copy),
            Ok((place, (None, None))) => Found::Nothing(Some(place)),
            _ => Found::Nothing(None),
        }
    }

    /// The right to put a copy there of what is read after this; `None` if none was missed there before, if the thing is being changed,
    /// or without Redis.
    pub async fn lease(&self, place: Place) -> Option<Lease> {
        if !self.missed.again(&place) {
            return None;
        }
        let mark = Uuid::now_v7().simple().to_string();
        let mut call = LEASE.key(&place.key);
        call.arg(&place.reader).arg(&mark).arg(millis(self.life));
        let leased: RedisResult<bool> = call.invoke_async(&mut self.redis.request()).await;
        leased.unwrap_or(false).then_some(Lease { place, mark })
    }

    /// Puts a copy there, unless the thing was changed since the lease was taken. Nobody waits for it.
    pub fn put(&self, lease: Lease, copy: Vec<u8>) {
        if copy.len() > MAX_BYTES {
            return;
        }
        let mut connection = self.redis.request();
        tokio::spawn(async move {
            let mut call = PUT.key(lease.place.key);
            call.arg(lease.place.reader).arg(lease.mark).arg(copy);
            if let Err(error) = call.invoke_async::<bool>(&mut connection).await {
                tracing::debug!(%error, "a copy is not kept");
            }
        });
    }

    /// Takes the copies of things away that are about to change, within the time that Redis may take of a request. If Redis does not
    /// answer, they are taken away when it does, and until then this process uses none at all.
    async fn cover(&self, things: &[String]) {
        let keys: Vec<String> = things.iter().map(|thing| self.key(thing)).collect();
        if self.cover_all(&keys).await.is_err() {
            self.owed.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(self.clone().cover_later(keys));
        }
    }

    /// Whether a cover that was set at `since` may be over before long.
    fn is_over(&self, since: Instant) -> bool {
        since.elapsed() > self.cover / 2
    }

    /// Takes copies away that have outlived a change. After a while they have ended by themselves.
    async fn cover_later(self, keys: Vec<String>) {
        for _ in 0..=self.life.as_millis() / AGAIN.as_millis() {
            tokio::time::sleep(AGAIN).await;
            if self.cover_all(&keys).await.is_ok() {
                break;
            }
        }
        self.owed.fetch_sub(1, Ordering::AcqRel);
    }

    async fn cover_all(&self, keys: &[String]) -> RedisResult<()> {
        let mut connection = self.redis.request();
        for keys in keys.chunks(MAX_THINGS) {
            let mut call = COVER_ALL.prepare_invoke();
            keys.iter().for_each(|key| {
                call.key(key);
            });
            let () = call.arg(millis(self.cover)).invoke_async(&mut connection).await?;
        }
        Ok(())
    }

    fn key(&self, thing: &str) -> String {
        self.redis.key(format_args!("copies:{thing}"))
    }
}

/// Where copies were missed lately: a doorkeeper (Einziger et al., TinyLFU, 2017). A later place may take the slot of an earlier
/// one.
#[derive(Debug)]
struct Missed {
    hasher: RandomState,
    slots: Vec<AtomicU64>,
}

impl Default for Missed {
    fn default() -> Self {
        Self { hasher: RandomState::new(), slots: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Missed {
    /// Whether one was missed here before. It is remembered now.
    fn again(&self, place: &Place) -> bool {
        let hash = self.hasher.hash_one((&place.key, &place.reader));
        let slot = usize::try_from(hash % REMEMBERED as u64).ok().and_then(|slot| self.slots.get(slot));
        slot.is_some_and(|slot| slot.swap(hash, Ordering::Relaxed) == hash)
    }
}

/// What a transaction changes of which there may be copies.
#[derive(Debug, Default)]
pub(crate) struct Outdated {
    things: Vec<String>,
    /// Since when their copies are being taken away.
    since: Option<Instant>,
    /// Those who do it.
    covers: Vec<JoinHandle<()>>,
}

impl Outdated {
    /// Takes copies away; nobody waits for it.
    pub(crate) fn add(&mut self, cache: &Cache, things: Vec<String>) {
        self.since.get_or_insert_with(Instant::now);
        self.things.extend_from_slice(&things);
        let cache = cache.clone();
        self.covers.push(tokio::spawn(async move { cache.cover(&things).await }));
    }

    /// Waits until all copies are taken away, and sees to it that they stay away for as long as a commit takes.
    pub(crate) async fn cover(&mut self, cache: &Cache) {
        let mut is_covered = true;
        for cover in self.covers.drain(..) {
            is_covered &= cover.await.is_ok();
        }
        if self.since.is_some_and(|since| !is_covered || cache.is_over(since)) {
            self.since = Some(Instant::now());
            cache.cover(&self.things).await;
        }
    }
}

/// Asks Redis for what several requests want to know at once: a round trip costs a process more than what it brings.
async fn ask(redis: Redis, mut questions: mpsc::Receiver<Question>) {
    let mut asked = Vec::new();
    while questions.recv_many(&mut asked, AT_ONCE).await > 0 {
        // Who can ask already does so first.
        tokio::task::yield_now().await;
        while asked.len() < AT_ONCE
            && let Ok(question) = questions.try_recv()
        {
            asked.push(question);
        }
        // The next ones do not wait for the answer to these.
        tokio::spawn(answer(redis.clone(), std::mem::take(&mut asked)));
    }
}

async fn answer(redis: Redis, asked: Vec<Question>) {
    let mut commands = redis::pipe();
    for Question { place, .. } in &asked {
        commands.cmd("HMGET").arg(&place.key).arg(&place.reader).arg("!");
    }
    let found: RedisResult<Vec<Held>> = commands.query_async(&mut redis.request()).await;
    // Without an answer, they hear of it by what is dropped.
    for (Question { place, answer }, held) in asked.into_iter().zip(found.unwrap_or_default()) {
        let _ = answer.send((place, held));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
