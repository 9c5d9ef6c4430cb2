//! Rebuilds when a migration changes (`embed_migrations!` alone does not notice a new folder), and gives the tests
//! a name for the template database of just these migrations.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
    let mut hasher = DefaultHasher::new();
    for file in files(Path::new("../migrations")) {
        file.hash(&mut hasher);
        fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    println!("cargo:rustc-env=TASKTRACKER_MIGRATIONS={:016x}", hasher.finish());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
