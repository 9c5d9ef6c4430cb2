use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Effects, Person, Process, Program, Shape, secs, until};
use chrono::TimeDelta;
use common::{
    clock::Clock,
    jobs::{Act, MAIL, PROBE},
    ledger::JobState,
};
use futures::future::join_all;
use rand::{RngExt as _, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    figures::say,
    options::{chance, length},
};

/// Probes that a worker runs at once.
const CONCURRENCY: usize = 20;
/// Mails that a worker sends at once.
const MAIL_CONCURRENCY: usize = 10;

/// R2: every 2 s one of two APIs, three workers and two schedulers is killed, at 50 jobs a second. Nothing that was
/// acknowledged is lost, there are no more duplicates than jobs that were running, and all is drained within 60 s.
#[tokio::test]
async fn r2_nothing_is_lost_while_processes_are_killed_at_random() {
    let mut chance = chance("R2");
    let mut cluster = Cluster::start(Shape { apis: 2, ..Shape::default() }).await;
    let effects = cluster.effects("effects");
    let mut people = Vec::new();
    for number in 0..6 {
        people.push(cluster.person(&format!("person-{number}")).await);
    }

    let mut load = Load::default();
    let (mut kills, mut killed_workers) = (0, 0);
    let end = Instant::now() + length(secs(30));
    let (mut next_kill, mut next_start) = (Instant::now() + secs(1), None);
    let mut every = tokio::time::interval(Duration::from_millis(500));
    while Instant::now() < end {
        every.tick().await;
        load.step(&cluster, &effects, &people).await;
        if next_start.is_some_and(|at| Instant::now() > at) {
            assert_eq!(cluster.restart_ended(), 1, "only what was killed has ended");
            next_start = None;
        }
        if next_start.is_none() && Instant::now() > next_kill {
            next_kill = Instant::now() + secs(2);
            let victim = victim(&mut cluster, &mut chance);
            killed_workers += usize::from(victim.program() == Program::Worker);
            victim.kill9().await;
            kills += 1;
            next_start = Some(Instant::now() + Duration::from_millis(chance.random_range(0..1_500)));
        }
    }
    cluster.restart_ended();
    let stopped = Instant::now();
    until("everything is drained", secs(60), async || {
        cluster.drained().await?;
        load.all_reminded(&cluster)
    })
    .await;
    let drained = stopped.elapsed();
    cluster.assert_all_live();

    effects.started(load.jobs).unwrap();
    let jobs = cluster.jobs("probe").await;
    // In a long run, chance may make a job look like one that kills its workers.
    let unlucky = jobs.iter().filter(|job| job.state == JobState::Dead && job.crashes == 3).count();
    let done = jobs.iter().filter(|job| job.state == JobState::Done).count();
    assert_eq!(done + unlucky, load.jobs, "every job is done");
    assert!(unlucky * 1_000 <= load.jobs, "{unlucky} are dead");
    let again = effects.all().len() - load.jobs;
    let mailed_again: usize = load.mailed(&cluster).values().map(|count| count.saturating_sub(1)).sum();
    say!(
        "R2: {kills} kills, {killed_workers} of workers; {} jobs, {again} started again, {unlucky} dead; {} reminders ({} requests \
         failed), {mailed_again} sent again; drained in {:.1} s",
        load.jobs,
        load.reminders.len(),
        load.failed,
        drained.as_secs_f64()
    );
    assert!(load.jobs >= 600 && load.reminders.len() >= 50, "too little went on");
    assert!(again <= killed_workers * CONCURRENCY, "{again} duplicates");
    assert!(mailed_again <= killed_workers * MAIL_CONCURRENCY, "{mailed_again} duplicates");
}

fn victim<'a>(cluster: &'a mut Cluster, chance: &mut StdRng) -> &'a mut Process {
    let processes: Vec<_> = cluster.processes_mut().collect();
    let number = chance.random_range(0..processes.len());
    processes.into_iter().nth(number).unwrap()
}

