//! `.data/run/dev.json`: where everything is, for scripts. It is there while everything is ready.

use std::fs;
use std::path::Path;

use crate::data::{is_in_use, state_file, write_private};
use crate::encoding::json_string;
use crate::error::{Context, Error, Result};

/// A program that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// What it listens on by TCP, by purpose: `public`, `internal`, `smtp`, `http`.
    pub(crate) ports: Vec<(&'static str, u16)>,
    pub(crate) log: String,
}

/// The contents of `dev.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) pid: u32,
    pub(crate) data: String,
    pub(crate) binaries: String,
    pub(crate) api_url: Option<String>,
    pub(crate) docs_url: Option<String>,
    pub(crate) mail_url: Option<String>,
    pub(crate) smtp_url: Option<String>,
    pub(crate) database_url: Option<String>,
    pub(crate) migrate_database_url: Option<String>,
    pub(crate) redis_url: Option<String>,
    pub(crate) prometheus_url: Option<String>,
    pub(crate) alertmanager_url: Option<String>,
    pub(crate) metrics_urls: Vec<String>,
    pub(crate) processes: Vec<Running>,
}

impl State {
    /// Only we may read it: the URLs may hold passwords.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write_private(path, self.to_json().as_bytes())
    }

    /// One member a line, which [`api_url`] relies on.
    fn to_json(&self) -> String {
        let optional = |text: &Option<String>| text.as_deref().map_or_else(|| "null".to_owned(), json_string);
        let metrics: Vec<String> = self.metrics_urls.iter().map(|url| json_string(url)).collect();
        let processes: Vec<String> =
            self.processes.iter().map(|process| format!("    {}", process.to_json())).collect();
        let members = [
            ("pid", self.pid.to_string()),
            ("data_dir", json_string(&self.data)),
            ("bin_dir", json_string(&self.binaries)),
            ("api_url", optional(&self.api_url)),
            ("docs_url", optional(&self.docs_url)),
            ("mail_url", optional(&self.mail_url)),
            ("smtp_url", optional(&self.smtp_url)),
            ("database_url", optional(&self.database_url)),
            ("migrate_database_url", optional(&self.migrate_database_url)),
            ("redis_url", optional(&self.redis_url)),
            ("prometheus_url", optional(&self.prometheus_url)),
            ("alertmanager_url", optional(&self.alertmanager_url)),
            ("metrics_urls", format!("[{}]", metrics.join(", "))),
            ("processes", format!("[\n{}\n  ]", processes.join(",\n"))),
        ];
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        format!("{{\n{}\n}}\n", members.join(",\n"))
    }
}

impl Running {
    fn to_json(&self) -> String {
        let ports: Vec<String> =
            self.ports.iter().map(|(purpose, port)| format!("\"{purpose}\": {port}")).collect();
        format!(
            "{{\"name\": {}, \"pid\": {}, \"ports\": {{{}}}, \"log\": {}}}",
            json_string(&self.name),
            self.pid,
            ports.join(", "),
            json_string(&self.log)
        )
    }
}

/// The URL of the API of the stack that runs on this data directory.
pub(crate) fn api_url(data: &Path) -> Result<String> {
    let path = state_file(data);
    // A launcher that was killed leaves its file behind.
    if !path.exists() || !is_in_use(data) {
        return Err(Error::new(format!("no `cargo dev` is ready on {}", data.display()))
            .fix("start `cargo dev` in another terminal, and wait until it says that it is ready"));
    }
    let json = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
    find_api_url(&json).ok_or_else(|| {
        Error::new(format!("the `cargo dev` on {} runs without the API", data.display()))
            .fix("start it again without --only")
    })
}

fn find_api_url(json: &str) -> Option<String> {
    let value = json.lines().find_map(|line| line.trim().strip_prefix("\"api_url\": "))?;
    // A URL that we made holds nothing that JSON escapes.
    Some(value.strip_prefix('"')?.trim_end_matches(',').strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            pid: 7,
            data: "/tmp/with \"quotes\"".to_owned(),
            api_url: Some("http://127.0.0.1:8000".to_owned()),
            metrics_urls: vec!["http://127.0.0.1:9464/metrics".to_owned()],
            processes: vec![Running {
                name: "api".to_owned(),
                pid: 8,
                ports: vec![("public", 8000), ("internal", 9464)],
                log: "/tmp/api.log".to_owned(),
            }],
            ..State::default()
        }
    }

    #[test]
    fn is_written_as_documented() {
        assert_eq!(
            state().to_json(),
            r#"{
  "pid": 7,
  "data_dir": "/tmp/with \"quotes\"",
  "bin_dir": "",
  "api_url": "http://127.0.0.1:8000",
  "docs_url": null,
  "mail_url": null,
  "smtp_url": null,
  "database_url": null,
  "migrate_database_url": null,
  "redis_url": null,
  "prometheus_url": null,
  "alertmanager_url": null,
  "metrics_urls": ["http://127.0.0.1:9464/metrics"],
  "processes": [
    {"name": "api", "pid": 8, "ports": {"public": 8000, "internal": 9464}, "log": "/tmp/api.log"}
  ]
}
"#
        );
    }

    #[test]
    fn the_api_is_found_again() {
        assert_eq!(find_api_url(&state().to_json()).as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(find_api_url(&State { api_url: None, ..state() }.to_json()), None);
        assert_eq!(find_api_url("not json"), None);
    }
}
