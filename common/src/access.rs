//! Who is asking. Every finder takes a [`Viewer`], so that what a person may not see is not found (design §4.3);
//! the predicate itself stands beside the noun's queries.

use crate::{ids::UserId, users::UserRole};

/// The person on whose behalf a row is read or changed.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// Who.
    pub user_id: UserId,
    /// `admin` opens the operator's routes; it does not show other people's tasks.
    pub role: UserRole,
}
