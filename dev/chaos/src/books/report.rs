use std::fmt;

use super::Balance;
use crate::figures::Figures;

/// Differences shown at most; the journal has all.
const SHOWN: usize = 20;

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:>8} {what}")?;
        }
        match self.settled {
            Some(settled) => writeln!(
                f,
                "{:>7.1}s until everything was done, after the last fault",
                settled.as_secs_f64()
            )?,
            None => writeln!(f, "         not everything was done in time")?,
        }
        lateness(f, "reminders with nothing wrong", &self.late)?;
        lateness(f, "reminders with a fault between their time and their coming", &self.late_by_faults)?;
        if self.differences.is_empty() {
            return writeln!(f, "\nThe books balance.");
        }
        writeln!(f, "\nThe books do not balance: {} differences.", self.differences.len())?;
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f, "  - {difference}")?;
        }
        match self.differences.len().checked_sub(SHOWN) {
            Some(more @ 1..) => writeln!(f, "  … and {more} more"),
            _ => Ok(()),
        }
    }
}

fn lateness(f: &mut fmt::Formatter<'_>, what: &str, figures: &Figures) -> fmt::Result {
    if figures.count() == 0 {
        return Ok(());
    }
    writeln!(f, "\n{} {what}, late by {figures}", figures.count())?;
    for (label, count) in figures.histogram().into_iter().filter(|(_, count)| *count > 0) {
        let bar = "#".repeat((50 * count).div_ceil(figures.count()));
        writeln!(f, "{label:>10} {count:>6} {bar}")?;
    }
    Ok(())
}
