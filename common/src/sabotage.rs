//! In test builds alone: defects that can be planted in the real binaries, so that the chaos harness can show that it
//! would find them (goals, Reliability). Which one is planted is said by `TASKTRACKER_SABOTAGE`. Each is one call where
//! the right thing is done otherwise; nothing that is shipped belongs here.

use std::{fmt, str::FromStr, sync::LazyLock};

/// The variable that plants a defect.
pub const VARIABLE: &str = "TASKTRACKER_SABOTAGE";

/// A defect that job systems have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A job is finished when it is taken, before its work is done: a worker that dies loses it.
    AckBeforeFinish,
    /// Nobody compares the ledger with Redis: what Redis loses stays lost.
    NoReconcile,
    /// A worker takes what another one holds and renews: jobs run twice at once.
    DoubleClaim,
    /// A late result counts, although the job is another worker's by then.
    SkipFence,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AckBeforeFinish, Self::NoReconcile, Self::DoubleClaim, Self::SkipFence];

    /// As it is written on the command line and in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeFinish => "ack-before-finish",
            Self::NoReconcile => "no-reconcile",
            Self::DoubleClaim => "double-claim",
            Self::SkipFence => "skip-fence",
        }
    }

    /// Whether this one is planted in this process.
    pub fn is_planted(self) -> bool {
        static PLANTED: LazyLock<Option<Sabotage>> =
            LazyLock::new(|| std::env::var(VARIABLE).ok()?.parse().ok());
        *PLANTED == Some(self)
    }
}

impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|sabotage| sabotage.name() == text)
            .ok_or_else(|| format!("choose from {}", names()))
    }
}
