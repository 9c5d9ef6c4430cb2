use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tools::webhook_sink::Answer;

use crate::{
    cluster::{Cluster, Process, Program, Signal},
    faults::{Fault, Planned},
    journal::{Journal, What},
    proxy::Mode,
};

/// A process that was told to stop has to have done so by then; a supervisor kills it.
const GRACE: Duration = Duration::from_secs(40);
/// What a slow mail server adds to each line.
const SLOW: Duration = Duration::from_millis(400);

/// The faults that are under way.
pub(super) struct Injuries {
    journal: Arc<Journal>,
    present: Vec<Injury>,
}

struct Injury {
    fault: Fault,
    target: String,
    began: Instant,
    lasts: Duration,
}

impl Injuries {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self { journal, present: Vec::new() }
    }

    /// What is wrong now, for people.
    pub(super) fn present(&self) -> String {
        let names = self.present.iter().map(|injury| format!("{} {}", injury.fault, injury.target));
        let names: Vec<String> = names.collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// Begins a fault. If it is done to a process, and none is left that runs, nothing happens.
    pub(super) async fn inflict(&mut self, cluster: &mut Cluster, planned: &Planned) {
        let fault = planned.fault;
        let (target, pid) = if fault.is_of_process() {
            let Some(process) = self.victim(cluster, planned) else { return };
            (process.name().to_owned(), process.pid())
        } else {
            (fault.server().to_owned(), None)
        };
        let name = fault.to_string();
        self.journal.note(What::Begins { fault: name, target: target.clone(), pid });
        match fault {
            Fault::Kill => {
                if let Some(process) = named(cluster, &target) {
                    process.kill9().await;
                }
            }
            Fault::Term => signal(cluster, &target, Signal::TERM),
            Fault::Stop | Fault::Freeze => signal(cluster, &target, Signal::STOP),
            Fault::RedisRestart => cluster.redis_server().kill9().await,
            Fault::RedisFlush => drop(cluster.redis_server().command(&["FLUSHALL"]).await),
            Fault::ScriptFlush => drop(cluster.redis_server().command(&["SCRIPT", "FLUSH"]).await),
            Fault::RedisFull => {
                drop(cluster.redis_server().command(&["CONFIG", "SET", "maxmemory", "1"]).await)
            }
            Fault::PostgresRestart => drop(cluster.postgres_server().crash().await),
            Fault::RedisHole => cluster.proxies().redis.set(Mode::BlackHole),
            Fault::PostgresHole => cluster.proxies().postgres.set(Mode::BlackHole),
            Fault::SmtpDown => cluster.proxies().mail.set(Mode::Cut),
            Fault::SmtpSlow => cluster.proxies().mail.set(Mode::Delay(SLOW)),
            Fault::SmtpSilent => cluster.proxies().mail.set(Mode::BlackHole),
            Fault::ReceiverDown => cluster.webhooks().answer_all(Some(Answer::Status(503))),
            Fault::ReceiverSilent => cluster.webhooks().answer_all(Some(Answer::Hang)),
            Fault::ReceiverDrips => cluster.webhooks().answer_all(Some(Answer::Drip)),
            Fault::ReceiverFloods => cluster.webhooks().answer_all(Some(Answer::Huge)),
            Fault::ReceiverRedirects => {
                cluster.webhooks().answer_all(Some(Answer::Redirect(cluster.webhooks().url("/elsewhere"))))
            }
        }
        self.present.push(Injury { fault, target, began: Instant::now(), lasts: planned.lasts });
    }

    /// The process that was drawn, or the next one to which nothing is being done. One is frozen at a time: the others
    /// have its work to do.
    fn victim<'a>(&self, cluster: &'a mut Cluster, planned: &Planned) -> Option<&'a mut Process> {
        let freezes = planned.fault == Fault::Freeze;
        if freezes && self.present.iter().any(|injury| injury.fault == Fault::Freeze) {
            return None;
        }
        let mut processes: Vec<&mut Process> = cluster
            .processes_mut()
            .filter(|process| !freezes || process.program() == Program::Worker)
            .collect();
        let count = processes.len();
        processes.rotate_left(planned.target % count);
        processes
            .into_iter()
            .find(|process| self.present.iter().all(|injury| injury.target != process.name()))
    }

    /// Ends what has lasted long enough, starts again what has ended, and notes who ended unasked.
    pub(super) fn supervise(&mut self, cluster: &mut Cluster) {
        for process in cluster.processes_mut() {
            let Some(status) = process.exited() else { continue };
            let asked = self.present.iter().any(|injury| injury.target == process.name());
            if !asked {
                let how = format!("ended by itself: {status}");
                self.journal.note(What::Misbehaves { process: process.name().to_owned(), how });
                process.restart();
            }
        }
        let mut healed = Vec::new();
        self.present.retain(|injury| {
            let over = match injury.fault {
                fault if !fault.is_of_process() => return true,
                Fault::Term => heal_ending(cluster, injury, &self.journal),
                _ if injury.began.elapsed() < injury.lasts => false,
                Fault::Stop | Fault::Freeze => {
                    signal(cluster, &injury.target, Signal::CONT);
                    true
                }
                _ => {
                    if let Some(process) = named(cluster, &injury.target) {
                        process.restart();
                    }
                    true
                }
            };
            if over {
                healed.push((injury.fault, injury.target.clone()));
            }
            !over
        });
        for (fault, target) in healed {
            self.journal.note(What::Ends { fault: fault.to_string(), target });
        }
    }

    /// Ends the servers' faults that have lasted long enough.
    pub(super) async fn heal_servers(&mut self, cluster: &mut Cluster) {
        let (over, present): (Vec<_>, Vec<_>) = std::mem::take(&mut self.present)
            .into_iter()
            .partition(|injury| !injury.fault.is_of_process() && injury.began.elapsed() >= injury.lasts);
        self.present = present;
        for Injury { fault, target, .. } in over {
            match fault {
                Fault::RedisRestart => cluster.redis_server().start_again().await,
                Fault::RedisFull => {
                    drop(cluster.redis_server().command(&["CONFIG", "SET", "maxmemory", "0"]).await)
                }
                Fault::PostgresRestart => cluster.postgres_server().start_again().await,
                Fault::RedisHole => cluster.proxies().redis.set(Mode::Pass),
                Fault::PostgresHole => cluster.proxies().postgres.set(Mode::Pass),
                Fault::SmtpDown | Fault::SmtpSlow | Fault::SmtpSilent => {
                    cluster.proxies().mail.set(Mode::Pass)
                }
                _ if fault.server() == "receiver" => cluster.webhooks().answer_all(None),
                _ => {}
            }
            self.journal.note(What::Ends { fault: fault.to_string(), target });
        }
    }

    /// Ends everything, whatever it was to last. True while something is left that takes its time.
    pub(super) async fn heal_all(&mut self, cluster: &mut Cluster) -> bool {
        for injury in &mut self.present {
            injury.lasts = Duration::ZERO;
        }
        self.heal_servers(cluster).await;
        self.supervise(cluster);
        !self.present.is_empty()
    }
}

/// Starts a process again that was told to stop and has. True if so.
fn heal_ending(cluster: &mut Cluster, injury: &Injury, journal: &Journal) -> bool {
    let Some(process) = named(cluster, &injury.target) else { return true };
    let how = match process.exited() {
        Some(status) if status.success() => {
            process.restart();
            return true;
        }
        Some(status) => {
            process.restart();
            format!("was told to stop and ended with {status}")
        }
        None if injury.began.elapsed() < GRACE => return false,
        None => {
            // Its end is seen, and it is started again, at the next look.
            process.signal(Signal::KILL);
            format!("was told to stop and had not after {} s", GRACE.as_secs())
        }
    };
    let over = process.pid().is_some();
    journal.note(What::Misbehaves { process: injury.target.clone(), how });
    over
}

fn named<'a>(cluster: &'a mut Cluster, name: &str) -> Option<&'a mut Process> {
    cluster.processes_mut().find(|process| process.name() == name)
}

fn signal(cluster: &mut Cluster, name: &str, signal: Signal) {
    if let Some(process) = named(cluster, name) {
        process.signal(signal);
    }
}
