//! A run from its beginning to the books: a cluster, a load on it, faults by their schedule, and then peace until
//! everything is done.

mod injury;
mod progress;
mod settle;

use std::{path::PathBuf, sync::Arc, time::Duration};

use common::sabotage::{Sabotage, VARIABLE};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tools::webhook_sink::Answer;

use crate::{
    books::{self, Balance},
    cluster::{Cluster, Effects, Shape},
    faults::{self, Fault},
    journal::{Journal, Title, What},
    load::{self, Probes, Receiver},
};

use injury::Injuries;
use progress::Progress;

/// How often the run looks around.
const TICK: Duration = Duration::from_millis(50);

/// What a run consists of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// From which chance comes.
    pub seed: u64,
    /// How long there are load and faults.
    pub length: Duration,
    /// What may go wrong.
    pub faults: Vec<Fault>,
    /// Tasks a second.
    pub tasks: f64,
    /// Jobs beside them.
    pub probes: Probes,
    /// Within this time after the last fault everything is done.
    pub drain: Duration,
    /// The defect that is planted in the binaries.
    pub sabotage: Option<Sabotage>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The books.
    pub balance: Balance,
    /// Where the journal and the logs are.
    pub folder: PathBuf,
}

/// Makes a run.
///
/// # Errors
/// If the journal cannot be written or read.
///
/// # Panics
/// If the cluster cannot be started, or a fault not be brought about.
pub async fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let settings = plan.sabotage.iter().map(|sabotage| (VARIABLE, sabotage.name().to_owned()));
    let shape = Shape {
        apis: 2,
        own_redis: true,
        own_postgres: true,
        proxied: true,
        settings: settings.collect(),
        ..Shape::default()
    };
    let mut cluster = Cluster::start(shape).await;
    let journal = Arc::new(Journal::create(&cluster.path().join("journal.jsonl"))?);
    let effects = cluster.effects("probes");

    let stop = CancellationToken::new();
    let lives = TaskTracker::new();
    let apis = cluster.apis.iter().map(crate::cluster::Process::public).collect();
    let receiver = Receiver { url: cluster.webhooks().url(""), db: cluster.db().clone() };
    let people =
        load::people(journal.clone(), apis, receiver, plan.tasks, plan.seed, lives.clone(), stop.clone());
    let people = tokio::spawn(people);
    let probes = tokio::spawn(load::enqueue(
        journal.clone(),
        cluster.db().clone(),
        effects.clone(),
        plan.probes.clone(),
        plan.seed,
        stop.clone(),
    ));

    let processes = cluster.processes_mut().count();
    let schedule = faults::schedule(plan.seed, plan.length, &plan.faults, processes);
    let mut around = Surroundings {
        injuries: Injuries::new(journal.clone()),
        progress: Progress::new(journal.clone(), plan.length),
        journal: journal.clone(),
        mails: 0,
        webhooks: 0,
        cluster: &mut cluster,
    };
    let began = Instant::now();
    let mut schedule = schedule.into_iter().peekable();
    while began.elapsed() < plan.length {
        while let Some(planned) = schedule.next_if(|planned| planned.at <= began.elapsed()) {
            around.injuries.inflict(around.cluster, &planned).await;
        }
        around.injuries.heal_servers(around.cluster).await;
        around.look()?;
        sleep(TICK).await;
    }
    stop.cancel();
    while around.injuries.heal_all(around.cluster).await {
        around.look()?;
        sleep(TICK).await;
    }

    let healed = Instant::now();
    lives.close();
    // A life ends when its last change is acknowledged, at most a minute after it began.
    let settled = settle::wait(&mut around, healed, plan.drain, &lives).await?;
    around.note_arrivals()?;
    around.progress.end();
    probes.abort();
    let people = people.await?;
    let state = settle::look(&cluster, &people, &journal, settled).await?;
    let balance = books::balance(
        &Journal::read(journal.path())?,
        &effects.all(),
        &Effects::at(effects.path().with_added_extension("done")).all(),
        &state,
    );
    let folder = cluster.path().to_owned();
    if !balance.differences.is_empty() {
        cluster.keep_logs();
    }
    Ok(Outcome { balance, folder })
}

/// What is looked after while time passes.
struct Surroundings<'a> {
    cluster: &'a mut Cluster,
    injuries: Injuries,
    progress: Progress,
    journal: Arc<Journal>,
    /// Mails noted so far.
    mails: usize,
    /// Webhooks noted so far.
    webhooks: usize,
}

impl Surroundings<'_> {
    /// Starts again what has ended, notes what has come, and shows how it stands.
    fn look(&mut self) -> anyhow::Result<()> {
        self.injuries.supervise(self.cluster);
        if self.progress.is_time_to_count() {
            self.note_arrivals()?;
        }
        self.progress.show(&self.injuries.present());
        Ok(())
    }

    /// Notes what has come since the last time.
    fn note_arrivals(&mut self) -> anyhow::Result<()> {
        let messages = self.cluster.mail().messages();
        for message in &messages[self.mails..] {
            let titles = Title::all_in(&message.text);
            self.progress.mail(message.arrived_at, &titles);
            self.journal.note(What::Mail {
                arrived_at: message.arrived_at,
                message_id: message.message_id.clone(),
                to: message.envelope.to.clone(),
                titles,
            });
        }
        self.mails = messages.len();
        let calls = self.cluster.webhooks().calls();
        for call in &calls[self.webhooks..] {
            let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            self.journal.note(What::Call {
                arrived_at: call.at,
                receiver: call.path.trim_start_matches('/').to_owned(),
                webhook_id: call.header("webhook-id").to_owned(),
                event: word(&body["type"]),
                task: word(&body["data"]["id"]).parse().unwrap_or_else(|_| uuid::Uuid::nil().into()),
                // The status decides, whatever comes after it.
                taken: matches!(call.answer, Answer::Status(200) | Answer::Drip | Answer::Huge),
            });
        }
        self.webhooks = calls.len();
        Ok(self.journal.sync()?)
    }
}
