//! Everything together, in the order in which it depends on each other: servers, sink, migrations, our processes.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::args::Dev;
use crate::children::{self, Child, Ending, Output};
use crate::data::DataDir;
use crate::encoding::without_password;
use crate::error::{Error, Result};
use crate::monitor;
use crate::os::Signals;
use crate::ports::{Base, Mail, Plan, Process, plan};
use crate::probe;
use crate::servers::postgres::Durability;
use crate::servers::{Servers, Wanted};
use crate::settings::Settings;
use crate::state::{Running, State};
use crate::terminal::{say, step};
use crate::workspace::Workspace;

/// How long our processes may take until they are ready.
const READY: Duration = Duration::from_secs(60);
/// How long our processes may take to finish what they have begun.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the sink may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// What a stack is made from.
#[derive(Clone, Copy)]
pub(crate) struct Blueprint<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) data: &'a DataDir,
    pub(crate) options: &'a Dev,
    pub(crate) settings: Settings,
    /// What our processes are told beside that, unless the user has set it.
    pub(crate) further: &'a [(&'static str, String)],
    /// Whether the lines of our processes are shown on the terminal.
    pub(crate) shown: bool,
    pub(crate) signals: &'a Signals,
}

/// What runs.
pub(crate) struct Stack<'a> {
    blueprint: Blueprint<'a>,
    plan: Plan,
    servers: Servers,
    mail: Option<Child>,
    processes: Vec<Child>,
    monitor: Vec<Child>,
    /// Where Loki is, or why it is nowhere.
    loki: Option<String>,
}

impl<'a> Stack<'a> {
    pub(crate) fn new(blueprint: Blueprint<'a>) -> Result<Self> {
        let options = blueprint.options;
        let mut components = options.components;
        // Mails go to the server that the user has named.
        components.mail &= blueprint.settings.given("SMTP_URL").is_none();
        let base = Base::from(blueprint.settings)?;
        let plan = plan(base, components, options.replicas, options.port_offset).monitored(options.monitor);
        let servers = Servers::default();
        Ok(Stack {
            blueprint,
            plan,
            servers,
            mail: None,
            processes: Vec::new(),
            monitor: Vec::new(),
            loki: None,
        })
    }

    /// Starts everything, and returns when it is ready. On an error, [`Stack::stop`] ends what runs by then.
    pub(crate) fn start(&mut self) -> Result<()> {
        let Blueprint { workspace, data, options, settings, signals, .. } = self.blueprint;
        let begun = Instant::now();
        let _was_stopped_well = std::fs::remove_file(data.state_file());
        self.plan.check_free()?;
        let components = options.components;
        let wanted =
            Wanted { postgres: components.postgres, redis: components.redis, durability: Durability::Full };
        let tools = workspace.tools()?;
        let monitor = match self.plan.monitor {
            Some(ports) => Some((ports, monitor::Programs::find(&tools, signals)?)),
            None => None,
        };
        self.servers.start(wanted, settings, data, &tools, signals)?;
        let building = Instant::now();
        if components.any_process() || self.plan.mail.is_some() {
            workspace.build(options.release, signals)?;
        }
        let built_in = building.elapsed();
        if let Some(mail) = self.plan.mail {
            self.mail = Some(self.start_mail(mail)?);
        }
        self.servers.wait_ready(data, signals)?;
        if components.any_process() {
            self.migrate()?;
        }
        for process in self.plan.processes.clone() {
            self.processes.push(self.start_process(&process)?);
        }
        if let Some((ports, programs)) = monitor {
            let monitoring = workspace.root().join("monitoring");
            self.monitor = programs.start(ports, &self.plan, &monitoring, data)?;
            self.loki =
                Some(programs.loki.map_or(monitor::loki::MISSING.to_owned(), |_| http(ports.loki, "")));
        }
        self.wait_ready()?;
        self.state().write(&data.state_file())?;
        if self.blueprint.shown {
            self.print_places();
        }
        say(format_args!(
            "ready in {:.1} s (of which cargo {:.1} s); Ctrl-C stops everything",
            begun.elapsed().as_secs_f32(),
            built_in.as_secs_f32()
        ));
        Ok(())
    }

    fn start_mail(&self, mail: Mail) -> Result<Child> {
        let mut command = self.binary("tasktracker-dev")?;
        command.args(["mail-sink", "--smtp", &mail.smtp.to_string(), "--http", &mail.page.to_string()]);
        self.spawn("mail", command)
    }

    fn migrate(&self) -> Result<()> {
        let mut command = self.binary("tasktracker-api")?;
        command.arg("migrate");
        self.configure(&mut command, None)?;
        self.spawn("migrate", command)?.wait(self.blueprint.signals).map(drop)
    }

    fn start_process(&self, process: &Process) -> Result<Child> {
        let mut command = self.binary(process.kind.binary())?;
        self.configure(&mut command, Some(process))?;
        self.spawn(&process.name, command)
    }

