//! What was intended, what was answered, what arrived, and what was done to the system: one file, a JSON object a
//! line, in the order of writing. The clients write before and after each request, the sink when a mail has come. The
//! [books](crate::books) are balanced from this file alone; PostgreSQL, one of the suspects, is not asked for intents.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use chrono::{DateTime, Utc};
use common::{
    clock::Clock,
    ids::{JobId, TaskId},
};
use serde::{Deserialize, Serialize};

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: DateTime<Utc>,
    /// What it says.
    #[serde(flatten)]
    pub what: What,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A change of a task is about to be asked for.
    Asks {
        /// The task, by the client's own number.
        task: u32,
        /// What is asked for.
        change: Change,
    },
    /// The last change that was asked for is acknowledged, or finally refused.
    Told {
        /// The task.
        task: u32,
        /// The status of the answer.
        status: u16,
        /// The task's id, once it has one.
        id: Option<TaskId>,
    },
    /// An answer that no fault excuses.
    Odd {
        /// The request.
        request: String,
        /// The status of the answer.
        status: u16,
        /// Its body.
        body: String,
    },
    /// A mail has come.
    Mail {
        /// When its last line was read.
        arrived_at: DateTime<Utc>,
        /// `Message-ID`.
        message_id: String,
        /// Whom it went to.
        to: Vec<String>,
        /// The titles that it names.
        titles: Vec<Title>,
    },
    /// Somebody is told of all changes of their tasks from now on.
    Subscribed {
        /// Who.
        person: String,
    },
    /// A webhook has come.
    Call {
        /// When its body was complete.
        arrived_at: DateTime<Utc>,
        /// Whose receiver it came to.
        receiver: String,
        /// `webhook-id`.
        webhook_id: String,
        /// What it tells of.
        event: String,
        /// Of which task.
        task: TaskId,
        /// Whether the receiver answered with the status 200.
        taken: bool,
    },
    /// A job of the probes' is about to be committed.
    Enqueues {
        /// Its id.
        job: JobId,
    },
    /// It is committed.
    Enqueued {
        /// Its id.
        job: JobId,
    },
    /// A fault begins.
    Begins {
        /// Its name.
        fault: String,
        /// What it is done to: a process's name, or a server's.
        target: String,
        /// The process's id, if it is done to a process of ours.
        pid: Option<u32>,
    },
    /// It is over: the process runs again, the server answers.
    Ends {
        /// Its name.
        fault: String,
        /// What it was done to.
        target: String,
    },
    /// A process has ended, or failed to, and nobody had asked for that.
    Misbehaves {
        /// The process.
        process: String,
        /// What it did.
        how: String,
    },
}

/// A change of a task that a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// There is a task of this person's, which reminds at this instant.
    Create {
        /// Whose.
        person: String,
        /// The instant.
        remind_at: DateTime<Utc>,
    },
    /// It reminds at another instant, and its title is the next one.
    Move {
        /// The instant.
        remind_at: DateTime<Utc>,
    },
    /// It is done.
    Complete,
    /// It is in the trash.
    Delete,
}

/// The title of a task: its number, and how often it was moved. So a mail tells which of a task's reminders it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Title {
    /// The task.
    pub task: u32,
    /// From 1.
    pub version: u32,
}

impl std::fmt::Display for Title {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "t{:06}v{}", self.task, self.version)
    }
}

impl Title {
    /// The titles in a text, each once.
    pub fn all_in(text: &str) -> Vec<Self> {
        let mut titles: Vec<Self> =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(Self::parse).collect();
        titles.sort_unstable();
        titles.dedup();
        titles
    }

    fn parse(word: &str) -> Option<Self> {
        let (task, version) = word.strip_prefix('t')?.split_once('v')?;
        let task = Some(task).filter(|task| task.len() == 6)?.parse().ok()?;
        Some(Self { task, version: version.parse().ok()? })
    }
}

/// The file, while it is written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    /// Changes asked for.
    pub intents: AtomicU64,
    /// Requests answered, also by a refusal.
    pub requests: AtomicU64,
    /// Requests without an answer, or answered "later".
    pub repeats: AtomicU64,
}

impl Journal {
    /// An empty file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(File::create(path)?),
            intents: AtomicU64::default(),
            requests: AtomicU64::default(),
            repeats: AtomicU64::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line, with the present time, which it answers. The line is with the system when this returns.
    ///
    /// # Panics
    /// If it cannot be written: without a journal there are no books.
    #[expect(clippy::expect_used, reason = "the harness cannot go on without its journal")]
    pub fn note(&self, what: What) -> DateTime<Utc> {
        if let What::Asks { .. } = what {
            self.intents.fetch_add(1, Relaxed);
        }
        let mut file = self.file();
        let at = Clock::Database.instant();
        let mut line = serde_json::to_vec(&Entry { at, what }).expect("an entry is JSON");
        line.push(b'\n');
        file.write_all(&line).expect("the journal can be written");
        at
    }

    /// Makes sure that what was written survives the machine.
    ///
    /// # Errors
    /// If it cannot.
    pub fn sync(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in the file.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
        BufReader::new(File::open(path)?).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(&folder.path().join("journal.jsonl")).unwrap();
        let remind_at = Clock::Database.instant();
        let change = Change::Create { person: "p1@example.com".into(), remind_at };
        let all = [
            What::Asks { task: 1, change },
            What::Asks { task: 1, change: Change::Complete },
            What::Told { task: 1, status: 201, id: None },
            What::Ends { fault: "stop".into(), target: "worker-1".into() },
        ];
        let noted: Vec<Entry> =
            all.into_iter().map(|what| Entry { at: journal.note(what.clone()), what }).collect();
        assert_eq!(Journal::read(journal.path()).unwrap(), noted);
    }

    #[test]
    fn titles_are_found_in_mails() {
        let (one, two) = (Title { task: 7, version: 1 }, Title { task: 12_345, version: 12 });
        assert_eq!(Title::all_in(&format!("- {two}\n* {one}, {two} (due)")), [one, two]);
        assert_eq!(Title::all_in("t7v1 the tavern"), []);
    }
}
