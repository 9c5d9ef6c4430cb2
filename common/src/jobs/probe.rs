use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A job of test builds that does as it is told. When it starts it appends `{job id} {attempt} {pid} {micros}` to a
/// file, so that effects can be counted without asking PostgreSQL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Whose work it pretends to be.
    pub lane: String,
    /// Where it leaves its trace, if anywhere.
    pub log: Option<PathBuf>,
    /// What it does then.
    pub act: Act,
}

/// What a [`Probe`] does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Succeeds at once.
    Nothing,
    /// Succeeds after so many milliseconds.
    Sleep(u64),
    /// Succeeds after so many milliseconds, and appends the same line to the file with `.done` added to its name: the
    /// work that is lost if it is cut short.
    Work(u64),
    /// Holds its thread for so many milliseconds and never yields.
    Block(u64),
    /// Succeeds, and makes the fetch loops of its process hang: alive but deaf (goals R43).
    Deafen,
    /// Panics.
    Panic,
    /// Ends the process.
    Abort,
    /// Fails with an error of so many bytes, and is tried again.
    Fail(usize),
    /// Is not wanted any more.
    Cancel,
    /// Wants to come back after so many milliseconds.
    Snooze(i64),
    /// Gives up for good.
    Die,
}