/// What was asked for and acknowledged.
#[derive(Default)]
struct Load {
    steps: usize,
    jobs: usize,
    /// Titles of tasks that were answered with 201.
    reminders: Vec<String>,
    failed: usize,
}

impl Load {
    /// 25 jobs; and three tasks with a reminder, through the APIs in turn.
    async fn step(&mut self, cluster: &Cluster, effects: &Effects, people: &[Person]) {
        let asked = (0..3).map(|number| {
            let number = 3 * self.steps + number;
            let title = format!("task #{number:05}");
            let api = cluster.apis[number % cluster.apis.len()].public();
            let person = people[number % people.len()].through(api);
            let at = Clock::Database.instant() + TimeDelta::seconds(1);
            let task = json!({ "title": title, "reminders": [{ "kind": "absolute", "at": at }] });
            async move { (title, person.request(Method::POST, "/tasks", Some(task)).await) }
        });
        let (jobs, answers) =
            tokio::join!(cluster.enqueue_many(effects, 25, Act::Sleep(600)), join_all(asked));
        self.steps += 1;
        self.jobs += jobs.len();
        for (title, answer) in answers {
            match answer {
                Ok(answer) if answer.status == StatusCode::CREATED => self.reminders.push(title),
                // One that was killed before it answered may have done it all the same.
                Err(_) => self.failed += 1,
                Ok(answer) => panic!("{}: {}", answer.status, answer.body),
            }
        }
    }

    /// How often each task that was acknowledged is in a mail.
    fn mailed(&self, cluster: &Cluster) -> BTreeMap<String, usize> {
        let mails = cluster.mail().messages();
        let count = |title: &String| mails.iter().filter(|mail| mail.text.contains(title)).count();
        self.reminders.iter().map(|title| (title.clone(), count(title))).collect()
    }

    fn all_reminded(&self, cluster: &Cluster) -> Result<(), String> {
        let mailed = self.mailed(cluster);
        let missing: Vec<_> = mailed.iter().filter(|(_, count)| **count == 0).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("no mail of {missing:?}")) }
    }
}

