use super::*;

fn parsed(line: &str) -> Result<Command> {
    parse(line.split_whitespace().map(str::to_owned))
}

fn problem(line: &str) -> String {
    parsed(line).unwrap_err().to_string()
}

#[test]
fn nothing_means_everything_once() {
    let Command::Dev(dev) = parsed("").unwrap() else { panic!("not dev") };
    assert_eq!(dev, Dev { components: Components::ALL, ..Dev::default() });
    assert_eq!(dev.replicas, Replicas { api: 1, worker: 1, scheduler: 1 });
}

#[test]
fn all_options_of_dev_are_read_in_both_forms() {
    let line = "--release --data=/tmp/x --port-offset 100 --api 2 --worker=3 --scheduler 2 --monitor --only postgres,worker";
    let Command::Dev(dev) = parsed(line).unwrap() else { panic!("not dev") };
    assert_eq!(
        dev,
        Dev {
            release: true,
            data: Some("/tmp/x".into()),
            port_offset: 100,
            replicas: Replicas { api: 2, worker: 3, scheduler: 2 },
            components: Components { api: false, scheduler: false, ..Components::ALL },
            monitor: true,
        }
    );
}

#[test]
fn servers_alone_bring_nothing_else() {
    let Command::Dev(dev) = parsed("--only postgres,redis").unwrap() else { panic!("not dev") };
    assert_eq!(dev.components, Components { postgres: true, redis: true, ..Components::NONE });
}

#[test]
fn wrong_words_are_named_with_the_nearest_right_one() {
    for (line, named, fix) in [
        ("--worekr 2", "--worekr", "--worker"),
        ("--port-ofset=1", "--port-ofset", "--port-offset"),
        ("--frobnicate", "--frobnicate", "choose from --release"),
        ("--only api,workr", "workr", "worker"),
        ("tset", "tset", "cargo dev test"),
        ("reset --dat x", "--dat", "--data"),
        ("test --no-fail-fats", "--no-fail-fats", "--no-fail-fast"),
        ("smoke --relase", "--relase", "--release"),
        ("fuzz --sead 1", "--sead", "--seed"),
        ("--release test", "test", "cargo dev test"),
        ("test a b", "\"b\"", "--"),
        ("chaos --scenario R1 --sed 1", "--sed", "--help"),
        ("chaos --scenario", "--scenario", "value"),
    ] {
        let text = problem(line);
        assert!(text.contains(named) && text.contains(fix), "{line}: {text}");
    }
}

#[test]
fn wrong_values_are_named_with_their_range() {
    for (line, named, fix) in [
        ("--api 0", "--api is \"0\"", "from 1 to 11"),
        ("--api many", "--api is \"many\"", "from 1 to 11"),
        ("--port-offset 60000", "--port-offset is \"60000\"", "from 0 to 56032"),
        ("--data", "--data needs a value", "--data VALUE"),
        ("--release=yes", "--release takes no value", "--release alone"),
        ("fuzz --seed=x", "--seed is \"x\"", "from 0 to 65535"),
    ] {
        let text = problem(line);
        assert!(text.contains(named) && text.contains(fix), "{line}: {text}");
    }
}

#[test]
fn tests_take_a_filter_packages_and_what_follows() {
    let Command::Test(test) = parsed("test -p common reminders --no-fail-fast -- --nocapture a").unwrap()
    else {
        panic!("not test")
    };
    assert_eq!(
        test,
        Test {
            packages: vec!["common".into()],
            no_fail_fast: true,
            filter: Some("reminders".into()),
            rest: vec!["--nocapture".into(), "a".into()],
        }
    );
}

#[test]
fn other_commands_go_to_the_tools_as_they_are() {
    let rest = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(parsed("chaos --minutes 5").unwrap(), Command::Chaos { rest: rest(&["--minutes", "5"]) });
    assert_eq!(parsed("bench jobs --help").unwrap(), Command::Bench { rest: rest(&["jobs", "--help"]) });
    assert_eq!(
        parsed("seed --users 3 --data=d").unwrap(),
        Command::Seed { data: Some("d".into()), rest: rest(&["--users", "3"]) }
    );
    assert_eq!(
        parsed("smoke -- --keep").unwrap(),
        Command::Smoke { release: false, rest: rest(&["--keep"]) }
    );
    assert_eq!(
        parsed("fuzz --max-examples=9 --seed 7 --release").unwrap(),
        Command::Fuzz { release: true, rest: rest(&["--max-examples", "9", "--seed", "7"]) }
    );
}

#[test]
fn each_command_has_its_help() {
    for (line, help) in [
        ("--help", help::DEV),
        ("-h", help::DEV),
        ("help", help::DEV),
        ("test --help", help::TEST),
        ("reset -h", help::RESET),
        ("smoke --help", help::SMOKE),
        ("fuzz --help", help::FUZZ),
    ] {
        assert_eq!(parsed(line).unwrap(), Command::Help(help));
    }
}

#[test]
fn a_scenario_is_named() {
    for (line, release) in [
        ("chaos --scenario R12", false),
        ("chaos --scenario=R12", false),
        ("chaos --scenario R12 --release", true),
    ] {
        assert_eq!(parsed(line).unwrap(), Command::Scenario { name: "R12".to_owned(), release });
    }
}
