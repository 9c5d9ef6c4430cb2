//! The limits: what PostgreSQL does for pgbench. Reads are the very statements that the API sends, caught when its own
//! code sends them; writes are one statement each that does what has to be done (`sql/`).

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use common::{
    access::Viewer,
    db::{AsyncPgConnection, Db},
    secrets::Key,
    tasks::{Task, TaskFilter},
};
use diesel::connection::InstrumentationEvent;
use diesel_async::AsyncConnection as _;
use tokio::process::Command;

use super::{
    super::table::percentile,
    machine::{LOAD_CORE, Pinning},
    world::{BUSY, PEOPLE, PERSON_HEAD, TASK_HEAD, World},
};

/// pgbench with its scripts.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) pgbench: &'a Path,
    pub(super) database_url: &'a str,
    pub(super) folder: &'a Path,
    pub(super) pinning: Pinning,
}

impl Limits<'_> {
    /// Writes the scripts: `get`, `list`, `list-busy`, `patch`, `create`.
    pub(super) async fn write(
        &self,
        world: World,
        db: &Db,
        keys: &[Key],
        cursor: &str,
    ) -> anyhow::Result<()> {
        // Any two that cannot be taken for something else.
        let (task, viewer) = (World::task(PEOPLE + 7), World::person(7));
        let person = format!("('{PERSON_HEAD}' || lpad(to_hex(:n::bigint % {PEOPLE}), 12, '0'))::uuid");
        let known = [
            (task.to_string(), format!("('{TASK_HEAD}' || lpad(to_hex(:n::bigint), 12, '0'))::uuid")),
            (viewer.to_string(), person.clone()),
            (World::person(BUSY).to_string(), format!("'{}'::uuid", World::person(BUSY))),
        ];
        let mut conn = db.conn().await?;
        let now = || db.clock().now();

        let get = caught(&mut conn, async |conn| {
            Task::find(conn, Viewer { user_id: viewer, project: None }, task).await
        })
        .await?;
        let get = written_out(&get, &known)?;
        let first = TaskFilter { limit: Some(20), ..TaskFilter::default() };
        let list = caught(&mut conn, async |conn| {
            Task::list(conn, Viewer { user_id: viewer, project: None }, now(), &first, keys).await
        })
        .await?;
        let later = TaskFilter { cursor: Some(cursor.to_owned()), ..first };
        let busy = caught(&mut conn, async |conn| {
            let viewer = Viewer { user_id: World::person(BUSY), project: None };
            Task::list(conn, viewer, now(), &later, keys).await
        })
        .await?;
        let filled = |text: &str| {
            let [(_, task), (_, person), _] = &known;
            text.replace("{task}", task).replace("{person}", person)
        };
        let patch = format!("{}{get}", filled(include_str!("sql/patch.sql")));
        let scripts = [
            ("get", get),
            ("list", written_out(&list, &known)?),
            ("list-busy", written_out(&busy, &known)?),
            ("patch", patch),
            ("create", filled(include_str!("sql/create.sql"))),
        ];
        for (name, sql) in scripts {
            let sql = sql.trim_end().trim_end_matches(';');
            self.keep(name, &format!("\\set n random(0, {})\n{sql};\n", world.tasks - 1))?;
        }
        Ok(())
    }

    /// Writes a script.
    pub(super) fn keep(&self, name: &str, script: &str) -> anyhow::Result<()> {
        let file = self.script(name);
        std::fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Transactions a second over so many connections.
    pub(super) async fn run(&self, name: &str, connections: u32, seconds: u32) -> anyhow::Result<f64> {
        let mut command = self.pgbench(connections, seconds);
        command.arg("--file").arg(self.script(name)).arg(self.database_url);
        let text = printed(command).await.with_context(|| name.to_owned())?;
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.with_context(|| format!("pgbench {name}: {text}"))
    }

    /// The 99th percentile of what transactions take, in ms, if the scripts come at random, each with its share.
    pub(super) async fn p99(
        &self,
        shares: &[(&str, u32)],
        connections: u32,
        seconds: u32,
    ) -> anyhow::Result<f64> {
        let log = self.folder.join("transactions");
        let mut command = self.pgbench(connections, seconds);
        for (name, share) in shares {
            command.arg("--file").arg(format!("{}@{share}", self.script(name).display()));
        }
        command.arg("--log").arg("--log-prefix").arg(&log).arg(self.database_url);
        printed(command).await.context("a mix")?;
        let mut took: Vec<f64> = Vec::new();
        for entry in std::fs::read_dir(self.folder)? {
            let path = entry?.path();
            if path.file_stem() == log.file_name() {
                let text = std::fs::read_to_string(&path)?;
                // Client, number, microseconds …
                took.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
                std::fs::remove_file(&path)?;
            }
        }
        took.sort_by(f64::total_cmp);
        Ok(percentile(&took, 99) / 1e3)
    }

    fn script(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sql"))
    }

    fn pgbench(&self, connections: u32, seconds: u32) -> Command {
        let mut command: Command = self.pinning.on(LOAD_CORE, self.pgbench).into();
        command
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
            .arg(format!("--client={connections}"))
            .arg(format!("--time={seconds}"))
            // As the API's own connections: what a statement costs is compared, and not how often it is planned.
            .env("PGOPTIONS", "-c plan_cache_mode=force_generic_plan")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

async fn printed(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().await.context("cannot start pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The one statement that `work` sends, with its arguments behind it.
async fn caught<T>(
    conn: &mut AsyncPgConnection,
    work: impl AsyncFnOnce(&mut AsyncPgConnection) -> common::error::Result<T>,
) -> anyhow::Result<String> {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let catch = {
        let seen = seen.clone();
        move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(query.to_string());
            }
        }
    };
    conn.set_instrumentation(catch);
    let done = work(conn).await;
    conn.set_instrumentation(|_: InstrumentationEvent<'_>| {});
    done?;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(seen.len() == 1, "one statement was expected: {seen:?}");
    seen.pop().context("a statement")
}

/// The statement with its arguments in their places: those that are `known` as the expressions that pgbench has for them.
fn written_out(statement: &str, known: &[(String, String)]) -> anyhow::Result<String> {
    let (sql, arguments) = statement.rsplit_once(" -- binds: [").context("a statement without arguments")?;
    let arguments = arguments.strip_suffix(']').context("an end")?;
    let values: Vec<String> = split(arguments)
        .into_iter()
        .map(|argument| literal(argument, known))
        .collect::<anyhow::Result<_>>()?;
    let mut text = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once('$') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let number: usize = after[..digits].parse().with_context(|| sql.to_owned())?;
        text += before;
        text += values.get(number - 1).with_context(|| format!("no argument {number}: {statement}"))?;
        rest = &after[digits..];
    }
    Ok(text + rest)
}

/// Arguments as `Debug` writes them, with a comma between two that is in no bracket.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in arguments.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(arguments[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[from..].trim());
    parts
}

/// One of them in SQL.
fn literal(argument: &str, known: &[(String, String)]) -> anyhow::Result<String> {
    let inner = argument.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(argument);
    if let Some((_, expression)) = known.iter().find(|(id, _)| inner.contains(id)) {
        return Ok(expression.clone());
    }
    Ok(match inner {
        "None" => "NULL".to_owned(),
        "true" | "false" => inner.to_owned(),
        number if number.parse::<f64>().is_ok() => number.to_owned(),
        instant if instant.parse::<DateTime<Utc>>().is_ok() => format!("'{instant}'::timestamptz"),
        // The id of another row, a value of an enum: a literal of unknown type becomes what it has to be.
        text => {
            let text = text.rsplit_once('(').map_or(text, |(_, inside)| inside.trim_end_matches(')'));
            ensure!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:.+".contains(&b)), "{argument}");
            let is_variant = text.bytes().all(|byte| byte.is_ascii_alphabetic());
            format!("'{}'", if is_variant { text.to_lowercase() } else { text.to_owned() })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_put_into_their_places() {
        let known = [("0001".to_owned(), ":id".to_owned())];
        let statement = "SELECT $2, $1, $3 WHERE $10 -- binds: [TaskId(0001), None, High, 2030-01-02T03:04:05Z, 21, true, \
                         Some(2030-01-02T03:04:05Z), UserId(0002), 1.5, UserId(0001)]";
        assert_eq!(written_out(statement, &known).unwrap(), "SELECT NULL, :id, 'high' WHERE :id");
        let all = "$4 $5 $6 $7 $8 $9";
        let statement = statement.replace("$2, $1, $3 WHERE $10", all);
        assert_eq!(
            written_out(&statement, &known).unwrap(),
            "SELECT '2030-01-02T03:04:05Z'::timestamptz 21 true '2030-01-02T03:04:05Z'::timestamptz '0002' 1.5"
        );
    }
}
