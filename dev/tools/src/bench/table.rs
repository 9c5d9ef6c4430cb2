use std::fmt;

/// Samples of one figure, one from each round.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The median; of an even number the mean of the middle two.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }
}

/// The value that `percent` of `sorted` do not exceed (nearest rank).
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// A table of text, as wide as it has to be.
pub(super) struct Table<const N: usize>(pub(super) Vec<[String; N]>);

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..N).map(width).collect();
        for (number, row) in self.0.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if number == 0 {
                let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(f, "|-{}-|", lines.join("-|-"))?;
            }
        }
        Ok(())
    }
}

/// `31,204/s`.
pub(super) fn rate(per_second: f64) -> String {
    let digits = format!("{per_second:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text + "/s"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_nearest_ranks() {
        let mut samples = Samples::default();
        for sample in [3.0, 1.0, 2.0] {
            samples.push(sample);
        }
        assert_eq!(samples.median(), 2.0);
        samples.push(10.0);
        assert_eq!(samples.median(), 2.5);
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            (percentile(&sorted, 50), percentile(&sorted, 99), percentile(&[7.0], 99)),
            (100.0, 198.0, 7.0)
        );
        assert_eq!(
            (rate(31_204.4), rate(1_000_000.0), rate(7.0)),
            ("31,204/s".into(), "1,000,000/s".into(), "7/s".into())
        );
    }
}
