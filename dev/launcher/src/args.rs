//! The command line: what each command takes, and a hint at the nearest right word for each wrong one.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::help;
use crate::ports::{HIGHEST_OFFSET, MOST_REPLICAS};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Dev(Dev),
    Test(Test),
    Reset {
        data: Option<PathBuf>,
    },
    Seed {
        data: Option<PathBuf>,
        rest: Vec<String>,
    },
    Smoke {
        release: bool,
        rest: Vec<String>,
    },
    CheckDashboards {
        release: bool,
        rest: Vec<String>,
    },
    Fuzz {
        release: bool,
        rest: Vec<String>,
    },
    Bench {
        rest: Vec<String>,
    },
    /// A row of the goals alone, or `list`.
    Scenario {
        name: String,
        release: bool,
    },
    Chaos {
        rest: Vec<String>,
    },
    /// Any other command of `tasktracker-dev`.
    Tool {
        rest: Vec<String>,
    },
    Help(&'static str),
}

/// `cargo dev` itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dev {
    pub(crate) release: bool,
    pub(crate) data: Option<PathBuf>,
    pub(crate) port_offset: u16,
    pub(crate) replicas: Replicas,
    pub(crate) components: Components,
    /// Whether Prometheus and Alertmanager watch it.
    pub(crate) monitor: bool,
}

/// How many of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) api: u16,
    pub(crate) worker: u16,
    pub(crate) scheduler: u16,
}

impl Default for Replicas {
    fn default() -> Self {
        Replicas { api: 1, worker: 1, scheduler: 1 }
    }
}

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Components {
    pub(crate) postgres: bool,
    pub(crate) redis: bool,
    pub(crate) mail: bool,
    pub(crate) api: bool,
    pub(crate) worker: bool,
    pub(crate) scheduler: bool,
}

impl Components {
    pub(crate) const ALL: Components =
        Components { postgres: true, redis: true, mail: true, api: true, worker: true, scheduler: true };
    pub(crate) const NONE: Components = Components {
        postgres: false,
        redis: false,
        mail: false,
        api: false,
        worker: false,
        scheduler: false,
    };
    const NAMES: [&str; 6] = ["postgres", "redis", "mail", "api", "worker", "scheduler"];

    /// Whether any of our processes is among them, which need migrations.
    pub(crate) fn any_process(self) -> bool {
        self.api || self.worker || self.scheduler
    }

    /// `postgres,redis,worker`: each process brings the servers that it needs.
    fn parse(list: &str) -> Result<Self> {
        let mut chosen = Components::NONE;
        for name in list.split(',').map(str::trim) {
            match name {
                "postgres" => chosen.postgres = true,
                "redis" => chosen.redis = true,
                "mail" => chosen.mail = true,
                "api" => chosen.api = true,
                "worker" => chosen.worker = true,
                "scheduler" => chosen.scheduler = true,
                _ => {
                    return Err(Error::new(format!("--only: there is no {name:?}")).fix(suggestion(
                        name,
                        &Components::NAMES,
                        "choose from",
                    )));
                }
            }
        }
        chosen.postgres |= chosen.any_process();
        chosen.redis |= chosen.any_process();
        chosen.mail |= chosen.worker;
        Ok(chosen)
    }
}

impl Default for Components {
    fn default() -> Self {
        Components::ALL
    }
}

/// `cargo dev test`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Test {
    /// Empty means the whole workspace.
    pub(crate) packages: Vec<String>,
    pub(crate) no_fail_fast: bool,
    pub(crate) filter: Option<String>,
    /// What follows `--`, for the test programs.
    pub(crate) rest: Vec<String>,
}

const COMMANDS: [&str; 9] =
    ["test", "reset", "seed", "smoke", "check-dashboards", "fuzz", "bench", "chaos", "help"];

