//! The workspace that the launcher belongs to: where its files are, and how its binaries come to be.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::children::{Child, Ending, Output, program};
use crate::data::{make_shared, reachable};
use crate::error::{Context, Error, Result};
use crate::os::Signals;

/// Paths of the workspace.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.canonicalize().context(|| format!("find the workspace at {}", root.display()))?;
        // The launcher itself lies in `<target>/<profile>/`: so every way to configure the target directory holds.
        let own = std::env::current_exe().context(|| "find the path of this program")?;
        let target =
            own.ancestors().nth(2).ok_or_else(|| Error::new("this program lies in no target directory"))?;
        Ok(Workspace { target: target.to_path_buf(), root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `--data`, or `.data` of the workspace.
    pub(crate) fn data(&self, chosen: Option<&Path>) -> PathBuf {
        chosen.map_or_else(|| self.root.join(".data"), Path::to_path_buf)
    }

    /// Where servers are installed, whatever the data directory is.
    pub(crate) fn tools(&self) -> Result<PathBuf> {
        let data = self.data(None);
        make_shared(&data)?;
        let tools = reachable(&data, Account::for_postgres()?.as_ref())?.join("tools");
        make_shared(&tools)?;
        Ok(tools)
    }

    /// Where `cargo build` puts our binaries.
    pub(crate) fn binaries(&self, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" })
    }

    /// One of our binaries; fails if it is not there.
    pub(crate) fn binary(&self, name: &str, release: bool) -> Result<Command> {
        let path = self.binaries(release).join(name);
        if !path.is_file() {
            return Err(Error::new(format!("the program {} is missing", path.display()))
                .fix("run `cargo build --workspace` and look which package should have made it"));
        }
        let mut command = program(path);
        command.current_dir(&self.root);
        Ok(command)
    }

    /// A `cargo` that is not told about the package that it runs for: the launcher.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.root);
        command
    }

    /// Builds everything, with cargo's own progress on the terminal.
    pub(crate) fn build(&self, release: bool, signals: &Signals) -> Result<()> {
        let mut command = self.cargo();
        command.args(["build", "--workspace"]).args(release.then_some("--release"));
        run("cargo build", command, signals)
    }
}

/// Runs a program that shares our terminal; its failure becomes ours.
pub(crate) fn run(name: &str, command: Command, signals: &Signals) -> Result<()> {
    let status = Child::spawn(name, command, Output::Terminal, Ending::TOOL)?.wait(signals)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Error::Exit(u8::try_from(code).unwrap_or(1))),
        None => Err(Error::new(format!("{name} was ended by a signal ({status})"))),
    }
}
