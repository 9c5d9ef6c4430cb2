//! Tags: a person's own words on their tasks. Two tags are the same if they are equal in NFC and lower case; the
//! first spelling stays.

use diesel::sql_types::{Array, Text, Uuid};
use unicode_normalization::UnicodeNormalization as _;

use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Error, FieldError, Result},
    ids::{TagId, TaskId, UserId},
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

/// Gives `task` just these tags, which [`normalise`] has checked; new ones are made for `owner`.
///
/// # Errors
/// If the database is away.
pub async fn set(tx: &mut Tx, owner: UserId, task: TaskId, names: &[String]) -> Result<()> {
    let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
    let ids: Vec<TagId> = names.iter().map(|_| TagId::new()).collect();
    let now = tx.clock().now();
    // In the order of the keys, so that two tasks that share tags cannot wait for each other.
    sql!(
        "INSERT INTO tags (id, owner_id, name, name_key, created_at)
         SELECT n.id, {owner}, n.name, n.name_key, {now}
         FROM unnest({ids}, {names}, {keys}) AS n (id, name, name_key)
         ORDER BY n.name_key
         ON CONFLICT (owner_id, name_key) DO NOTHING",
        owner: Uuid = owner,
        now = now,
        ids: Array<Uuid> = ids,
        names: Array<Text> = names.to_vec(),
        keys: Array<Text> = keys.clone(),
    )
    .execute(tx.conn())
    .await?;
    sql!(
        "WITH wanted AS (SELECT id FROM tags WHERE owner_id = {owner} AND name_key = ANY({keys})),
         gone AS (DELETE FROM task_tags WHERE task_id = {task} AND tag_id NOT IN (SELECT id FROM wanted))
         INSERT INTO task_tags (task_id, tag_id) SELECT {task}, id FROM wanted
         ON CONFLICT DO NOTHING",
        owner: Uuid = owner,
        keys: Array<Text> = keys,
        task: Uuid = task,
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
