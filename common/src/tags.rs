//! Tags: words on tasks. Those of a task in a project are the project's, and all in it share them; the others are their
//! owner's. Two tags of one place are the same if they are equal in NFC and lower case; the first spelling stays.

mod resource;

use diesel::{
    QueryableByName,
    sql_types::{Array, Nullable, Text, Uuid},
};
use unicode_normalization::UnicodeNormalization as _;

pub use self::resource::{Merge, NewTag, Tag, TagFilter, TagPatch};
use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    ids::{ProjectId, TagId, TaskId, UserId},
};

/// Tags on one task at most.
pub const MAX_PER_TASK: usize = 20;
/// Characters of a tag at most.
pub const MAX_LENGTH: usize = 50;

/// The names as they are stored, each once, or what is wrong with them; `pointer` is where they stand in the body.
///
/// # Errors
/// [`Error::Invalid`] with an entry for each name that breaks a rule.
pub fn normalise(names: &[String], pointer: &str) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    let mut normal: Vec<String> = Vec::new();
    for (position, name) in names.iter().enumerate() {
        let at = format!("{pointer}/{position}");
        let name: String = name.trim().nfc().collect();
        if !(1..=MAX_LENGTH).contains(&name.chars().count()) {
            errors.push(FieldError::at(
                at,
                Code::InvalidLength,
                format!("A tag has 1 to {MAX_LENGTH} characters."),
            ));
        } else if name.contains(|c: char| c.is_control() || c == ',') {
            errors.push(FieldError::at(
                at,
                Code::ControlCharacter,
                "A tag has no control characters and no comma, which separates tags in filters.",
            ));
        } else if !normal.iter().any(|known| key(known) == key(&name)) {
            normal.push(name);
        }
    }
    if normal.len() > MAX_PER_TASK {
        errors.push(FieldError::at(
            pointer,
            Code::TooMany,
            format!("A task has at most {MAX_PER_TASK} tags."),
        ));
    }
    if errors.is_empty() { Ok(normal) } else { Err(Error::Invalid(errors)) }
}

/// What two names are compared by.
pub fn key(name: &str) -> String {
    name.trim().nfc().collect::<String>().to_lowercase()
}

/// Whose words they are: of the project that the task is in, else of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A person's own.
    Person(UserId),
    /// Shared by all in a project.
    Project(ProjectId),
}

impl Scope {
    /// Of a task.
    pub fn of(owner: UserId, project: Option<ProjectId>) -> Self {
        project.map_or(Self::Person(owner), Self::Project)
    }

    fn owner(self) -> Option<UserId> {
        match self {
            Self::Person(owner) => Some(owner),
            Self::Project(_) => None,
        }
    }

    fn project(self) -> Option<ProjectId> {
        match self {
            Self::Person(_) => None,
            Self::Project(project) => Some(project),
        }
    }
}

