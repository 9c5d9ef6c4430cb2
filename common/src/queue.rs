//! The queue of jobs in Redis (design §2.2): who works on what next, and nothing else. It holds ids only; whether
//! a job is alive, due or done is for the ledger to say. API and scheduler push, the worker does the rest.
//! Every command on these keys is in this file and its scripts.
//!
//! | Key | Holds | Score or value |
//! |---|---|---|
//! | `tt:{q}:wait` zset | ids of jobs that may start | ms: `tag + priority × 60,000` |
//! | `tt:{q}:leased` zset | ids handed to a worker | end of the lease, ms in Redis time |
//! | `tt:{q}:lanes` hash | priority and lane, of lanes that have work waiting | the last tag given, ms |
//! | `tt:{q}:wake` channel | something was pushed | how many |
//! | `tt:{q}:epoch` string | the mark of the last full reconcile | uuid; gone if Redis lost its data |
//!
//! `tt` is `REDIS_PREFIX`; the braces are literal, so that Redis Cluster keeps the keys of a queue together.
//! An id is its 16 bytes (text would cost another 20 bytes per key that holds it). A millisecond is exact in a
//! double until the year 287,396.
//!
//! **Order.** `tag = max(due, last[lane] + STEP)`: a lane's jobs stand a second apart, so that the first jobs of a
//! small lane come before the rest of a large one. A priority step counts like a minute of waiting (0 first).
//! Nothing is held back by its score: where only one lane has work, it gets every worker.

use std::{fmt, time::Duration};

use futures::{Stream, StreamExt};
use redis::{
    AsyncCommands, FromRedisValue, RedisResult, RedisWrite, Script, ScriptInvocation, ToRedisArgs,
    ToSingleRedisArg,
};
use uuid::Uuid;

use crate::{
    dispatcher::DueJob,
    ids::JobId,
    redis::{Connection, Redis, script},
};

/// How many ids a script takes at most, so that none of them blocks Redis for long.
pub const MAX_IDS: usize = 500;
/// The distance between two jobs of one lane, in milliseconds. A lane is served at least once a second
/// however many others wait; the larger the step, the sooner a newcomer passes a backlog.
const STEP: i64 = 1_000;
/// What a priority step is worth, in milliseconds.
const PRIORITY_STEP: i64 = 60_000;

script!(PUSH, "queue/push.lua");
script!(FETCH, "queue/fetch.lua");
script!(ACK, "queue/ack.lua");
script!(RENEW, "queue/renew.lua");
script!(RELEASE, "queue/release.lua");
script!(UNKNOWN, "queue/unknown.lua");

/// A job handed to this worker until its lease ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leased {
    /// The job.
    pub id: JobId,
    /// The place it had, for [`Queue::release`].
    pub score: f64,
}

/// One queue in Redis. Cheap to clone. All methods fail when Redis does not answer within 5 s; what they did
/// or did not do is then unknown, and each is safe to repeat.
#[derive(Clone)]
pub struct Queue {
    name: String,
    wait: String,
    leased: String,
    lanes: String,
    wake: String,
    epoch: String,
    redis: Connection,
}

impl Queue {
    /// The queue called `name`.
    #[must_use]
    pub fn new(redis: &Redis, name: &str) -> Self {
        let key = |what| redis.key(format_args!("{{{name}}}:{what}"));
        Self {
            name: name.to_owned(),
            wait: key("wait"),
            leased: key("leased"),
            lanes: key("lanes"),
            wake: key("wake"),
            epoch: key("epoch"),
            redis: redis.queue(),
        }
    }

    /// Its name, without prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds jobs that may start and wakes the workers. Answers with the ids that it **refused** because they
    /// already wait or are leased: they must not be marked as pushed, for the lease may belong to a finished
    /// attempt whose `ack` is under way.
    ///
    /// # Errors
    /// Also if Redis has no memory left: the relay tries again.
    pub async fn push(&self, jobs: &[DueJob]) -> RedisResult<Vec<JobId>> {
        let mut refused = Vec::new();
        for jobs in jobs.chunks(MAX_IDS) {
            let mut call = PUSH.prepare_invoke();
            call.key(&self.wait).key(&self.leased).key(&self.lanes);
            call.arg(&self.wake).arg(STEP).arg(PRIORITY_STEP);
            for job in jobs {
                call.arg(job.id).arg(job.run_at.timestamp_millis()).arg(job.priority).arg(&job.lane);
            }
            refused.extend(self.call::<Vec<JobId>>(&call).await?);
        }
        Ok(refused)
    }

