use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

/// P13: how long a build of the API takes after a line of one of its files was changed, as `cargo dev` builds it. The
/// file is as before afterwards.
pub(super) fn after_a_line() -> anyhow::Result<Duration> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = root.join("api/src/meta.rs");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let build = || -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "api", "--bin", "tasktracker-api"]);
        let status = command.current_dir(&root).status()?;
        ensure!(status.success(), "the build failed");
        Ok(begun.elapsed())
    };
    build()?;
    std::fs::write(&file, format!("{text}\nconst _: &str = \"a line more\";\n"))?;
    let took = build();
    std::fs::write(&file, text)?;
    build()?;
    took
}
