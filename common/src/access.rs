//! Who is asking. Every finder takes a [`Viewer`], so that what a person may not see is not found (design §4.3);
//! the predicate itself stands beside the noun's queries.

use crate::ids::UserId;

/// The person on whose behalf a row is read or changed.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// Who.
    pub user_id: UserId,
}

/// Which versions a change is meant for (`If-Match`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Whichever is current.
    Any,
    /// One of these: the caller has seen it, and would not overwrite another.
    OneOf(Vec<i32>),
}

impl Expected {
    /// Whether a change of `version` is what the caller meant.
    pub fn allows(&self, version: i32) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}
