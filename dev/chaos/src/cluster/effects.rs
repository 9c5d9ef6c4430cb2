use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::ids::JobId;

/// A file to which probes append a line when they start.
#[derive(Debug, Clone)]
pub struct Effects(PathBuf);

/// The start of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Which job.
    pub job: JobId,
    /// Which try, from 1.
    pub attempt: u32,
    /// In which process.
    pub pid: u32,
    /// When, in microseconds since 1970.
    pub micros: i64,
}

impl Effects {
    /// Those in a file, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All starts so far, in the order of their writing.
    pub fn all(&self) -> Vec<Effect> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", self.0.display()),
        };
        // A line without its end is being written.
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(Effect::parse).collect()
    }

    /// The starts of one job.
    pub fn of(&self, job: JobId) -> Vec<Effect> {
        self.all().into_iter().filter(|effect| effect.job == job).collect()
    }

    /// How often each job started.
    pub fn starts(&self) -> BTreeMap<JobId, usize> {
        let mut starts = BTreeMap::new();
        for effect in self.all() {
            *starts.entry(effect.job).or_default() += 1;
        }
        starts
    }

    /// How many jobs started at least once; an error that says so if that is not `wanted`. For [`until`](super::until).
    ///
    /// # Errors
    /// While fewer, or more, have started.
    pub fn started(&self, wanted: usize) -> Result<(), String> {
        let started = self.starts().len();
        if started == wanted { Ok(()) } else { Err(format!("{started} of {wanted} jobs have started")) }
    }
}

impl Effect {
    fn parse(line: &str) -> Self {
        let mut fields = line.split(' ');
        let mut next = || fields.next().unwrap_or_else(|| panic!("`{line}` is not what a probe writes"));
        Self {
            job: next().parse().expect("a job's id"),
            attempt: next().parse().expect("an attempt"),
            pid: next().parse().expect("a pid"),
            micros: next().parse().expect("microseconds"),
        }
    }
}