/// Reads the arguments after `cargo dev`.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut words = Words { rest: arguments.into_iter().collect::<Vec<_>>().into_iter() };
    let Some(first) = words.rest.as_slice().first().filter(|first| !first.starts_with('-')).cloned() else {
        return dev(words);
    };
    words.rest.next();
    match first.as_str() {
        "test" => test(words),
        "reset" => reset(words),
        "seed" => seed(words),
        "smoke" => fresh_stack(words, "cargo dev smoke", help::SMOKE, |release, rest| Command::Smoke {
            release,
            rest,
        }),
        "check-dashboards" => {
            fresh_stack(words, "cargo dev check-dashboards", help::CHECK_DASHBOARDS, |release, rest| {
                Command::CheckDashboards { release, rest }
            })
        }
        "fuzz" => fuzz(words),
        "bench" => Ok(Command::Bench { rest: words.rest.collect() }),
        "chaos" if words.rest.as_slice().iter().any(|word| word.starts_with("--scenario")) => scenario(words),
        "chaos" => Ok(Command::Chaos { rest: words.rest.collect() }),
        "help" => Ok(Command::Help(help::DEV)),
        word => match nearest(word, &COMMANDS) {
            Some(near) => Err(Error::new(format!("there is no command {word:?}"))
                .fix(format!("did you mean `cargo dev {near}`? `cargo dev --help` lists all"))),
            None => Ok(Command::Tool { rest: [first].into_iter().chain(words.rest).collect() }),
        },
    }
}

fn dev(mut words: Words) -> Result<Command> {
    const OPTIONS: [&str; 9] = [
        "--release",
        "--data",
        "--port-offset",
        "--api",
        "--worker",
        "--scheduler",
        "--only",
        "--monitor",
        "--help",
    ];
    let mut dev = Dev::default();
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "--release" => dev.release = words.flag("--release", value)?,
            "--data" => dev.data = Some(words.value("--data", value)?.into()),
            "--port-offset" => dev.port_offset = words.number("--port-offset", value, 0, HIGHEST_OFFSET)?,
            "--api" => dev.replicas.api = words.number("--api", value, 1, MOST_REPLICAS)?,
            "--worker" => dev.replicas.worker = words.number("--worker", value, 1, MOST_REPLICAS)?,
            "--scheduler" => dev.replicas.scheduler = words.number("--scheduler", value, 1, MOST_REPLICAS)?,
            "--only" => dev.components = Components::parse(&words.value("--only", value)?)?,
            "--monitor" => dev.monitor = words.flag("--monitor", value)?,
            "--help" | "-h" => return Ok(Command::Help(help::DEV)),
            other if COMMANDS.contains(&other) => {
                return Err(Error::new(format!("the command {other:?} comes after options"))
                    .fix(format!("write the command first: cargo dev {other} …")));
            }
            other => return Err(unknown("cargo dev", other, &OPTIONS)),
        }
    }
    Ok(Command::Dev(dev))
}

fn test(mut words: Words) -> Result<Command> {
    const OPTIONS: [&str; 4] = ["--package", "--no-fail-fast", "--help", "--"];
    let mut test = Test::default();
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "-p" | "--package" => test.packages.push(words.value("--package", value)?),
            "--no-fail-fast" => test.no_fail_fast = words.flag("--no-fail-fast", value)?,
            "--help" | "-h" => return Ok(Command::Help(help::TEST)),
            "--" => test.rest = words.rest.by_ref().collect(),
            filter if !filter.starts_with('-') && test.filter.is_none() => {
                test.filter = Some(filter.to_owned())
            }
            filter if !filter.starts_with('-') => {
                return Err(Error::new(format!("a second filter {filter:?}"))
                    .fix("give one filter; further ones go behind `--`: cargo dev test -- FILTER FILTER"));
            }
            other => return Err(unknown("cargo dev test", other, &OPTIONS)),
        }
    }
    Ok(Command::Test(test))
}

fn reset(mut words: Words) -> Result<Command> {
    let mut data = None;
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "--data" => data = Some(words.value("--data", value)?.into()),
            "--help" | "-h" => return Ok(Command::Help(help::RESET)),
            other => return Err(unknown("cargo dev reset", other, &["--data", "--help"])),
        }
    }
    Ok(Command::Reset { data })
}

/// Takes `--data` out; the rest is for the tool.
fn seed(mut words: Words) -> Result<Command> {
    let (mut data, mut rest) = (None, Vec::new());
    while let Some(word) = words.rest.next() {
        match word.split_once('=') {
            _ if word == "--data" => data = Some(words.value("--data", None)?.into()),
            Some(("--data", path)) => data = Some(path.into()),
            _ => rest.push(word),
        }
    }
    Ok(Command::Seed { data, rest })
}

