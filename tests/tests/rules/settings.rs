//! `.env.example` names exactly the settings that the three programs have, as they have them.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command, CommandFactory as _};

use crate::workspace::read;

/// All settings by their variable; one that several programs have stands here several times.
fn settings() -> BTreeMap<String, Vec<Arg>> {
    fn collect(command: &Command, found: &mut BTreeMap<String, Vec<Arg>>) {
        for arg in command.get_arguments() {
            if let Some(name) = arg.get_env() {
                found.entry(name.to_str().unwrap().to_owned()).or_default().push(arg.clone());
            }
        }
        command.get_subcommands().for_each(|command| collect(command, found));
    }

    let mut found = BTreeMap::new();
    for command in [
        api::config::Config::command(),
        api::config::Migrate::command(),
        api::config::AdminCommand::command(),
        api::config::Reseal::command(),
        worker::config::Config::command(),
        scheduler::config::Config::command(),
    ] {
        collect(&command, &mut found);
    }
    found
}

/// A line of the file that is a setting: `NAME=value`, or `#NAME=value` where none has to be given.
#[derive(Debug)]
struct Line {
    name: String,
    value: String,
    is_optional: bool,
}

fn example() -> Vec<Line> {
    let text = read(".env.example");
    let line = |line: &str| {
        let setting = line.strip_prefix('#').unwrap_or(line);
        let (name, value) = setting.split_once('=')?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        is_name.then(|| Line {
            name: name.to_owned(),
            value: value.to_owned(),
            is_optional: line.starts_with('#'),
        })
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn the_example_names_exactly_the_settings_that_exist() {
    let named: Vec<String> = example().into_iter().map(|line| line.name).collect();
    let set: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(named.len(), set.len(), "a setting stands twice in .env.example");
    assert_eq!(set, settings().into_keys().collect(), ".env.example (left) and the programs' --help (right)");
}

#[test]
fn every_value_of_the_example_is_good_and_no_secret_has_one() {
    let settings = settings();
    for Line { name, value, is_optional } in example() {
        let Some(args) = settings.get(&name) else { continue };
        let required = args.iter().any(Arg::is_required_set);
        assert_eq!(is_optional, !required, "{name}: `#` stands before what need not be set");
        if args.iter().any(Arg::is_hide_env_values_set) {
            assert_eq!(value, "", "{name} is a secret");
            continue;
        }
        // What differs by process, such as a port, has several.
        let mut defaults =
            args.iter().flat_map(Arg::get_default_values).map(|default| default.to_str().unwrap());
        if args.iter().any(|arg| !arg.get_default_values().is_empty()) {
            assert!(defaults.any(|default| default == value), "{name}: {value:?} is not the default");
        } else if !value.is_empty() {
            let alone = Command::new("setting").arg(args[0].clone().required(false));
            let flag = format!("--{}={value}", args[0].get_long().unwrap());
            assert!(
                alone.try_get_matches_from(["setting", &flag]).is_ok(),
                "{name}: {value:?} is no example"
            );
        }
    }
}
