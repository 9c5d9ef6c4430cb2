//! Durations, summed up for people.

use std::{fmt, time::Duration};

/// Some durations, in order.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<Duration>);

/// The upper bounds of the histogram's rows, in milliseconds.
const ROWS: [u64; 9] = [250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, u64::MAX];

impl Figures {
    /// Of these.
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest that is not exceeded by `percent` of 100; zero if there are none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied().unwrap_or_default()
    }

    /// How many there are up to each bound: a label, and a number.
    pub fn histogram(&self) -> Vec<(String, usize)> {
        let mut before = 0;
        let rows = ROWS.iter().map(|row| {
            let upto = self.0.partition_point(|late| late.as_millis() <= u128::from(*row));
            let count = upto - before;
            before = upto;
            let label = match *row {
                u64::MAX => "more".to_owned(),
                millis => format!("≤ {} s", Duration::from_millis(millis).as_secs_f64()),
            };
            (label, count)
        });
        rows.collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |percent| self.percentile(percent).as_secs_f64();
        write!(f, "p50 {:.1} s, p99 {:.1} s, max {:.1} s", seconds(50), seconds(99), seconds(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_what_is_theirs_alone() {
        let figures = Figures::new([100, 250, 251, 1_500, 90_000].map(Duration::from_millis).to_vec());
        let counts: Vec<usize> = figures.histogram().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(figures.percentile(50), Duration::from_millis(251));
        assert_eq!(figures.percentile(100), Duration::from_secs(90));
    }
}
