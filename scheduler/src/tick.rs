//! Turns the slots of the cron table into jobs. Any number of schedulers do this at once: who locks a schedule's row in
//! `scheduler_state` acts, in one transaction with the job and the new state; the others pass on. The job's unique key
//! holds even where that row was lost.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    ledger, metrics,
};
use diesel::{
    QueryableByName,
    sql_types::{Array, Nullable, Text, Timestamptz},
};
use tokio::time::Instant;

use crate::{
    rounds::Round,
    schedule::{Owed, Schedule},
};

/// The longest sleep: how soon a scheduler notices that the database's clock was moved.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(1);

/// The loop over the cron table.
pub struct Ticker {
    db: Db,
    table: Vec<Schedule>,
}

/// A schedule's state, and the time by which it is judged.
#[derive(QueryableByName)]
struct State {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_slot_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

impl Ticker {
    /// A loop over `table`.
    pub fn new(db: Db, table: Vec<Schedule>) -> Self {
        Self { db, table }
    }

    /// Enqueues what is owed now, and answers how long it is until the next slot, at most a second.
    ///
    /// # Errors
    /// If the database is away; schedules that were not reached are as they were.
    pub async fn tick(&self) -> Result<Duration> {
        let read_at = Instant::now();
        let states = self.states().await?;
        let mut pause = LONGEST_PAUSE;
        for schedule in &self.table {
            let Some(state) = states.iter().find(|state| state.name == schedule.name()) else { continue };
            if let Some(last) = state.last_slot_at {
                metrics::schedule_reached(schedule.name(), last.timestamp() as f64);
            }
            match state.last_slot_at {
                None => self.start(schedule).await?,
                Some(last) if schedule.owed(last, state.now).last.is_some() => self.fire(schedule).await?,
                Some(_) => {}
            }
            if let Some(next) = schedule.next(state.now, pause) {
                pause = next - state.now;
            }
        }
        Ok(pause.to_std().unwrap_or_default().saturating_sub(read_at.elapsed()))
    }

    async fn states(&self) -> Result<Vec<State>> {
        let names: Vec<&str> = self.table.iter().map(Schedule::name).collect();
        let states = sql!(
            "SELECT t.name, s.last_slot_at, {now} AS now
             FROM unnest({names}) AS t(name) LEFT JOIN scheduler_state s ON s.name = t.name",
            names: Array<Text> = names,
            now = self.db.clock().now(),
        )
        .load(&mut self.db.conn().await?)
        .await?;
        Ok(states)
    }

    /// A schedule that is seen for the first time counts from now: there is nothing to catch up with.
    async fn start(&self, schedule: &Schedule) -> Result<()> {
        sql!(
            "INSERT INTO scheduler_state (name, last_slot_at) VALUES ({name}, {now}) ON CONFLICT (name) DO NOTHING",
            name: Text = schedule.name(),
            now = self.db.clock().now(),
        )
        .execute(&mut self.db.conn().await?)
        .await?;
        Ok(())
    }

    /// Enqueues what a schedule owes, unless another scheduler is about it.
    async fn fire(&self, schedule: &Schedule) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let now = tx.clock().now();
        let state: Option<State> = sql!(
            "SELECT name, last_slot_at, {now} AS now FROM scheduler_state WHERE name = {name} FOR UPDATE SKIP LOCKED",
            now = now,
            name: Text = schedule.name(),
        )
        .load(tx.conn())
        .await?
        .pop();
        let owed = match state {
            Some(State { last_slot_at: Some(last), now, .. }) => schedule.owed(last, now),
            _ => Owed::default(),
        };
        let mut enqueued = 0;
        for slot in &owed.slots {
            let job = ledger::enqueue_once(&mut tx, schedule.job(*slot)).await?;
            enqueued += usize::from(job.is_some());
        }
        if let Some(last) = owed.last {
            sql!(
                "UPDATE scheduler_state SET last_slot_at = {last} WHERE name = {name}",
                last: Timestamptz = last,
                name: Text = schedule.name(),
            )
            .execute(tx.conn())
            .await?;
        }
        tx.commit().await?;
        report(schedule.name(), &owed, enqueued);
        Ok(())
    }
}

fn report(schedule: &str, owed: &Owed, enqueued: usize) {
    metrics::scheduler_tick(schedule, "enqueued", enqueued);
    metrics::scheduler_tick(schedule, "duplicate", owed.slots.len() - enqueued);
    metrics::scheduler_tick(schedule, "skipped", owed.skipped);
    if owed.skipped > 0 {
        tracing::warn!(
            schedule,
            skipped = owed.skipped,
            enqueued,
            "slots were missed while no scheduler ran"
        );
    } else if enqueued > 0 {
        tracing::debug!(schedule, enqueued, "tick");
    }
}

impl Round for Ticker {
    const NAME: &'static str = "tick";

    async fn round(&mut self) -> anyhow::Result<Duration> {
        Ok(self.tick().await?)
    }
}

#[cfg(test)]
mod tests;
