//! Prometheus, Alertmanager and node_exporter beside a stack, with the rules and routes of `monitoring/`: only addresses and intervals
//! are others than there. Loki is started where it is found.

pub(crate) mod loki;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use loki::Loki;

use crate::children::{Child, Ending, Output, program};
use crate::data::{DataDir, make_shared, write_private};
use crate::encoding::json_string;
use crate::error::{Context, Error, Result};
use crate::os::Signals;
use crate::ports::{Kind, Monitor, Plan};
use crate::probe;
use crate::programs::Sources;

/// How often the processes are looked at: whoever develops does not wait for 15 s.
const INTERVAL: &str = "2s";

/// The programs of the monitor.
pub(crate) struct Programs {
    pub(crate) prometheus: PathBuf,
    pub(crate) alertmanager: PathBuf,
    node_exporter: PathBuf,
    pub(crate) loki: Option<Loki>,
}

impl Programs {
    /// Of the machine, or installed.
    pub(crate) fn find(tools: &Path, signals: &Signals) -> Result<Self> {
        let sources = Sources::from_env()?;
        Ok(Programs {
            prometheus: sources.prometheus(tools, signals)?,
            alertmanager: sources.alertmanager(tools, signals)?,
            node_exporter: sources.node_exporter(tools, signals)?,
            loki: Loki::find(sources),
        })
    }

    /// Starts them, without waiting until they are ready. `monitoring` is that folder of the workspace.
    pub(crate) fn start(
        &self,
        monitor: Monitor,
        plan: &Plan,
        monitoring: &Path,
        data: &DataDir,
    ) -> Result<Vec<Child>> {
        let read = |file: &str| {
            let path = monitoring.join(file);
            std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))
        };
        let rules = monitoring.join("prometheus/rules/*.yml");
        let scrape = prometheus(&read("prometheus/prometheus.yml")?, plan, monitor, &rules)?;
        let routes = alertmanager(&read("alertmanager/alertmanager.yml")?, plan)?;
        let start = |name: &str, program_path: &Path, listen: SocketAddr, arguments: &[String]| {
            let mut command = program(program_path);
            command.arg(format!("--web.listen-address={listen}")).args(arguments);
            let output = Output::Logged { file: data.log(name), shown: false };
            Child::spawn(name, command, output, Ending::OURS)
        };
        let configured = |name: &str, config: &str, storage: &str| {
            let file = data.root().join(format!("run/{name}.yml"));
            write_private(&file, config.as_bytes())?;
            let directory = data.monitor(name);
            make_shared(&directory)?;
            Ok(vec![
                format!("--config.file={}", file.display()),
                format!("--{storage}={}", directory.display()),
            ])
        };
        let scraping = configured("prometheus", &scrape, "storage.tsdb.path")?;
        let mut telling = configured("alertmanager", &routes, "storage.path")?;
        // It stands alone, and opens no port for others.
        telling.push("--cluster.listen-address=".to_owned());
        let mut children = vec![
            start("prometheus", &self.prometheus, monitor.prometheus, &scraping)?,
            start("alertmanager", &self.alertmanager, monitor.alertmanager, &telling)?,
            start("node_exporter", &self.node_exporter, monitor.node_exporter, &[])?,
        ];
        if let Some(loki) = &self.loki {
            children.extend(loki.start(monitor, monitoring, data)?);
        }
        Ok(children)
    }
}

