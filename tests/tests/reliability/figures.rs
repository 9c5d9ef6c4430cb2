use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

/// Prints a line that is seen although the test passes: what was measured is part of the result.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use say;

/// How long things took, for a line in the output.
pub(crate) struct Figures(Vec<Duration>);

impl Figures {
    /// From any order.
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        assert!(!durations.is_empty(), "nothing was measured");
        durations.sort_unstable();
        Self(durations)
    }

    /// The duration that `percent` of all do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        write!(
            f,
            "{} samples, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.0.len(),
            ms(50),
            ms(99),
            ms(100)
        )
    }
}

/// How much later `actual` is than `planned`.
///
/// # Panics
/// If it is earlier: nothing may be.
pub(crate) fn lateness(planned: DateTime<Utc>, actual: DateTime<Utc>) -> Duration {
    (actual - planned).to_std().unwrap_or_else(|_| panic!("early: planned for {planned}, came at {actual}"))
}
