//! `/admin`: the operator's view. Every handler here takes [`Admin`](crate::auth::Admin), and shows what the system does,
//! not what people keep in it: no title of a task, no text of a mail. The audit trail alone says what was changed.

mod audit;
mod jobs;
mod late;
mod mail;
mod queues;
pub(crate) mod shell;
mod suppressions;
mod users;

use crate::routes::Routes;

/// The routes of these resources.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .merge(queues::routes())
        .merge(jobs::routes())
        .merge(late::routes())
        .merge(audit::routes())
        .merge(mail::routes())
        .merge(suppressions::routes())
        .merge(users::routes())
}