/// A command that runs a tool beside a stack of its own.
fn fresh_stack(
    mut words: Words,
    name: &str,
    help: &'static str,
    command: impl FnOnce(bool, Vec<String>) -> Command,
) -> Result<Command> {
    let (mut release, mut rest) = (false, Vec::new());
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "--release" => release = words.flag("--release", value)?,
            "--help" | "-h" => return Ok(Command::Help(help)),
            "--" => rest = words.rest.by_ref().collect(),
            other => return Err(unknown(name, other, &["--release", "--help", "--"])),
        }
    }
    Ok(command(release, rest))
}

/// The numbers are for the tool.
fn fuzz(mut words: Words) -> Result<Command> {
    const OPTIONS: [&str; 4] = ["--max-examples", "--seed", "--release", "--help"];
    let (mut release, mut rest) = (false, Vec::new());
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "--max-examples" | "--seed" => {
                let number = words.number(&option, value, u16::from(option == "--max-examples"), u16::MAX)?;
                rest.extend([option, number.to_string()]);
            }
            "--release" => release = words.flag("--release", value)?,
            "--help" | "-h" => return Ok(Command::Help(help::FUZZ)),
            other => return Err(unknown("cargo dev fuzz", other, &OPTIONS)),
        }
    }
    Ok(Command::Fuzz { release, rest })
}

/// `cargo dev chaos --scenario NAME`, which goes with no other option but `--release`.
fn scenario(mut words: Words) -> Result<Command> {
    let (mut scenario, mut release) = (None, false);
    while let Some((option, value)) = words.next_option() {
        match option.as_str() {
            "--scenario" => scenario = Some(words.value("--scenario", value)?),
            "--release" => release = words.flag("--release", value)?,
            "--help" | "-h" => return Ok(Command::Help(help::SCENARIO)),
            other => return Err(unknown("cargo dev chaos --scenario", other, &["--release", "--help"])),
        }
    }
    scenario.map(|name| Command::Scenario { name, release }).ok_or_else(|| {
        Error::new("--scenario: which one?").fix("`cargo dev chaos --scenario list` says which there are")
    })
}

struct Words {
    rest: std::vec::IntoIter<String>,
}

impl Words {
    /// The next word, with the value that stands behind an `=`.
    fn next_option(&mut self) -> Option<(String, Option<String>)> {
        let word = self.rest.next()?;
        match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => {
                Some((option.to_owned(), Some(value.to_owned())))
            }
            _ => Some((word, None)),
        }
    }

    fn flag(&self, option: &str, value: Option<String>) -> Result<bool> {
        match value {
            None => Ok(true),
            Some(_) => {
                Err(Error::new(format!("{option} takes no value")).fix(format!("write {option} alone")))
            }
        }
    }

    fn value(&mut self, option: &str, value: Option<String>) -> Result<String> {
        match value.or_else(|| self.rest.next()) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(Error::new(format!("{option} needs a value")).fix(format!("write {option} VALUE"))),
        }
    }

    fn number(&mut self, option: &str, value: Option<String>, least: u16, most: u16) -> Result<u16> {
        let text = self.value(option, value)?;
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(Error::new(format!("{option} is {text:?}"))
                .fix(format!("write a whole number from {least} to {most}"))),
        }
    }
}

fn unknown(command: &str, word: &str, options: &[&str]) -> Error {
    let what = if word.starts_with('-') { "option" } else { "argument" };
    Error::new(format!("`{command}` has no {what} {word:?}"))
        .fix(format!("{}; see `{command} --help`", suggestion(word, options, "choose from")))
}

fn suggestion(word: &str, words: &[&str], otherwise: &str) -> String {
    match nearest(word, words) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("{otherwise} {}", words.join(", ")),
    }
}

/// The word that is at most two edits away (one for very short words).
fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let limit = if word.len() < 4 { 1 } else { 2 };
    let (distance, near) = words.iter().map(|candidate| (edits(word, candidate), *candidate)).min()?;
    (distance <= limit).then_some(near)
}

/// How many letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // `table[i][j]` is the distance between the first i letters of a and the first j of b.
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { best.min(table[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