/// Gives `task` just these tags, which [`normalise`] has checked; new ones are made in `scope`.
///
/// # Errors
/// If the database is away.
pub async fn set(tx: &mut Tx, scope: Scope, task: TaskId, names: &[String]) -> Result<()> {
    let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
    let ids: Vec<TagId> = names.iter().map(|_| TagId::new()).collect();
    let now = tx.clock().now();
    // In the order of the keys, so that two tasks that share tags cannot wait for each other.
    sql!(
        "INSERT INTO tags (id, owner_id, project_id, name, name_key, created_at)
         SELECT n.id, {owner}, {project}, n.name, n.name_key, {now}
         FROM unnest({ids}, {names}, {keys}) AS n (id, name, name_key)
         ORDER BY n.name_key
         ON CONFLICT DO NOTHING",
        owner: Nullable<Uuid> = scope.owner(),
        project: Nullable<Uuid> = scope.project(),
        now = now,
        ids: Array<Uuid> = ids,
        names: Array<Text> = names.to_vec(),
        keys: Array<Text> = keys.clone(),
    )
    .execute(tx.conn())
    .await?;
    // One of the two is null, and equals nothing.
    sql!(
        "WITH wanted AS (SELECT id FROM tags WHERE (owner_id = {owner} OR project_id = {project}) AND name_key = ANY({keys})),
         gone AS (DELETE FROM task_tags WHERE task_id = {task} AND tag_id NOT IN (SELECT id FROM wanted))
         INSERT INTO task_tags (task_id, tag_id) SELECT {task}, id FROM wanted
         ON CONFLICT DO NOTHING",
        owner: Nullable<Uuid> = scope.owner(),
        project: Nullable<Uuid> = scope.project(),
        keys: Array<Text> = keys,
        task: Uuid = task,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Gives tasks that were moved the same words of their new place.
///
/// # Errors
/// If the database is away.
pub(crate) async fn rescope(tx: &mut Tx, tasks: &[TaskId]) -> Result<()> {
    #[derive(QueryableByName)]
    struct Strange {
        #[diesel(sql_type = Uuid)]
        task_id: TaskId,
        #[diesel(sql_type = Uuid)]
        tag_id: TagId,
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        name_key: String,
    }

    let strange: Vec<Strange> = sql!(
        "SELECT k.id AS task_id, t.id AS tag_id, t.name, t.name_key
         FROM tasks k JOIN task_tags tt ON tt.task_id = k.id JOIN tags t ON t.id = tt.tag_id
         WHERE k.id = ANY ({tasks}) AND (t.project_id IS DISTINCT FROM k.project_id
             OR k.project_id IS NULL AND t.owner_id <> k.owner_id)",
        tasks: Array<Uuid> = tasks,
    )
    .load(tx.conn())
    .await?;
    if strange.is_empty() {
        return Ok(());
    }
    let of: Vec<TaskId> = strange.iter().map(|row| row.task_id).collect();
    let keys: Vec<&str> = strange.iter().map(|row| row.name_key.as_str()).collect();
    sql!(
        "INSERT INTO tags (id, owner_id, project_id, name, name_key, created_at)
         SELECT DISTINCT ON (n.name_key, k.project_id, k.owner_id)
             n.id, CASE WHEN k.project_id IS NULL THEN k.owner_id END, k.project_id, n.name, n.name_key, {now}
         FROM unnest({ids}, {tasks}, {names}, {keys}) AS n (id, task_id, name, name_key) JOIN tasks k ON k.id = n.task_id
         ORDER BY n.name_key, k.project_id, k.owner_id, n.id
         ON CONFLICT DO NOTHING",
        now = tx.clock().now(),
        ids: Array<Uuid> = strange.iter().map(|_| TagId::new()).collect::<Vec<_>>(),
        tasks: Array<Uuid> = of.as_slice(),
        names: Array<Text> = strange.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        keys: Array<Text> = keys.clone(),
    )
    .execute(tx.conn())
    .await?;
    sql!(
        "WITH gone AS (DELETE FROM task_tags tt USING unnest({tasks}, {tags}) AS n (task_id, tag_id)
             WHERE tt.task_id = n.task_id AND tt.tag_id = n.tag_id)
         INSERT INTO task_tags (task_id, tag_id)
         SELECT k.id, t.id FROM unnest({tasks}, {keys}) AS n (task_id, name_key) JOIN tasks k ON k.id = n.task_id
         JOIN tags t ON t.name_key = n.name_key
             AND (t.project_id = k.project_id OR k.project_id IS NULL AND t.owner_id = k.owner_id)
         ON CONFLICT DO NOTHING",
        tasks: Array<Uuid> = of,
        tags: Array<Uuid> = strange.iter().map(|row| row.tag_id).collect::<Vec<_>>(),
        keys: Array<Text> = keys,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_same_word_is_kept_once_in_its_first_spelling() {
        // The second é is composed of two characters.
        let normal = normalise(&names(&[" Café ", "cafe\u{301}", "CAFÉ", "Tea"]), "/tags").unwrap();
        assert_eq!(normal, ["Café", "Tea"]);
    }

    #[test]
    fn each_bad_name_is_pointed_at() {
        let Err(Error::Invalid(errors)) = normalise(&names(&["ok", "", "a\nb", &"x".repeat(51)]), "/tags")
        else {
            panic!("accepted");
        };
        let pointers: Vec<_> = errors.iter().filter_map(|error| error.pointer.as_deref()).collect();
        assert_eq!(pointers, ["/tags/1", "/tags/2", "/tags/3"]);
    }
}
