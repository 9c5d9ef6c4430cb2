//! Tables for a terminal: columns that line up, within its width.

use super::one_line;

/// A table of text.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

/// Between two columns.
const GAP: &str = "  ";

impl Table {
    /// With these headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// A line more.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| one_line(cell)).collect());
    }

    /// Columns are as wide as what they hold, numbers stand to the right, and the last column is cut to what `width`
    /// leaves of it.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|column| self.rows[1..].iter().all(|row| row[column].parse::<i64>().is_ok()))
            .collect();
        self.rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(&widths).zip(&numeric).map(|((cell, &wide), &right)| {
                    if right { format!("{cell:>wide$}") } else { format!("{cell:<wide$}") }
                });
                let line = cells.collect::<Vec<_>>().join(GAP);
                cut(line.trim_end(), width) + "\n"
            })
            .collect()
    }
}

fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width && width > 1 => {
            line.chars().take(width - 1).chain(['…']).collect()
        }
        _ => line.to_owned(),
    }
}

/// A length of time in its largest unit, rounded down: `12 s`, `3 min`, `4 h`, `2 d`.
pub(super) fn age(length: chrono::Duration) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_told_in_their_largest_unit() {
        for (seconds, told) in [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (86_399, "23 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(age(chrono::Duration::seconds(seconds)), told);
        }
    }

    #[test]
    fn columns_line_up_within_the_width() {
        let mut table = Table::new(&["NAME", "N", "TEXT"]);
        table.row(["a".to_owned(), "7".to_owned(), "short".to_owned()]);
        table.row(["long name".to_owned(), "1000".to_owned(), "two\nlines \u{1b}[31mred".to_owned()]);
        assert_eq!(
            table.render(None),
            "NAME          N  TEXT\na             7  short\nlong name  1000  two lines  [31mred\n"
        );
        assert!(table.render(Some(20)).lines().all(|line| line.chars().count() <= 20));
        assert_eq!(table.render(Some(20)).lines().nth(2), Some("long name  1000  tw…"));
    }
}
