//! Tasks as JSON, which is kept in the [cache](crate::cache) for those who see a task because it is theirs: the right of the
//! others hangs on their projects, and is looked up.

use diesel::{QueryableByName, sql_types::Uuid};

use super::Task;
use crate::{
    access::{Versioned, Viewer},
    cache::Found,
    db::{Db, Tx},
    error::{Error, Result},
    ids::TaskId,
};

/// A task as one person sees it, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskJson {
    /// Its version.
    pub version: i32,
    /// What [`Task`] is in JSON.
    pub json: Vec<u8>,
}

/// Copies are for this release: a task of another one may have other fields.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

impl TaskJson {
    fn of(task: &Task) -> Result<Self> {
        let json = serde_json::to_vec(task).map_err(|error| Error::Internal(error.into()))?;
        Ok(Self { version: task.version, json })
    }

    /// As it is kept: the JSON, then the version in four bytes.
    fn keep(&self) -> Vec<u8> {
        [&self.json[..], &self.version.to_be_bytes()].concat()
    }

    fn kept(mut copy: Vec<u8>) -> Option<Self> {
        let version = i32::from_be_bytes(*copy.last_chunk()?);
        copy.truncate(copy.len() - size_of_val(&version));
        Some(Self { version, json: copy })
    }
}

impl Versioned for TaskJson {
    const TAG: &str = Task::TAG;

    fn version(&self) -> i32 {
        self.version
    }
}

impl Task {
    /// As [`Task::find`], from a copy if there is one.
    ///
    /// # Errors
    /// As [`Task::find`].
    pub async fn find_json(db: &Db, viewer: Viewer, id: TaskId) -> Result<TaskJson> {
        // A token for one project sees less than its person.
        let cache = db.cache().filter(|_| viewer.project.is_none());
        let missed = match cache {
            Some(cache) => match cache.get(&thing(id), reader(viewer)).await {
                Found::Copy(copy) => match TaskJson::kept(copy) {
                    Some(task) => return Ok(task),
                    None => None,
                },
                Found::Nothing(missed) => missed,
            },
            None => None,
        };
        // Nobody waits for Redis who has to wait for a connection.
        let (conn, lease) = futures::join!(db.conn(), async { cache?.lease(missed?).await });
        let task = Self::find(&mut *conn?, viewer, id).await?;
        let json = TaskJson::of(&task)?;
        let is_theirs = task.owner_id == viewer.user_id || task.assignee_id == Some(viewer.user_id);
        if let (Some(cache), Some(lease), true) = (cache, lease, is_theirs) {
            cache.put(lease, json.keep());
        }
        Ok(json)
    }
}

/// Takes the copies of these tasks away when `tx` is committed, which changes what people see of them. Whoever raises the version of
/// a task, or deletes it, calls this.
pub fn outdate(tx: &mut Tx, ids: impl IntoIterator<Item = TaskId>) {
    tx.outdate(ids.into_iter().map(thing));
}

/// A row of a statement that answers which tasks it has changed.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct TaskRow {
    /// The task.
    #[diesel(sql_type = Uuid)]
    pub id: TaskId,
}

fn thing(id: TaskId) -> String {
    format!("task:{id}")
}

fn reader(viewer: Viewer) -> String {
    format!("{}/{RELEASE}", viewer.user_id)
}
