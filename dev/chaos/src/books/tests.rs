use chrono::{DateTime, Utc};
use common::{
    ids::{JobId, TaskId},
    testing::at,
};

use super::*;
use crate::journal::Title;

/// An instant of the run, by its second.
fn second(second: i64) -> DateTime<Utc> {
    at("2030-01-01T12:00:00Z") + seconds(second)
}

/// A journal under construction, with one task of one person.
#[derive(Default)]
struct Run {
    journal: Vec<Entry>,
    starts: Vec<Effect>,
    ends: Vec<Effect>,
    state: State,
}

const PERSON: &str = "ann@example.com";

impl Run {
    /// Task 1 is to remind at second 20; it is asked for at second 0.
    fn new() -> Self {
        let mut run = Self::default();
        run.state.settled = Some(Duration::ZERO);
        run.change(0, Change::Create { person: PERSON.into(), remind_at: second(20) });
        let title = Title { task: 1, version: 1 }.to_string();
        run.state.tasks.insert(1, TaskState { there: true, title, ..TaskState::default() });
        run
    }

    fn note(&mut self, at: i64, what: What) {
        self.journal.push(Entry { at: second(at), what });
    }

    /// A change that is acknowledged a second later.
    fn change(&mut self, at: i64, change: Change) {
        self.note(at, What::Asks { task: 1, change });
        self.note(at + 1, What::Told { task: 1, status: 200, id: Some(TaskId::new()) });
    }

    fn mail(&mut self, at: i64, version: u32, id: &str) {
        let titles = vec![Title { task: 1, version }];
        let (arrived_at, message_id, to) = (second(at), id.to_owned(), vec![PERSON.to_owned()]);
        self.note(at, What::Mail { arrived_at, message_id, to, titles });
    }

    fn fault(&mut self, from: i64, until: i64, fault: &str, target: &str, pid: Option<u32>) {
        let (fault, target) = (fault.to_owned(), target.to_owned());
        self.note(from, What::Begins { fault: fault.clone(), target: target.clone(), pid });
        self.note(until, What::Ends { fault, target });
    }

    /// A probe that is committed, started by process 7 and done by it, at these seconds.
    fn probe(&mut self, start: i64, end: i64, finished: i64) -> JobId {
        let job = JobId::new();
        self.note(start, What::Enqueues { job });
        self.note(start, What::Enqueued { job });
        self.starts.push(effect(job, 7, start));
        self.ends.push(effect(job, 7, end));
        self.state.jobs.push(JobState {
            id: job,
            kind: "probe".into(),
            is_probe: true,
            state: "done".into(),
            crashes: 0,
            pid: Some(7),
            finished_at: Some(second(finished)),
        });
        job
    }

    fn differences(&self) -> Vec<String> {
        balance(&self.journal, &self.starts, &self.ends, &self.state).differences
    }

    fn balances(&self) {
        assert_eq!(self.differences(), Vec::<String>::new());
    }

    /// There is one difference, which says so.
    fn differs(&self, what: &str) {
        let differences = self.differences();
        assert!(matches!(differences.as_slice(), [one] if one.contains(what)), "{what}: {differences:?}");
    }
}

fn call(run: &mut Run, at: i64, task: TaskId, event: &str, id: &str, taken: bool) {
    let (arrived_at, receiver, webhook_id, event) = (second(at), PERSON.into(), id.into(), event.into());
    run.note(at, What::Call { arrived_at, receiver, webhook_id, event, task, taken });
}

fn effect(job: JobId, pid: u32, at: i64) -> Effect {
    Effect { job, attempt: 1, pid, micros: second(at).timestamp_micros() }
}

#[test]
fn a_reminder_comes_once_and_not_early() {
    let mut run = Run::new();
    run.differs("has not come");
    run.mail(21, 1, "a");
    run.balances();
    run.mail(22, 1, "a");
    run.differs("came twice, and nothing was wrong");

    let mut run = Run::new();
    run.mail(19, 1, "a");
    run.differs("came early");
    let mut run = Run::new();
    run.mail(21, 1, "a");
    run.mail(21, 1, "b");
    run.differs("2 different mails");
}

#[test]
fn what_is_taken_back_in_time_stays_away() {
    for change in [Change::Complete, Change::Delete] {
        let mut run = Run::new();
        run.change(10, change.clone());
        let task = run.state.tasks.get_mut(&1).unwrap();
        (task.done, task.there) = (change == Change::Complete, change != Change::Delete);
        run.balances();
        run.mail(21, 1, "a");
        run.differs("came at");
    }
    // Acknowledged after its time: both is right.
    let mut run = Run::new();
    run.change(20, Change::Complete);
    run.state.tasks.get_mut(&1).unwrap().done = true;
    run.balances();
    run.mail(21, 1, "a");
    run.balances();
}