    fn binary(&self, name: &str) -> Result<Command> {
        self.blueprint.workspace.binary(name, self.blueprint.options.release)
    }

    fn spawn(&self, name: &str, command: Command) -> Result<Child> {
        let file = self.blueprint.data.log(name);
        Child::spawn(name, command, Output::Logged { file, shown: self.blueprint.shown }, Ending::OURS)
    }

    /// The settings of one of our processes.
    fn configure(&self, command: &mut Command, process: Option<&Process>) -> Result<()> {
        let public = self.api_url().unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
        let pretty = self.blueprint.shown && std::io::stdout().is_terminal();
        let mut ours = vec![
            ("REDIS_PREFIX", "tt".to_owned()),
            ("PUBLIC_URL", public),
            ("SECRET_KEYS_FILE", self.blueprint.data.secret_keys()?.display().to_string()),
            ("MAIL_FROM", "TaskTracker <tasktracker@localhost>".to_owned()),
            ("REQUIRE_EMAIL_VERIFICATION", "false".to_owned()),
            // Scripts and seeds of a developer are no flood.
            ("RATE_LIMIT_PER_MINUTE", "0".to_owned()),
            ("DEFAULT_TIME_ZONE", "UTC".to_owned()),
            ("LOG_FORMAT", if pretty { "pretty" } else { "json" }.to_owned()),
        ];
        let mut add = |name, value: Option<String>| ours.extend(value.map(|value| (name, value)));
        add("DATABASE_URL", self.servers.database_url.clone());
        add("REDIS_URL", self.servers.redis_url.clone());
        add("SMTP_URL", self.plan.mail.map(|mail| format!("smtp://{}", mail.smtp)));
        if process.is_none() {
            add("MIGRATE_DATABASE_URL", self.servers.migrate_database_url.clone());
        }
        ours.extend_from_slice(self.blueprint.further);
        self.blueprint.settings.apply(command, &ours);
        // The addresses differ from process to process; what the user chose is in the plan already. Only migrations
        // may act as the owner of the schema.
        if let Some(process) = process {
            command
                .env_remove("MIGRATE_DATABASE_URL")
                .env_remove("MIGRATE_DATABASE_URL_FILE")
                .env_remove("BIND");
            command.env("INTERNAL_BIND", process.internal.to_string());
            if let Some(public) = process.public {
                command.env("BIND", public.to_string());
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let signals = self.blueprint.signals;
        let deadline = Instant::now() + READY;
        let mail = self.plan.mail;
        if let Some(child) = &mut self.mail {
            let ready = || match mail {
                Some(mail) if probe::tcp(mail.smtp) && probe::tcp(mail.page) => Ok(()),
                _ => Err("its ports are closed".to_owned()),
            };
            wait_for(child, signals, deadline, ready)?;
        }
        for (child, process) in self.processes.iter_mut().zip(&self.plan.processes) {
            wait_for(child, signals, deadline, || match probe::http_get(process.internal, "/readyz") {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("/readyz answers {status}: {body}")),
                Err(error) => Err(format!("/readyz at {} does not answer: {error}", process.internal)),
            })?;
        }
        if let Some(ports) = self.plan.monitor {
            for (child, probe) in self.monitor.iter_mut().zip(ports.probes()) {
                wait_for(child, signals, deadline, || monitor::is_ready(probe))?;
            }
        }
        // One that is ready may have ended while the others were waited for.
        self.check()
    }

    /// Fails if a program has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes
            .iter_mut()
            .chain(&mut self.mail)
            .chain(&mut self.monitor)
            .chain(self.servers.children())
            .try_for_each(Child::must_run)
    }

    /// Returns when the user asks to stop; fails when a program ends.
    pub(crate) fn watch(&mut self) -> Result<()> {
        let signals = self.blueprint.signals;
        while !signals.stop_requested() {
            self.check()?;
            signals.wait(Duration::from_secs(5));
        }
        Ok(())
    }

