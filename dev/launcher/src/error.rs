//! The one error of the launcher: a sentence for a person, and the fix.

use std::fmt::{self, Display};
use std::io;

/// What most functions here return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Error {
    /// Something to tell: what is wrong, and what to do about it.
    Told { problem: String, fix: Option<String> },
    /// A program that shares our terminal has told already; its exit code is passed on.
    Exit(u8),
    /// Ctrl-C or SIGTERM came before the work was done.
    Interrupted,
}

impl Error {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Error::Told { problem: problem.into(), fix: None }
    }

    /// Adds what the reader should do.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        match self {
            Error::Told { problem, .. } => Error::Told { problem, fix: Some(fix.into()) },
            other => other,
        }
    }

    /// The exit code of the launcher: 130 after a signal, as shells have it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Told { .. } => 1,
            Error::Exit(code) => *code,
            Error::Interrupted => 130,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Told { problem, fix: None } => write!(f, "{problem}"),
            Error::Told { problem, fix: Some(fix) } => write!(f, "{problem}\n  fix: {fix}"),
            Error::Exit(code) => write!(f, "a program ended with exit code {code}"),
            Error::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// Says what was being done when an I/O error came.
pub(crate) trait Context<T> {
    fn context<S: Display>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<S: Display>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(format!("cannot {}: {error}", doing())))
    }
}