#[test]
fn what_is_moved_comes_at_its_new_time() {
    let mut run = Run::new();
    run.change(10, Change::Move { remind_at: second(30) });
    run.state.tasks.get_mut(&1).unwrap().title = Title { task: 1, version: 2 }.to_string();
    run.differs("t000001v2 of ann@example.com at 2030-01-01 12:00:30 UTC has not come");
    run.mail(31, 2, "b");
    run.balances();
    run.mail(21, 1, "a");
    run.differs("t000001v1");
}

#[test]
fn what_is_moved_to_a_time_that_has_passed_may_stay_away() {
    let mut run = Run::new();
    run.mail(21, 1, "a");
    run.change(22, Change::Move { remind_at: second(23) });
    run.state.tasks.get_mut(&1).unwrap().title = Title { task: 1, version: 2 }.to_string();
    run.balances();
}

#[test]
fn a_copy_is_excused_by_a_worker_postgres_or_smtp_just_then_and_only_once() {
    for (target, excused) in
        [("worker-2", true), ("postgres", true), ("smtp", true), ("redis", false), ("api-1", false)]
    {
        let mut run = Run::new();
        run.fault(21, 22, "stop", target, None);
        run.mail(21, 1, "a");
        run.mail(40, 1, "a");
        if excused {
            run.balances()
        } else {
            run.differs("came twice")
        }
        run.mail(60, 1, "a");
        run.differs(if excused { "came 3 times" } else { "3 times" });
    }
}

#[test]
fn tasks_are_as_they_were_left() {
    let mut run = Run::new();
    run.mail(21, 1, "a");
    run.state.tasks.get_mut(&1).unwrap().done = true;
    run.differs("task 1 was left as");
    run.state.tasks.clear();
    run.differs("is not there");
}

#[test]
fn probes_are_done_before_they_are_noted_as_done() {
    let mut run = Run::new();
    run.mail(21, 1, "a");
    run.probe(1, 2, 2);
    run.balances();
    let job = run.probe(1, 5, 2);
    run.differs("noted as done before");
    run.ends.retain(|end| end.job != job);
    assert_eq!(run.differences().len(), 2, "never done, and noted all the same");
}

#[test]
fn a_probe_starts_again_only_if_something_happened_to_its_worker() {
    let mut run = Run::new();
    run.mail(21, 1, "a");
    let job = run.probe(1, 3, 3);
    run.starts.push(effect(job, 8, 2));
    run.differs("started again 1 times");
    run.fault(1, 2, "kill", "worker-2", Some(9));
    run.differs("started again 1 times");
    run.fault(1, 2, "kill", "worker-1", Some(7));
    run.balances();
}

#[test]
fn no_job_is_left_and_no_process_ends() {
    let mut run = Run::new();
    run.mail(21, 1, "a");
    run.probe(1, 2, 2);
    run.state.jobs[0].state = "dead".into();
    run.differs("1 jobs of kind probe are dead");
    run.state.jobs[0].crashes = 3;
    run.balances();
    run.state.settled = None;
    run.differs("not everything was done in time");
    run.state.settled = Some(Duration::ZERO);
    run.note(5, What::Misbehaves { process: "api-1".into(), how: "ended by itself: exit status: 1".into() });
    run.differs("api-1 ended by itself");
}

#[test]
fn a_change_is_told_once_and_nothing_else_is() {
    let run = || {
        let mut run = Run::new();
        run.mail(21, 1, "a");
        run
    };
    let task = |run: &Run| match run.journal[1].what {
        What::Told { id, .. } => id.unwrap(),
        _ => unreachable!("the first change is acknowledged"),
    };
    run().balances();
    let mut told = run();
    let id = task(&told);
    told.note(0, What::Subscribed { person: PERSON.into() });
    told.differs("1 task.created of task 1 were acknowledged, and 0 were told");
    call(&mut told, 2, id, "task.created", "e1", false);
    told.differs("and 0 were told");
    call(&mut told, 8, id, "task.created", "e1", true);
    told.balances();
    call(&mut told, 9, id, "task.created", "e1", true);
    told.differs("taken 2 times, and nothing was wrong");
    told.fault(9, 10, "kill", "worker-1", Some(7));
    told.balances();

    let mut twice = run();
    let id = task(&twice);
    for event in ["e1", "e2"] {
        call(&mut twice, 2, id, "task.created", event, true);
    }
    twice.differs("more than 1 task.created");
    let mut strange = run();
    let id = task(&strange);
    call(&mut strange, 2, id, "task.created", "e1", true);
    call(&mut strange, 3, TaskId::new(), "task.created", "e2", true);
    strange.differs("nobody had asked for it");
}
