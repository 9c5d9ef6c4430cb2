//! What can go wrong, as something a caller can do something about. A variant is added only if a caller would act
//! differently on it; how it looks over HTTP is `api/src/error.rs`, what a job makes of it is `worker/src/job.rs`.

mod code;

use std::time::Duration;

pub use code::Code;
use diesel::{
    ConnectionError,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::pooled_connection::{PoolError, deadpool};
use serde::Serialize;
use utoipa::ToSchema;

use crate::db::advice;

/// The result of anything that touches the database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or it is not yours: the two look alike on purpose.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The request was understood and breaks a rule; each error names its field.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// The request cannot be understood at all.
    #[error("{}", .0.detail)]
    Malformed(FieldError),
    /// It clashes with what is there.
    #[error("{detail}")]
    Conflict {
        /// Which clash.
        code: Code,
        /// What to do about it.
        detail: String,
    },
    /// The thing has changed since the version that the caller saw.
    #[error("{etag} is current")]
    Stale {
        /// The entity tag of the version that stands now.
        etag: String,
    },
    /// One of several changes that belong together failed, so none was made.
    #[error("{pointer}: {cause}")]
    Undone {
        /// Which one: where it stands in the body.
        pointer: String,
        /// Why it failed.
        cause: Box<Error>,
    },
    /// The caller is not who they would have to be, or did not say who they are.
    #[error("{0}")]
    Unauthenticated(Code),
    /// The caller is known and may not.
    #[error("{0}")]
    Forbidden(Code),
    /// Too often; later it will do.
    #[error("too many requests")]
    TooManyRequests {
        /// When to come back.
        retry_after: Duration,
    },
    /// More callers wait for the same than may; soon the same call will do.
    #[error("too many are waiting")]
    Overloaded,
    /// Something that we depend on is away; the same call will do when it is back.
    #[error("unavailable: {0:#}")]
    Unavailable(anyhow::Error),
    /// A defect of ours.
    #[error("internal error: {0:#}")]
    Internal(anyhow::Error),
}

/// One rule that a request breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where in the body: a JSON Pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/due/date")]
    pub pointer: Option<String>,
    /// Which query parameter or header, if it is not in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong, for programs.
    pub code: Code,
    /// What is wrong and how to mend it, for people.
    pub detail: String,
}

impl FieldError {
    /// An error at a place in the body.
    pub fn at(pointer: impl Into<String>, code: Code, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, code, detail: detail.into() }
    }

    /// An error in a query parameter or a header.
    pub fn parameter(name: impl Into<String>, code: Code, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), code, detail: detail.into() }
    }
}

fn summary(errors: &[FieldError]) -> String {
    let mut sentences: Vec<&str> = errors.iter().map(|error| error.detail.as_str()).collect();
    sentences.dedup();
    sentences.join("; ")
}

impl Error {
    /// One broken rule at one place of the body.
    pub fn invalid(pointer: impl Into<String>, code: Code, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::at(pointer, code, detail)])
    }

    /// The same error of a body that is a part of another one, at `place` in it.
    pub fn within(mut self, place: &str) -> Self {
        if let Self::Invalid(errors) = &mut self {
            for pointer in errors.iter_mut().filter_map(|error| error.pointer.as_mut()) {
                pointer.insert_str(0, place);
            }
        }
        self
    }

    /// Whether it is no fault of the request: the same one may do when it is sent again.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable(_) | Self::Internal(_))
    }

    /// A clash, with what to do about it.
    pub fn conflict(code: Code, detail: impl Into<String>) -> Self {
        Self::Conflict { code, detail: detail.into() }
    }
}

impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        let away = match &error {
            DieselError::NotFound => return Self::NotFound("resource"),
            DieselError::DatabaseError(kind, info) => match kind {
                DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::ReadOnlyTransaction => true,
                _ => says_away(info.message()),
            },
            DieselError::BrokenTransactionManager => true,
            _ => false,
        };
        if !away {
            return Self::Internal(error.into());
        }
        let to_do = advice::of_statement(&error);
        let error = anyhow::Error::from(error);
        Self::Unavailable(match to_do {
            Some(to_do) => error.context(to_do),
            None => error,
        })
    }
}

/// diesel does not hand the SQLSTATE on. These are classes 57 (operator intervention, timeouts), 55P03 (lock
/// timeout), 53 (resources), 40P01 (deadlock) and 25P03, as PostgreSQL words them in English; under another
/// `lc_messages` they count as defects: still answered and retried, only with 500 instead of 503.
fn says_away(message: &str) -> bool {
    let starts = [
        "terminating connection",
        "canceling statement due to",
        "the database system is",
        "sorry, too many clients",
        "remaining connection slots",
        "deadlock detected",
        "connection closed",
        "cannot execute",
        "out of memory",
        "out of shared memory",
    ];
    starts.iter().any(|start| message.starts_with(start)) || advice::is_disk_full(message)
}

impl From<deadpool::PoolError> for Error {
    fn from(error: deadpool::PoolError) -> Self {
        Self::Unavailable(match error {
            // It says itself where to there is none, and why.
            deadpool::PoolError::Backend(PoolError::ConnectionError(ConnectionError::BadConnection(
                text,
            ))) => {
                anyhow::anyhow!(text)
            }
            error => anyhow::Error::new(error).context("no database connection"),
        })
    }
}

/// Turns the breach of a named constraint into an error that says what to do: the database decides what is unique,
/// nobody asks it beforehand.
pub trait OnConstraint<T> {
    /// `error` if the constraint `name` was broken, everything else unchanged.
    fn on_constraint(self, name: &str, error: impl FnOnce() -> Error) -> Result<T>;
}

impl<T> OnConstraint<T> for std::result::Result<T, DieselError> {
    fn on_constraint(self, name: &str, error: impl FnOnce() -> Error) -> Result<T> {
        self.map_err(|e| match &e {
            DieselError::DatabaseError(_, info) if info.constraint_name() == Some(name) => error(),
            _ => e.into(),
        })
    }
}

/// A message that carries its code through a library which knows only text (serde, garde); [`Coded::read`] takes the
/// two apart again.
#[derive(Debug, Clone, Copy)]
pub struct Coded<T>(pub Code, pub T);

impl<T: std::fmt::Display> std::fmt::Display for Coded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl<'a> Coded<&'a str> {
    /// The code and the text of a message, if it carries a code.
    pub fn read(message: &'a str) -> Option<Self> {
        let (name, text) = message.split_once(": ")?;
        Code::ALL.iter().find(|code| code.name() == name).map(|code| Self(*code, text))
    }
}

/// A rule for a text of one line: so many characters, blanks at its ends not counted, and no control characters,
/// so that it can stand in a mail header and in a log line.
pub fn one_line(min: usize, max: usize) -> impl Fn(&String, &()) -> garde::Result {
    move |text, ()| {
        let refuse = |code, detail: String| Err(garde::Error::new(Coded(code, detail)));
        if text.contains(char::is_control) {
            refuse(
                Code::ControlCharacter,
                "Line breaks and control characters are not allowed here.".to_owned(),
            )
        } else if !(min..=max).contains(&text.trim().chars().count()) {
            refuse(Code::InvalidLength, format!("It has {min} to {max} characters."))
        } else {
            Ok(())
        }
    }
}
