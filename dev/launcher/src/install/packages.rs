//! Programs from Debian packages, unpacked without root. apt chooses the version of the machine's release, and checks its
//! signatures and hashes as it does for the system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::children::{Child, Ending, Output, program};
use crate::error::{Context, Error, Result};
use crate::os::Signals;

/// A package whose programs run wherever they are put.
pub(crate) struct Package {
    name: &'static str,
    /// Packages of libraries that few machines have; its script says to the programs where they are.
    libraries: &'static [&'static str],
    /// A script that is put beside its programs: its path below the package's `/`, and its text.
    script: Option<(&'static str, &'static str)>,
}

/// `usr/bin/{prometheus,promtool}`.
pub(crate) const PROMETHEUS: Package = Package { name: "prometheus", libraries: &[], script: None };
/// `usr/bin/alertmanager`, which starts `usr/bin/prometheus-alertmanager`: Debian's reads its templates from `/usr/share`, so it
/// gets one of its own. That takes a user namespace, which most systems let everybody have.
pub(crate) const ALERTMANAGER: Package = Package {
    name: "prometheus-alertmanager",
    libraries: &[],
    script: Some((
        "usr/bin/alertmanager",
        r#"#!/bin/sh
exec unshare --map-root-user --mount sh -c '
    mount --bind "$0/share" /usr/share && exec setpriv --pdeathsig KILL "$0/bin/prometheus-alertmanager" "$@"
' "$(dirname "$0")/.." "$@"
"#,
    )),
};
/// `usr/bin/prometheus-node-exporter`.
pub(crate) const NODE_EXPORTER: Package =
    Package { name: "prometheus-node-exporter", libraries: &[], script: None };
/// `usr/bin/wrk`, which `usr/bin/wrk.sh` starts with the LuaJIT beside it.
pub(crate) const WRK: Package = Package {
    name: "wrk",
    libraries: &["libluajit-5.1-2"],
    script: Some((
        "usr/bin/wrk.sh",
        r#"#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$(echo "$here"/../lib/*-linux-gnu*) exec "$here/wrk" "$@"
"#,
    )),
};

/// `usr/sbin/nginx`, which `usr/bin/nginx` starts.
pub(crate) const NGINX: Package = Package {
    name: "nginx",
    libraries: &[],
    script: Some(("usr/bin/nginx", "#!/bin/sh\nexec \"$(dirname \"$0\")/../sbin/nginx\" \"$@\"\n")),
};

impl Package {
    /// The directory that is this package's `/`, below `tools`; installs it there unless an earlier run did.
    pub(crate) fn install(&self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        super::once(&format!("debian-{}", self.name), tools, |target| {
            self.download(target, signals)?;
            for archive in archives(target)? {
                let mut command = program("dpkg-deb");
                command.arg("--extract").arg(&archive).arg(target);
                run("dpkg-deb", command, signals)?;
                fs::remove_file(&archive).context(|| format!("remove {}", archive.display()))?;
            }
            if let Some((path, text)) = self.script {
                let path = target.join(path);
                fs::create_dir_all(path.parent().unwrap_or(target))
                    .and_then(|()| fs::write(&path, text))
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
                    .context(|| format!("write {}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Puts the package's archive into a directory.
    fn download(&self, target: &Path, signals: &Signals) -> Result<()> {
        let download = |options: &[String]| {
            let mut command = apt(options);
            command.args(["download", self.name]).args(self.libraries).current_dir(target);
            run("apt-get download", command, signals)
        };
        // The lists of packages are the system's, or, where it has none or old ones, our own.
        match download(&[]) {
            Err(Error::Told { .. }) => {}
            result => return result,
        }
        let own = target.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(part)).context(|| format!("create {}", own.join(part).display()))?;
        }
        let options = [
            format!("Dir::State={}", own.join("state").display()),
            format!("Dir::Cache={}", own.join("cache").display()),
            "Dir::State::status=/var/lib/dpkg/status".to_owned(),
        ];
        let mut update = apt(&options);
        update.arg("update");
        run("apt-get update", update, signals)?;
        download(&options)?;
        crate::data::remove(&own)
    }
}

fn apt(options: &[String]) -> Command {
    let mut command = program("apt-get");
    command.arg("--quiet");
    // Root would be another user while it downloads, who may not write into our directory. Without a network it says so soon.
    let ours = ["APT::Sandbox::User=root", "Acquire::Retries=0", "Acquire::http::Timeout=15"];
    for option in ours.into_iter().chain(options.iter().map(String::as_str)) {
        command.args(["--option", option]);
    }
    command
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).context(|| format!("read {}", directory.display()))?;
    let found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    if found.is_empty() { Err(Error::new("apt-get downloaded nothing")) } else { Ok(found) }
}

fn run(name: &str, command: Command, signals: &Signals) -> Result<()> {
    Child::spawn(name, command, Output::Remembered, Ending::TOOL)?.wait(signals).map(drop)
}