    /// Runs a tool that shares our terminal, to its end; fails if it does, or if a program of the stack ends before.
    pub(crate) fn run_beside(&mut self, mut tool: Child) -> Result<()> {
        let signals = self.blueprint.signals;
        loop {
            if let Some(status) = tool.exited() {
                return match status.code() {
                    Some(0) => Ok(()),
                    code => Err(Error::Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
                };
            }
            let stopped = if signals.stop_requested() { Err(Error::Interrupted) } else { self.check() };
            if stopped.is_err() {
                tool.end_group(signals);
                return stopped;
            }
            signals.wait(Duration::from_secs(1));
        }
    }

    /// Stops everything: first what takes new work, last what others stand on.
    pub(crate) fn stop(&mut self) {
        let signals = self.blueprint.signals;
        let stop = signals.begin_stop();
        let _was_not_ready = std::fs::remove_file(self.blueprint.data.state_file());
        if signals.stop_requested() {
            step("Stopping", "everything; Ctrl-C once more kills");
        }
        // An end that is wanted is no reason for an alert.
        children::end(&mut self.monitor, STOP, &stop);
        self.monitor.clear();
        children::end(&mut self.processes, DRAIN, &stop);
        self.processes.clear();
        children::end(self.mail.as_mut_slice(), STOP, &stop);
        self.mail = None;
        self.servers.stop(&stop);
    }

    /// What our processes printed last, for a report of a failure elsewhere.
    pub(crate) fn last_lines(&mut self) -> Vec<String> {
        let children = self.processes.iter_mut().chain(&mut self.mail);
        children.map(|child| format!("{}{}", child.name().to_owned(), child.last_lines())).collect()
    }

    pub(crate) fn api_url(&self) -> Option<String> {
        let public = self.plan.processes.iter().find_map(|process| process.public)?;
        Some(format!("http://{}", probe::reachable(public)))
    }

    fn state(&mut self) -> State {
        let Blueprint { workspace, data, options, settings, .. } = self.blueprint;
        let mut processes: Vec<Running> =
            self.servers.children().map(|child| running(child, Vec::new())).collect();
        if let (Some(child), Some(mail)) = (&self.mail, self.plan.mail) {
            processes.push(running(child, vec![("smtp", mail.smtp.port()), ("http", mail.page.port())]));
        }
        for (child, process) in self.processes.iter().zip(&self.plan.processes) {
            let public = process.public.map(|addr| ("public", addr.port()));
            processes.push(running(
                child,
                public.into_iter().chain([("internal", process.internal.port())]).collect(),
            ));
        }
        if let Some(ports) = self.plan.monitor {
            for (child, (addr, _)) in self.monitor.iter().zip(ports.probes()) {
                processes.push(running(child, vec![("http", addr.port())]));
            }
        }
        let api_url = self.api_url();
        State {
            pid: std::process::id(),
            data: data.root().display().to_string(),
            binaries: workspace.binaries(options.release).display().to_string(),
            docs_url: api_url.as_ref().map(|url| format!("{url}/docs")),
            api_url,
            mail_url: self.plan.mail.map(|mail| http(mail.page, "")),
            smtp_url: self
                .plan
                .mail
                .map(|mail| format!("smtp://{}", mail.smtp))
                .or_else(|| settings.given("SMTP_URL")),
            database_url: self.servers.database_url.clone(),
            migrate_database_url: self.servers.migrate_database_url.clone(),
            redis_url: self.servers.redis_url.clone(),
            prometheus_url: self.plan.monitor.map(|ports| http(ports.prometheus, "")),
            alertmanager_url: self.plan.monitor.map(|ports| http(ports.alertmanager, "")),
            metrics_urls: self
                .plan
                .processes
                .iter()
                .map(|process| http(process.internal, "/metrics"))
                .collect(),
            processes,
        }
    }

    fn print_places(&self) {
        let row = |name: &str, place: String| say(format_args!("  {name:<11} {place}"));
        say("");
        if let Some(api) = self.api_url() {
            row("API", format!("{api}/api/v1"));
            row("docs", format!("{api}/docs"));
        }
        if let Some(mail) = self.plan.mail {
            row("mail page", http(mail.page, ""));
            row("SMTP", mail.smtp.to_string());
        }
        if let Some(ports) = self.plan.monitor {
            row("Prometheus", http(ports.prometheus, ""));
            row("alerts", http(ports.alertmanager, ""));
        }
        if let Some(loki) = &self.loki {
            row("Loki", loki.clone());
        }
        for process in &self.plan.processes {
            row("metrics", format!("{}  {}", http(process.internal, "/metrics"), process.name));
        }
        for (name, url) in [("PostgreSQL", &self.servers.database_url), ("Redis", &self.servers.redis_url)] {
            if let Some(url) = url {
                row(name, without_password(url));
            }
        }
        let logs = self.blueprint.data.log("NAME");
        row("logs", logs.parent().unwrap_or(Path::new("")).display().to_string());
        row("for scripts", self.blueprint.data.state_file().display().to_string());
        say("");
    }
}

fn running(child: &Child, ports: Vec<(&'static str, u16)>) -> Running {
    let log = child.log().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    Running { name: child.name().to_owned(), pid: child.pid(), ports, log }
}

fn http(addr: SocketAddr, path: &str) -> String {
    format!("http://{}{path}", probe::reachable(addr))
}

/// Waits until a program is ready; `ready` says what is missing.
fn wait_for(
    child: &mut Child,
    signals: &Signals,
    deadline: Instant,
    ready: impl Fn() -> std::result::Result<(), String>,
) -> Result<()> {
    loop {
        let missing = match ready() {
            Ok(()) => return Ok(()),
            Err(missing) => missing,
        };
        child.must_run()?;
        if signals.stop_requested() {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            let name = child.name().to_owned();
            return Err(
                child.failure(&format!("{name} is not ready after {} s ({missing})", READY.as_secs()))
            );
        }
        signals.wait(Duration::from_millis(20));
    }
}
