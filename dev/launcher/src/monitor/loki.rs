//! Loki, and Alloy which brings it the lines of the log files, where both are on the machine: nothing that we install from carries
//! them. Without them the logs are files, as ever.

use std::path::{Path, PathBuf};

use super::fill;
use crate::children::{Child, Ending, Output, program};
use crate::data::{DataDir, make_shared, write_private};
use crate::encoding::json_string;
use crate::error::{Context, Result};
use crate::ports::Monitor;
use crate::programs::Sources;

/// What is said where they are missing.
pub(crate) const MISSING: &str = "none: there is no `loki` with an `alloy` on PATH";

/// The two programs.
pub(crate) struct Loki {
    loki: PathBuf,
    alloy: PathBuf,
}

impl Loki {
    /// Those of the machine.
    pub(super) fn find(sources: Sources) -> Option<Self> {
        // Debian has another program of this name.
        let loki = sources.that_says("loki", "loki, version")?;
        Some(Loki { loki, alloy: sources.that_says("alloy", "alloy, version")? })
    }

    /// Starts both. Nobody waits for them: Loki takes a quarter of a minute until it is ready, and lines are kept until then.
    pub(super) fn start(&self, ports: Monitor, monitoring: &Path, data: &DataDir) -> Result<Vec<Child>> {
        let read = |file: &str| {
            let path = monitoring.join("loki").join(file);
            std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))
        };
        let spawn = |name: &str, path: &Path, arguments: &[String]| {
            let mut command = program(path);
            command.args(arguments);
            Child::spawn(name, command, Output::Logged { file: data.log(name), shown: false }, Ending::OURS)
        };
        let folder = |name: &str| {
            let folder = data.monitor(name);
            make_shared(&folder).map(|()| folder.display().to_string())
        };
        let config = data.root().join("run/loki.yml");
        write_private(
            &config,
            read("loki.yml")?.replace(": /loki", &format!(": {}", folder("loki")?)).as_bytes(),
        )?;
        let lines = data.root().join("run/loki.alloy");
        let logs = data.log("*").display().to_string();
        write_private(&lines, alloy(&read("config.alloy")?, &logs, ports)?.as_bytes())?;
        Ok(vec![
            spawn(
                "loki",
                &self.loki,
                &[
                    format!("-config.file={}", config.display()),
                    format!("-server.http-listen-address={}", ports.loki.ip()),
                    format!("-server.http-listen-port={}", ports.loki.port()),
                    "-server.grpc-listen-address=127.0.0.1".to_owned(),
                    "-server.grpc-listen-port=0".to_owned(),
                ],
            )?,
            spawn(
                "alloy",
                &self.alloy,
                &[
                    "run".to_owned(),
                    format!("--server.http.listen-addr={}", ports.alloy),
                    format!("--storage.path={}", folder("alloy")?),
                    "--disable-reporting".to_owned(),
                    lines.display().to_string(),
                ],
            )?,
        ])
    }
}

/// `config.alloy`, with the files of these names instead of containers. The name of a file is the instance.
fn alloy(template: &str, logs: &str, ports: Monitor) -> Result<String> {
    let lines = template.split_once("loki.process").map_or(template, |(_, lines)| lines);
    let lines = format!("loki.process{lines}");
    let lines = fill(&lines, &[("http://loki:3100/", format!("http://{}/", ports.loki))])?;
    let logs = json_string(logs);
    Ok(format!(
        r#"local.file_match "logs" {{
  path_targets = [{{"__path__" = {logs}}}]
}}

loki.source.file "logs" {{
  targets    = local.file_match.logs.targets
  forward_to = [loki.process.lines.receiver]
}}

{lines}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Components, Replicas};
    use crate::ports::{Base, plan};
    use crate::settings::Settings;

    #[test]
    fn the_files_lines_go_where_those_of_containers_do() {
        let plan = plan(Base::from(Settings::Ours).unwrap(), Components::ALL, Replicas::default(), 100);
        let ports = plan.monitored(true).monitor.unwrap();
        let config =
            alloy(include_str!("../../../../monitoring/loki/config.alloy"), "/d/logs/*.log", ports).unwrap();
        for part in [
            r#"path_targets = [{"__path__" = "/d/logs/*.log"}]"#,
            r#"loki.process "lines" {"#,
            r#"url = "http://127.0.0.1:3200/loki/api/v1/push""#,
        ] {
            assert!(config.contains(part), "{part} is not in {config}");
        }
        assert!(!config.contains("docker"), "{config}");
    }
}
