#![expect(clippy::panic, reason = "panicking on request is what this kind is for")]

use std::{fs::OpenOptions, io::Write as _, path::Path, time::Duration};

use anyhow::Context as _;
use common::jobs::{Act, Probe};

use crate::{
    context::Context,
    job::{JobError, Run},
    runner::Running,
};

impl Run for Probe {
    async fn run(self, context: &Context) -> Result<(), JobError> {
        if let Some(log) = &self.log {
            note(log)?;
        }
        let millis = Duration::from_millis;
        match self.act {
            Act::Nothing => Ok(()),
            Act::Sleep(ms) => {
                tokio::time::sleep(millis(ms)).await;
                Ok(())
            }
            Act::Work(ms) => {
                tokio::time::sleep(millis(ms)).await;
                self.log.map_or(Ok(()), |log| note(&log.with_added_extension("done")))?;
                Ok(())
            }
            Act::Block(ms) => {
                std::thread::sleep(millis(ms));
                Ok(())
            }
            Act::Deafen => {
                crate::backend::deaf::deafen();
                Ok(())
            }
            Act::Panic => panic!("a probe was told to panic"),
            Act::Abort => std::process::abort(),
            Act::Fail(bytes) => Err(fail(bytes).into()),
            Act::Cancel => Err(JobError::Cancel("a probe was told to cancel".to_owned())),
            Act::Snooze(ms) => {
                let until = context.db.clock().instant() + chrono::Duration::milliseconds(ms);
                Err(JobError::Snooze(until))
            }
            Act::Die => Err(JobError::Dead("a probe was told to die".to_owned())),
        }
    }
}

/// Appends that this job is here, and when.
fn note(log: &Path) -> anyhow::Result<()> {
    let Running { id, attempt, .. } = Running::current().context("a probe runs as a job")?;
    let (pid, micros) = (std::process::id(), common::clock::Clock::default().instant().timestamp_micros());
    let line = format!("{id} {attempt} {pid} {micros}\n");
    OpenOptions::new().create(true).append(true).open(log)?.write_all(line.as_bytes())?;
    Ok(())
}

fn fail(bytes: usize) -> anyhow::Error {
    anyhow::anyhow!("x".repeat(bytes))
}
