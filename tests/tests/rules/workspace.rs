//! The files of the workspace.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A text file.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// One file, by its path from the root.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder of the root (`""` for all), in order; without hidden folders and `target`.
pub(crate) fn files_below(folder: &str) -> Vec<File> {
    let files = paths_below(folder).into_iter().filter(|path| path.is_file());
    // What is not text is nobody's business here.
    files
        .filter_map(|path| Some(File { text: fs::read_to_string(&path).ok()?, path: relative(&path) }))
        .collect()
}

/// All Rust files.
pub(crate) fn rust_files() -> Vec<File> {
    let files: Vec<File> = files_below("").into_iter().filter(|file| file.path.ends_with(".rs")).collect();
    assert!(files.len() > 50, "the workspace has more than {} Rust files", files.len());
    files
}

/// The names of all files and folders, relative to the root.
pub(crate) fn paths() -> Vec<String> {
    paths_below("").iter().map(|path| relative(path)).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

fn paths_below(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}