impl Monitor {
    /// Where each that is waited for answers, in the order in which they are started, and where it says that it is ready.
    pub(crate) fn probes(self) -> [(SocketAddr, &'static str); 3] {
        [(self.prometheus, "/-/ready"), (self.alertmanager, "/-/ready"), (self.node_exporter, "/")]
    }
}

/// Whether one of them answers.
pub(crate) fn is_ready((addr, path): (SocketAddr, &str)) -> std::result::Result<(), String> {
    match probe::http_get(addr, path) {
        Ok((200, _)) => Ok(()),
        Ok((status, body)) => Err(format!("{path} answers {status}: {body}")),
        Err(error) => Err(format!("{path} at {addr} does not answer: {error}")),
    }
}

/// `prometheus.yml` for the processes of a plan.
fn prometheus(template: &str, plan: &Plan, monitor: Monitor, rules: &Path) -> Result<String> {
    let targets = |kind: Kind| {
        let addresses: Vec<String> = plan
            .processes
            .iter()
            .filter(|process| process.kind == kind)
            .map(|process| json_string(&probe::reachable(process.internal).to_string()))
            .collect();
        format!("[{}]", addresses.join(", "))
    };
    fill(
        template,
        &[
            (r#"["127.0.0.1:9464"]"#, targets(Kind::Api)),
            (r#"["127.0.0.1:9465"]"#, targets(Kind::Worker)),
            (r#"["127.0.0.1:9466"]"#, targets(Kind::Scheduler)),
            (r#"["127.0.0.1:9100"]"#, format!("[{}]", json_string(&monitor.node_exporter.to_string()))),
            (r#"["127.0.0.1:9093"]"#, format!("[{}]", json_string(&monitor.alertmanager.to_string()))),
            ("- rules/*.yml", format!("- {}", json_string(&rules.display().to_string()))),
            ("scrape_interval: 15s", format!("scrape_interval: {INTERVAL}")),
            ("scrape_timeout: 10s", format!("scrape_timeout: {INTERVAL}")),
            ("evaluation_interval: 15s", format!("evaluation_interval: {INTERVAL}")),
        ],
    )
}

/// `alertmanager.yml` for the sink of a plan. Without one, mails go nowhere.
fn alertmanager(template: &str, plan: &Plan) -> Result<String> {
    let smtp = plan.mail.map_or_else(|| "127.0.0.1:1025".to_owned(), |mail| mail.smtp.to_string());
    fill(template, &[("smtp_smarthost: mailpit:1025", format!("smtp_smarthost: {smtp}"))])
}

/// Replaces each of these, which stands in the text once.
fn fill(template: &str, replacements: &[(&str, String)]) -> Result<String> {
    let mut text = template.to_owned();
    for (from, to) in replacements {
        if template.matches(from).count() != 1 {
            return Err(Error::new(format!("monitoring/: {from:?} is not there, or more than once"))
                .fix("change dev/launcher/src/monitor.rs together with the configuration"));
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Components, Replicas};
    use crate::ports::{Base, plan};
    use crate::settings::Settings;

    fn watched(components: Components) -> Plan {
        let replicas = Replicas { worker: 2, ..Replicas::default() };
        plan(Base::from(Settings::Ours).unwrap(), components, replicas, 100).monitored(true)
    }

    #[test]
    fn every_process_is_scraped_and_alerts_go_to_the_sink() {
        let plan = watched(Components::ALL);
        let template = include_str!("../../../monitoring/prometheus/prometheus.yml");
        let rules = Path::new("/w/rules/*.yml");
        let config = prometheus(template, &plan, plan.monitor.unwrap(), rules).unwrap();
        for part in [
            r#"- targets: ["127.0.0.1:9564"]"#,
            r#"- targets: ["127.0.0.1:9565", "127.0.0.1:9584"]"#,
            r#"- targets: ["127.0.0.1:9193"]"#,
            r#"- "/w/rules/*.yml""#,
            "scrape_interval: 2s",
        ] {
            assert!(config.contains(part), "{part} is not in {config}");
        }
        let template = include_str!("../../../monitoring/alertmanager/alertmanager.yml");
        assert!(alertmanager(template, &plan).unwrap().contains("smtp_smarthost: 127.0.0.1:1125\n"));
    }

    #[test]
    fn what_is_not_started_is_not_scraped() {
        let plan = watched(Components { api: false, ..Components::ALL });
        let template = include_str!("../../../monitoring/prometheus/prometheus.yml");
        let config = prometheus(template, &plan, plan.monitor.unwrap(), Path::new("r")).unwrap();
        assert!(config.contains("- targets: []"), "{config}");
    }

    #[test]
    fn a_configuration_that_changed_is_noticed() {
        let error = alertmanager("global: {}", &watched(Components::ALL)).unwrap_err().to_string();
        assert!(error.contains("smtp_smarthost"), "{error}");
    }
}
