use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _, pooled_connection::deadpool::Object};
use futures::FutureExt as _;

use crate::{
    cache::Outdated,
    clock::Clock,
    dispatcher::{DueJob, Outbox},
    error::{Error, Result},
    metrics,
};

/// A transaction. Nothing is kept until [`Tx::commit`]; a `Tx` that is dropped before it closes its connection,
/// because a pooled one would keep its locks until somebody happens to use it again (the future of a handler may
/// be dropped at any `await`: the client hung up, a timeout struck).
///
/// Everything that writes more than one row, or owes a job, takes `&mut Tx`.
pub struct Tx {
    /// `None` once committed.
    conn: Option<Object<AsyncPgConnection>>,
    clock: Clock,
    outbox: Outbox,
    due: Vec<DueJob>,
    /// Of what the copies are taken away.
    outdated: Outdated,
}

/// A step of a transaction, a savepoint of PostgreSQL.
#[must_use = "a step ends with `Tx::end_step`"]
#[derive(Debug)]
pub struct Step {
    /// How many jobs were owed when it began.
    due: usize,
}

impl Tx {
    pub(super) fn begin(mut conn: Object<AsyncPgConnection>, clock: Clock, outbox: Outbox) -> Result<Self> {
        // It is on its way when it was polled once, and arrives before the first statement: nobody waits for it alone. If the
        // connection is lost, that statement fails.
        if let Some(sent) = conn.batch_execute("BEGIN").now_or_never() {
            sent?;
        }
        Ok(Self { conn: Some(conn), clock, outbox, due: Vec::new(), outdated: Outdated::default() })
    }

    /// The connection, for statements inside the transaction.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        #[expect(clippy::expect_used, reason = "only `commit` takes it, and that consumes the Tx")]
        self.conn.as_mut().expect("a Tx has its connection until it is committed")
    }

    /// The clock by which this transaction decides.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Remembers a job that may start as soon as this transaction is committed.
    pub(crate) fn push_at_commit(&mut self, job: DueJob) {
        self.due.push(job);
    }

    /// Takes the copies of things away that this transaction changes; nobody waits for it before the commit.
    pub(crate) fn outdate(&mut self, things: impl Iterator<Item = String>) {
        if let Some(cache) = self.outbox.cache() {
            self.outdated.add(cache, things.collect());
        }
    }

    /// Begins a step, which can be undone by itself; [`Tx::end_step`] ends it.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn step(&mut self) -> Result<Step> {
        self.conn().batch_execute("SAVEPOINT step").await?;
        Ok(Step { due: self.due.len() })
    }

    /// Keeps what was done since `step` began, or undoes it with the jobs that it owed. The transaction goes on.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn end_step(&mut self, step: Step, keep: bool) -> Result<()> {
        if !keep {
            self.conn().batch_execute("ROLLBACK TO SAVEPOINT step").await?;
            self.due.truncate(step.due);
        }
        Ok(self.conn().batch_execute("RELEASE SAVEPOINT step").await?)
    }

    /// Makes it so when the copies that it makes outdated are taken away, and hands the jobs that are due to the dispatcher. Redis may
    /// delay it by 15 ms, and cannot make it fail.
    ///
    /// # Errors
    /// If the database refuses or is away. After a lost connection it is unknown whether the commit happened;
    /// an `Idempotency-Key` makes the retry safe.
    pub async fn commit(mut self) -> Result<()> {
        let cache = self.outbox.cache().cloned();
        if let Some(cache) = &cache {
            self.outdated.cover(cache).await;
        }
        self.conn().batch_execute("COMMIT").await?;
        self.conn = None;
        self.outbox.send(std::mem::take(&mut self.due));
        if let Some(cache) = &cache {
            self.outdated.cover(cache).await;
        }
        Ok(())
    }

    /// Commits if `outcome` is good; otherwise rolls back, and the connection can be used again. A refusal is nothing
    /// unusual, and should not cost a connection as a dropped `Tx` does.
    ///
    /// # Errors
    /// That of `outcome`, or of the commit.
    pub async fn finish<T, E: From<Error>>(mut self, outcome: Result<T, E>) -> Result<T, E> {
        if outcome.is_ok() {
            self.commit().await?;
        } else if self.conn().batch_execute("ROLLBACK").await.is_ok() {
            self.conn = None;
        }
        outcome
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            // Out of the pool and closed: PostgreSQL rolls back and frees the locks.
            drop(Object::take(conn));
            metrics::transaction_dropped();
        }
    }
}