/// R4: a scheduler is killed after its dispatcher has pushed a job and before it has marked it as pushed. The job is
/// neither lost nor run twice.
#[tokio::test]
async fn r4_a_kill_between_push_and_mark_of_the_dispatcher_changes_nothing() {
    let shape = Shape { workers: 0, schedulers: 1, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let (mut people, mut between) = (Vec::new(), 0);
    for round in 1..=5 {
        let person = cluster.person(&format!("person-{round}")).await;
        let at = Clock::Database.instant();
        let task = json!({ "title": "Ship it", "reminders": [{ "kind": "absolute", "at": at }] });
        person.create_task(task).await;
        people.push(person.email);
        pushed(&cluster, MAIL, round).await;
        between += kill_unmarked(&mut cluster, "send_reminder", |cluster| &mut cluster.schedulers[0]).await;
    }
    runs_once(&mut cluster, "send_reminder", people.len()).await;
    assert_one_mail_each(&cluster, &people, "a scheduler", between);
}

/// R4 for the API: it is killed after it has pushed a mail that a request asked for.
#[tokio::test]
async fn r4_a_kill_between_push_and_mark_of_the_api_changes_nothing() {
    let shape = Shape { workers: 0, schedulers: 1, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let (mut people, mut between) = (Vec::new(), 0);
    for round in 1..=5 {
        let person = cluster.person(&format!("person-{round}")).await;
        let forgot = json!({ "email": person.email });
        let answer = person.request(Method::POST, "/auth/password/forgot", Some(forgot)).await.unwrap();
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        people.push(person.email);
        pushed(&cluster, MAIL, round).await;
        between += kill_unmarked(&mut cluster, "send_mail", |cluster| &mut cluster.apis[0]).await;
    }
    runs_once(&mut cluster, "send_mail", people.len()).await;
    assert_one_mail_each(&cluster, &people, "the API", between);
}

/// Kills a process whose dispatcher has just pushed a job (for 300 ms it leaves a claim the time to mark it) and starts it
/// again. Answers 1 if the job was not marked.
async fn kill_unmarked(
    cluster: &mut Cluster,
    kind: &str,
    process: fn(&mut Cluster) -> &mut Process,
) -> usize {
    process(cluster).kill9().await;
    let unmarked = cluster.jobs(kind).await.iter().any(|job| job.pushed_at.is_none());
    process(cluster).restart();
    process(cluster).wait_ready().await;
    usize::from(unmarked)
}

fn assert_one_mail_each(cluster: &Cluster, people: &[String], of: &str, between: usize) {
    let mut mailed: Vec<_> =
        cluster.mail().messages().iter().map(|mail| mail.to[0].address.clone()).collect();
    mailed.sort_unstable();
    say!("R4: {} mails; {between} kills of {of} between push and mark", mailed.len());
    assert_eq!(mailed, people, "one mail each");
    assert!(between > 0, "every kill came too late");
}

/// R4 for the relay, whose push and mark are in one transaction.
#[tokio::test]
async fn r4_a_kill_between_push_and_mark_of_the_relay_changes_nothing() {
    const JOBS: usize = 100;
    let shape = Shape { apis: 0, workers: 0, schedulers: 1, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let effects = cluster.effects("effects");
    // The mark takes so long that there is time for a kill.
    let slow = "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
                CREATE TRIGGER slowly BEFORE UPDATE OF pushed_at ON jobs EXECUTE FUNCTION slowly();";
    alter(&cluster, slow).await;
    let args = json!({ "lane": "ann", "log": effects.path(), "act": "nothing" });
    let insert = format!(
        "INSERT INTO jobs (id, kind, queue, lane, args, max_attempts, run_at, created_at)
         SELECT gen_random_uuid(), 'probe', '{PROBE}', 'lane', '{args}', 25, t, t
         FROM generate_series(1, {JOBS}), (SELECT timestamptz '{}') AS due (t)",
        Clock::Database.instant() - TimeDelta::minutes(1),
    );
    cluster.sql(&insert).await;
    pushed(&cluster, PROBE, JOBS).await;
    cluster.schedulers[0].kill9().await;
    let unmarked = cluster.jobs("probe").await.iter().filter(|job| job.pushed_at.is_none()).count();
    assert_eq!(unmarked, JOBS, "it was not killed in between");
    alter(&cluster, "DROP TRIGGER slowly ON jobs").await;

    cluster.schedulers[0].restart();
    cluster.schedulers[0].wait_ready().await;
    runs_once(&mut cluster, "probe", JOBS).await;
    say!("R4: {JOBS} jobs, pushed by a relay that was killed before its mark");
    assert_eq!(effects.all().len(), JOBS, "each starts once");
}

async fn alter(cluster: &Cluster, statements: &str) {
    use diesel_async::SimpleAsyncConnection as _;
    cluster.owner().await.batch_execute(statements).await.unwrap();
}

/// Waits until Redis holds so many jobs.
async fn pushed(cluster: &Cluster, queue: &str, count: usize) {
    let queue = cluster.queue_named(queue);
    until(format!("{count} jobs are pushed"), secs(10), async || match queue.sizes().await {
        Ok((waiting, 0)) if waiting == count as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// A worker runs what there is; the relay had its turn before, and must not have doubled anything.
async fn runs_once(cluster: &mut Cluster, kind: &str, count: usize) {
    until("the relay has marked all", secs(10), async || {
        let left = cluster.jobs(kind).await.iter().filter(|job| job.pushed_at.is_none()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} are not marked")) }
    })
    .await;
    cluster.add_worker().await;
    until("everything is drained", secs(20), async || cluster.drained().await).await;
    let jobs = cluster.jobs(kind).await;
    assert_eq!(jobs.len(), count);
    for job in jobs {
        assert_eq!((job.state, job.attempt, job.fence), (JobState::Done, 1, 1), "{job:?}");
    }
}
