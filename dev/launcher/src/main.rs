//! `cargo dev`: starts everything from an empty machine. Only std and libc, so that it builds in a second.
//!
//! [`stack`] tells the order of things; what each thing is stands in the module of its name.

mod account;
mod args;
mod children;
mod data;
mod encoding;
mod error;
mod help;
mod install;
mod monitor;
mod os;
mod ports;
mod private;
mod probe;
mod programs;
mod scenarios;
mod servers;
mod settings;
mod stack;
mod state;
mod terminal;
mod workspace;

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use args::{Command, Dev, Test};
use children::{Child, Ending, Output};
use data::{DataDir, TemporaryDir};
use error::{Context, Error, Result};
use os::Signals;
use ports::{Base, free_offset, plan};
use servers::postgres::Durability;
use settings::Settings;
use stack::{Blueprint, Stack};
use workspace::{Workspace, run};

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if matches!(error, Error::Told { .. }) {
                terminal::error(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch() -> Result<()> {
    let command = args::parse(std::env::args().skip(1))?;
    if let Command::Help(text) = command {
        terminal::say(text);
        return Ok(());
    }
    let signals = &Signals::install().context(|| "listen to signals")?;
    let workspace = &Workspace::find()?;
    match command {
        Command::Dev(options) => dev(&options, workspace, signals),
        Command::Test(options) => test(&options, workspace, signals),
        Command::Reset { data } => {
            let data = workspace.data(data.as_deref());
            if data.exists() { DataDir::open(&data)?.reset() } else { Ok(()) }
        }
        Command::Seed { data, rest } => seed(&workspace.data(data.as_deref()), &rest, workspace, signals),
        Command::Smoke { release, rest } => smoke(release, &rest, workspace, signals),
        Command::CheckDashboards { release, rest } => check_dashboards(release, &rest, workspace, signals),
        Command::Fuzz { release, rest } => fuzz(release, &rest, workspace, signals),
        Command::Bench { rest } => {
            let wrk = match rest.first().map(String::as_str) {
                Some("http") => Some(programs::Sources::from_env()?.wrk(&workspace.tools()?, signals)?),
                _ => None,
            };
            private::run_with_servers("bench", Durability::Full, true, workspace, signals, || {
                let mut command = workspace.binary("tasktracker-dev", true)?;
                command.envs(wrk.map(|wrk| ("TASKTRACKER_WRK", wrk))).arg("bench").args(rest);
                Ok(command)
            })
        }
        Command::Scenario { name, release } => scenarios::run(&name, release, workspace, signals),
        Command::Chaos { rest } => {
            private::run_with_servers("chaos", Durability::None, false, workspace, signals, || {
                let mut command = workspace.binary("tasktracker-chaos", false)?;
                command.args(rest);
                Ok(command)
            })
        }
        Command::Tool { rest } => {
            workspace.build(false, signals)?;
            let mut command = workspace.binary("tasktracker-dev", false)?;
            command.env("TASKTRACKER_BIN_DIR", workspace.binaries(false)).args(rest);
            run("tasktracker-dev", command, signals)
        }
        Command::Help(_) => Ok(()),
    }
}

fn dev(options: &Dev, workspace: &Workspace, signals: &Signals) -> Result<()> {
    let data = DataDir::open(&workspace.data(options.data.as_deref()))?;
    let settings = Settings::Environment;
    let blueprint =
        Blueprint { workspace, data: &data, options, settings, further: &[], shown: true, signals };
    let mut stack = Stack::new(blueprint)?;
    let result = stack.start().and_then(|()| stack.watch());
    stack.stop();
    result
}

fn test(options: &Test, workspace: &Workspace, signals: &Signals) -> Result<()> {
    private::run_with_servers("test", Durability::None, false, workspace, signals, || {
        let mut command = workspace.cargo();
        command.arg("test");
        // Most of the long tests wait for something: more of them at once than there are cores is quicker.
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", "4");
        }
        if options.packages.is_empty() {
            command.arg("--workspace");
        }
        for package in &options.packages {
            command.args(["--package", package]);
        }
        command.args(options.no_fail_fast.then_some("--no-fail-fast")).args(&options.filter);
        if !options.rest.is_empty() {
            command.arg("--").args(&options.rest);
        }
        Ok(command)
    })
}

fn seed(data: &Path, rest: &[String], workspace: &Workspace, signals: &Signals) -> Result<()> {
    let api_url = state::api_url(data)?;
    workspace.build(false, signals)?;
    let mut command = workspace.binary("tasktracker-dev", false)?;
    command.args(["seed", "--api-url", &api_url]).args(rest);
    run("seed", command, signals)
}

/// A whole stack on free ports, and the README's session against it.
fn smoke(release: bool, rest: &[String], workspace: &Workspace, signals: &Signals) -> Result<()> {
    let options = Dev { release, ..Dev::default() };
    beside_fresh_stack("smoke", options, &[], workspace, signals, |command| {
        command.args(["smoke", "--readme"]).arg(workspace.root().join("README.md")).args(rest);
    })
}

/// A whole stack with Prometheus on free ports, a short load, and the queries of the dashboards.
fn check_dashboards(release: bool, rest: &[String], workspace: &Workspace, signals: &Signals) -> Result<()> {
    let options = Dev { release, monitor: true, ..Dev::default() };
    // The load has a receiver of webhooks on this machine.
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let port = port.context(|| "find a free port")?.port().to_string();
    let further = [("WEBHOOK_ALLOW_CIDRS", "127.0.0.0/8".to_owned()), ("WEBHOOK_PORTS", port.clone())];
    beside_fresh_stack("dashboards", options, &further, workspace, signals, |command| {
        let dashboards = workspace.root().join("monitoring/grafana/dashboards");
        command
            .args(["check-dashboards", "--dashboards"])
            .arg(dashboards)
            .args(["--webhook-port", &port])
            .args(rest);
    })
}

/// A whole stack on free ports, and Schemathesis that tries its API.
fn fuzz(release: bool, rest: &[String], workspace: &Workspace, signals: &Signals) -> Result<()> {
    let schemathesis = install::SCHEMATHESIS.install(&workspace.tools()?, signals).map_err(|error| {
        error.fix(
            "install Python 3.11 or newer with pip (Debian, Ubuntu: sudo apt-get install python3-pip), or uv",
        )
    })?;
    let options = Dev { release, ..Dev::default() };
    // Each of its runs comes from an address of its own: what is limited by address is not used up by the run before.
    let further = [("TRUSTED_PROXIES", "127.0.0.1/32".to_owned())];
    beside_fresh_stack("fuzz", options, &further, workspace, signals, |command| {
        command.args(["fuzz", "--schemathesis"]).arg(schemathesis.join("site-packages")).args(rest);
    })
}

/// A whole stack on free ports with empty data, and a tool that is told where it is.
fn beside_fresh_stack(
    purpose: &str,
    mut options: Dev,
    further: &[(&'static str, String)],
    workspace: &Workspace,
    signals: &Signals,
    arguments: impl FnOnce(&mut std::process::Command),
) -> Result<()> {
    let directory = TemporaryDir::new(purpose)?;
    let data = directory.data();
    let settings = Settings::Ours;
    let base = Base::from(settings)?;
    options.port_offset = free_offset(|offset| {
        plan(base, options.components, options.replicas, offset).monitored(options.monitor)
    })?;
    let options = &options;
    let mut stack =
        Stack::new(Blueprint { workspace, data, options, settings, further, shown: false, signals })?;
    let result = stack.start().and_then(|()| {
        let mut command = workspace.binary("tasktracker-dev", options.release)?;
        arguments(&mut command);
        command.arg("--dev-json").arg(data.state_file());
        let tool = Child::spawn(purpose, command, Output::Terminal, Ending::TOOL)?;
        stack.run_beside(tool)
    });
    if matches!(result, Err(Error::Exit(_))) {
        stack.last_lines().into_iter().for_each(terminal::say);
    }
    stack.stop();
    if matches!(result, Err(Error::Exit(_) | Error::Told { .. })) {
        directory.keep_logs();
    }
    result
}
