use chrono::{DateTime, Utc};
use common::{
    db::{RunQueryDsl as _, Tx},
    ids::JobId,
    jobs::{Act, Job as _, Probe},
    ledger::{self, JobState, NewJob},
    schema::jobs,
};
use diesel::{ExpressionMethods as _, HasQuery, QueryDsl as _, dsl::count_star};

use super::{Cluster, Effects};

/// A row of the ledger, as far as tests ask for it.
#[derive(Debug, Clone, PartialEq, HasQuery)]
#[diesel(table_name = jobs)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Tries charged.
    pub attempt: i16,
    /// Times that its worker died.
    pub crashes: i16,
    /// Claims ever made.
    pub fence: i32,
    /// When it was due, or is due next.
    pub run_at: DateTime<Utc>,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// When it was known to be in Redis, unless it has to be pushed yet.
    pub pushed_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who held it last.
    pub worker: Option<String>,
    /// Its last failures.
    pub errors: serde_json::Value,
    /// The request that it comes from.
    pub request_id: Option<String>,
}

impl Cluster {
    /// A file for probes to write to.
    pub fn effects(&self, name: &str) -> Effects {
        Effects::at(self.folder().join(name))
    }

    /// Enqueues a probe that writes to `effects` and then does `act`.
    pub async fn enqueue(&self, effects: &Effects, act: Act) -> JobId {
        let mut tx = self.begin().await;
        let job = probe(effects, "one", act).enqueue(&mut tx).await.expect("a job is enqueued");
        tx.commit().await.expect("commit");
        job
    }

    /// Enqueues `count` of them in transactions of a hundred, spread over ten lanes.
    pub async fn enqueue_many(&self, effects: &Effects, count: usize, act: Act) -> Vec<JobId> {
        let mut jobs = Vec::with_capacity(count);
        while jobs.len() < count {
            let mut tx = self.begin().await;
            for _ in 0..(count - jobs.len()).min(100) {
                let lane = format!("lane-{}", jobs.len() % 10);
                jobs.push(probe(effects, &lane, act).enqueue(&mut tx).await.expect("a job is enqueued"));
            }
            tx.commit().await.expect("commit");
        }
        jobs
    }

    /// Enqueues a probe that goes before others.
    pub async fn enqueue_urgently(&self, effects: &Effects, lane: &str) -> JobId {
        let mut tx = self.begin().await;
        let job = NewJob::of(&probe(effects, lane, Act::Nothing)).expect("a probe is JSON").priority(0);
        let job = ledger::enqueue(&mut tx, job).await.expect("a job is enqueued");
        tx.commit().await.expect("commit");
        job
    }

    async fn begin(&self) -> Tx {
        self.db().begin().await.expect("a transaction begins")
    }

    /// What the ledger says of a job.
    pub async fn job(&self, id: JobId) -> JobRow {
        let mut conn = self.db().conn().await.expect("a connection");
        JobRow::query().filter(jobs::id.eq(id)).first(&mut conn).await.expect("the job is in the ledger")
    }

    /// All jobs of a kind, in the order of their time.
    pub async fn jobs(&self, kind: &str) -> Vec<JobRow> {
        let mut conn = self.db().conn().await.expect("a connection");
        let rows = JobRow::query().filter(jobs::kind.eq(kind)).order((jobs::run_at, jobs::id));
        rows.load(&mut conn).await.expect("the ledger can be read")
    }

    /// Whether no job waits or runs. For [`until`](super::until).
    ///
    /// # Errors
    /// How many there are in which state.
    pub async fn drained(&self) -> Result<(), String> {
        let mut conn = self.db().conn().await.map_err(|error| error.to_string())?;
        let left: Vec<(JobState, i64)> = jobs::table
            .filter(jobs::finished_at.is_null())
            .group_by(jobs::state)
            .select((jobs::state, count_star()))
            .load(&mut conn)
            .await
            .map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    }
}

fn probe(effects: &Effects, lane: &str, act: Act) -> Probe {
    Probe { lane: lane.to_owned(), log: Some(effects.path().to_owned()), act }
}
