use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write as _},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use crate::{
    figures::Figures,
    journal::{Change, Entry, Journal, Title, What},
};

/// What happens while it happens: one line on a terminal, else a line every ten seconds.
pub(super) struct Progress {
    journal: Arc<Journal>,
    length: Duration,
    began: Instant,
    terminal: bool,
    shown: Option<Instant>,
    counted: Option<Instant>,
    mails: usize,
    late: Vec<Duration>,
    planned: Planned,
}

/// When each reminder is to come, as far as the journal was read.
#[derive(Default)]
struct Planned {
    read: usize,
    versions: HashMap<u32, u32>,
    at: HashMap<Title, DateTime<Utc>>,
}

impl Progress {
    pub(super) fn new(journal: Arc<Journal>, length: Duration) -> Self {
        Self {
            journal,
            length,
            began: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            shown: None,
            counted: None,
            mails: 0,
            late: Vec::new(),
            planned: Planned::default(),
        }
    }

    /// Once a second.
    pub(super) fn is_time_to_count(&mut self) -> bool {
        let is_time = self.counted.is_none_or(|counted| counted.elapsed() >= Duration::from_secs(1));
        if is_time {
            self.counted = Some(Instant::now());
            self.planned.read_on(&self.journal);
        }
        is_time
    }

    /// A mail with these reminders has come.
    pub(super) fn mail(&mut self, arrived_at: DateTime<Utc>, titles: &[Title]) {
        self.mails += 1;
        for at in titles.iter().filter_map(|title| self.planned.at.get(title)) {
            self.late.push((arrived_at - at).to_std().unwrap_or_default());
        }
    }

    /// Shows how it stands, if it is time.
    pub(super) fn show(&mut self, faults: &str) {
        let every = Duration::from_secs(if self.terminal { 1 } else { 10 });
        if self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let minutes = |time: Duration| format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        let late = Figures::new(self.late.clone());
        let Journal { requests, repeats, intents, .. } = &*self.journal;
        let line = format!(
            "{} of {} | faults: {faults} | {} requests, {} repeated | {} intents | {} mails, late by {late}",
            minutes(self.began.elapsed()),
            minutes(self.length),
            requests.load(Relaxed),
            repeats.load(Relaxed),
            intents.load(Relaxed),
            self.mails,
        );
        let mut out = std::io::stdout();
        // A terminal that is gone is nobody's failure.
        let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    /// The line is complete.
    pub(super) fn end(&mut self) {
        if self.terminal {
            let _ = writeln!(std::io::stdout());
        }
    }
}

impl Planned {
    fn read_on(&mut self, journal: &Journal) {
        // A line that is being written is read the next time.
        let text = std::fs::read(journal.path()).unwrap_or_default();
        let Some(new) = text.get(self.read..) else { return };
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else { return };
        self.read += end + 1;
        for line in new[..end].split(|byte| *byte == b'\n') {
            let Ok(Entry { what: What::Asks { task, change }, .. }) = serde_json::from_slice(line) else {
                continue;
            };
            if let Change::Create { remind_at, .. } | Change::Move { remind_at } = change {
                let version = self.versions.entry(task).or_default();
                *version += 1;
                self.at.insert(Title { task, version: *version }, remind_at);
            }
        }
    }
}