    /// Leases the first `n` jobs (at most 500) for `lease`, after giving back up to 500 whose lease is over.
    ///
    /// # Errors
    /// If Redis does not answer. Should it have leased jobs, they come back when the lease ends.
    pub async fn fetch(&self, n: usize, lease: Duration) -> RedisResult<Vec<Leased>> {
        let mut call = FETCH.prepare_invoke();
        call.key(&self.wait).key(&self.leased).key(&self.lanes).arg(n.min(MAX_IDS)).arg(millis(lease));
        let fetched: Vec<(JobId, f64)> = self.call(&call).await?;
        Ok(fetched.into_iter().map(|(id, score)| Leased { id, score }).collect())
    }

    /// Forgets jobs that need no worker any more. Answers how many of them were leased.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn ack(&self, ids: &[JobId]) -> RedisResult<usize> {
        self.on_ids(&ACK, None, ids).await
    }

    /// Leases jobs for `lease` from now on, also where Redis lost the lease or gave the job back. A short lease
    /// is how a job is put aside for that time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn renew(&self, ids: &[JobId], lease: Duration) -> RedisResult<()> {
        self.on_ids(&RENEW, Some(millis(lease)), ids).await.map(drop)
    }

    /// Gives jobs back, each to the place it had, and wakes the workers.
    ///
    /// # Errors
    /// If Redis does not answer. The jobs then come back when the lease ends.
    pub async fn release(&self, jobs: &[Leased]) -> RedisResult<()> {
        for jobs in jobs.chunks(MAX_IDS) {
            let mut call = RELEASE.prepare_invoke();
            call.key(&self.wait).key(&self.leased).arg(&self.wake);
            for job in jobs {
                call.arg(job.score).arg(job.id);
            }
            self.call::<()>(&call).await?;
        }
        Ok(())
    }

    /// Which of these ids Redis holds neither as waiting nor as leased.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn unknown(&self, ids: &[JobId]) -> RedisResult<Vec<JobId>> {
        let mut unknown = Vec::new();
        for ids in ids.chunks(MAX_IDS) {
            let mut call = UNKNOWN.prepare_invoke();
            call.key(&self.wait).key(&self.leased);
            call.arg(ids);
            unknown.extend(self.call::<Vec<JobId>>(&call).await?);
        }
        Ok(unknown)
    }

    /// The mark of the last full reconcile; `None` if there was none or Redis lost its data.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn epoch(&self) -> RedisResult<Option<Uuid>> {
        let epoch: Option<String> = self.redis.clone().get(&self.epoch).await?;
        Ok(epoch.and_then(|epoch| epoch.parse().ok()))
    }

    /// Marks the queue after a full reconcile.
    ///
    /// # Errors
    /// If Redis does not answer or has no memory left.
    pub async fn set_epoch(&self, epoch: Uuid) -> RedisResult<()> {
        self.redis.clone().set(&self.epoch, epoch.to_string()).await
    }

    /// How many jobs wait, and how many are leased.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn sizes(&self) -> RedisResult<(u64, u64)> {
        let mut both = redis::pipe();
        both.zcard(&self.wait).zcard(&self.leased);
        both.query_async(&mut self.redis.clone()).await
    }

    async fn on_ids(&self, script: &'static Script, first: Option<u64>, ids: &[JobId]) -> RedisResult<usize> {
        let mut sum = 0;
        for ids in ids.chunks(MAX_IDS) {
            let mut call = script.prepare_invoke();
            call.key(&self.wait).key(&self.leased);
            call.arg(first);
            call.arg(ids);
            sum += self.call::<usize>(&call).await?;
        }
        Ok(sum)
    }

    /// Runs a script by its hash; loads it first where Redis does not know it (a restart, `SCRIPT FLUSH`).
    async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> RedisResult<T> {
        call.invoke_async(&mut self.redis.clone()).await
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.name).finish()
    }
}

/// Opens one connection on which Redis says which of `queues` something was pushed to, as an index. The stream
/// ends when the connection does; what was pushed until there is a new one goes unsaid, so workers also poll.
///
/// # Errors
/// If Redis cannot be reached.
pub async fn wakes(redis: &Redis, queues: &[Queue]) -> RedisResult<impl Stream<Item = usize> + Send + use<>> {
    let channels: Vec<String> = queues.iter().map(|queue| queue.wake.clone()).collect();
    let mut pubsub = redis.pubsub().await?;
    pubsub.subscribe(&channels).await?;
    Ok(pubsub.into_on_message().filter_map(move |message| {
        let index = channels.iter().position(|channel| channel == message.get_channel_name());
        async move { index }
    }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl ToRedisArgs for JobId {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(self.uuid().as_bytes());
    }
}

impl ToSingleRedisArg for JobId {}

impl FromRedisValue for JobId {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        Ok(Uuid::from_bytes(FromRedisValue::from_redis_value(value)?).into())
    }
}

#[cfg(test)]
mod tests;
