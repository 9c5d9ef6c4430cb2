use std::{collections::BTreeMap, time::Duration};

use common::{db::RunQueryDsl as _, ids::TaskId, jobs::PROBE};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Nullable, SmallInt, Text, Timestamptz, Uuid},
};
use reqwest::{Method, StatusCode};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::{Surroundings, TICK};
use crate::{
    books::{JobState, State, TaskState},
    cluster::Cluster,
    journal::{Change, Journal, What},
    load::Client,
};

/// Nobody waits ten minutes for a retry: what failed while something was wrong is tried again now. A webhook's attempts are
/// not the job's.
const HASTEN: &str = "UPDATE jobs SET run_at = created_at
    WHERE state = 'ready' AND (attempt > 0 OR kind = 'send_webhook') AND run_at > created_at";
/// Nor for the time at which a circuit is probed.
const PROBE_NOW: &str = "UPDATE webhook_endpoints SET retry_at = created_at WHERE retry_at > created_at";
/// Between two looks at the ledger.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until all lives are over and no job is left, for `limit` after all was `healed` at most, and answers how long
/// that took: `None` if it was too long.
pub(super) async fn wait(
    around: &mut Surroundings<'_>,
    healed: Instant,
    limit: Duration,
    lives: &TaskTracker,
) -> anyhow::Result<Option<Duration>> {
    let mut looked = Instant::now();
    loop {
        around.look()?;
        sleep(TICK).await;
        if looked.elapsed() < PAUSE {
            continue;
        }
        if owed(around.cluster).await == Ok(0) && lives.is_empty() {
            return Ok(Some(healed.elapsed()));
        }
        if healed.elapsed() > limit {
            return Ok(None);
        }
        looked = Instant::now();
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// How many jobs and fires are not settled. Also makes what failed due at once.
async fn owed(cluster: &Cluster) -> Result<i64, String> {
    let ask = async {
        let mut conn = cluster.db().conn().await?;
        for sql in [PROBE_NOW, HASTEN] {
            diesel::sql_query(sql).execute(&mut conn).await?;
        }
        let count: Count = diesel::sql_query(
            "SELECT (SELECT count(*) FROM jobs WHERE finished_at IS NULL)
                  + (SELECT count(*) FROM reminder_fires WHERE state IN ('planned', 'deferred', 'queued', 'sending')) AS count",
        )
        .get_result(&mut conn)
        .await?;
        Ok::<_, anyhow::Error>(count.count)
    };
    ask.await.map_err(|error| error.to_string())
}

#[derive(QueryableByName)]
struct JobRow {
    #[diesel(sql_type = Uuid)]
    id: common::ids::JobId,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = SmallInt)]
    crashes: i16,
    #[diesel(sql_type = Nullable<Text>)]
    worker: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// What the system says in the end: the tasks, by its API; the jobs, by its ledger.
pub(super) async fn look(
    cluster: &Cluster,
    people: &[Client],
    journal: &Journal,
    settled: Option<Duration>,
) -> anyhow::Result<State> {
    let mut conn = cluster.db().conn().await?;
    let rows: Vec<JobRow> = diesel::sql_query(
        "SELECT id, kind, state::text AS state, crashes, worker, finished_at FROM jobs ORDER BY id",
    )
    .load(&mut conn)
    .await?;
    drop(conn);
    let jobs = rows.into_iter().map(|row| {
        // Host, pid and a random part: see who claims in the worker.
        let pid = row.worker.as_deref().and_then(|worker| worker.rsplit('-').nth(1)?.parse().ok());
        let JobRow { id, kind, state, crashes, finished_at, .. } = row;
        JobState { id, is_probe: kind == PROBE, kind, state, crashes, pid, finished_at }
    });
    let jobs = jobs.collect();

    let mut owners: BTreeMap<u32, String> = BTreeMap::new();
    let mut ids: BTreeMap<u32, TaskId> = BTreeMap::new();
    for entry in Journal::read(journal.path())? {
        match entry.what {
            What::Asks { task, change: Change::Create { person, .. } } => drop(owners.insert(task, person)),
            What::Told { task, id: Some(id), .. } => drop(ids.insert(task, id)),
            _ => {}
        }
    }
    let mut tasks = BTreeMap::new();
    for (task, id) in ids {
        let owner =
            people.iter().find(|person| owners.get(&task).is_some_and(|owner| owner == person.email()));
        if let Some(owner) = owner {
            tasks.insert(task, task_state(owner, id).await);
        }
    }
    Ok(State { settled, tasks, jobs })
}

async fn task_state(owner: &Client, id: TaskId) -> TaskState {
    let (status, task) = owner.ask(Method::GET, &format!("/tasks/{id}"), &[], None).await;
    let mut fires = Vec::new();
    for reminder in task["reminders"].as_array().into_iter().flatten() {
        let path = format!("/tasks/{id}/reminders/{}/fires", reminder["id"].as_str().unwrap_or_default());
        let (_, answer) = owner.ask(Method::GET, &path, &[], None).await;
        fires.extend(answer["data"].as_array().into_iter().flatten().map(|fire| {
            let word = |name: &str| fire[name].as_str().unwrap_or("-").to_owned();
            (word("state"), word("reason"))
        }));
    }
    TaskState {
        there: status == StatusCode::OK && task["deleted_at"].is_null(),
        title: task["title"].as_str().unwrap_or_default().to_owned(),
        done: task["completed"] == true,
        fires,
    }
}
