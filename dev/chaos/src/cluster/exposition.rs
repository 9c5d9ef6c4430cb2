//! The text format that Prometheus scrapes, read strictly:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>. Only reading, and only for tests.

use std::collections::BTreeMap;

/// What a process exposes, by the name of the family.
#[derive(Debug, Default)]
pub struct Exposition(pub BTreeMap<String, Family>);

/// All series of one metric.
#[derive(Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `summary`.
    pub kind: String,
    /// The text after `# HELP`.
    pub help: String,
    /// Name with suffix, labels in order, value.
    pub samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// Reads it.
    ///
    /// # Errors
    /// The first line that is not in the format, or a sample that stands before the type of its family.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let wrong = |why: &str| format!("{why}: {line}");
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next(), words.next(), words.next().unwrap_or_default());
                let family = families.entry(name.ok_or_else(|| wrong("no name"))?.to_owned()).or_default();
                let field = match what {
                    Some("HELP") => &mut family.help,
                    Some("TYPE") => &mut family.kind,
                    _ => return Err(wrong("neither HELP nor TYPE")),
                };
                if !field.is_empty() || rest.is_empty() {
                    return Err(wrong("given twice, or empty"));
                }
                rest.clone_into(field);
            } else {
                let (series, value) = line.rsplit_once(' ').ok_or_else(|| wrong("no value"))?;
                let value = value.parse().map_err(|_| wrong("not a number"))?;
                let (name, labels) = match series.split_once('{') {
                    Some((name, labels)) => (name, read_labels(labels).ok_or_else(|| wrong("labels"))?),
                    None => (series, BTreeMap::new()),
                };
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|suffix| name.strip_suffix(suffix))
                    .find(|base| families.get(*base).is_some_and(|family| family.kind == "histogram"))
                    .unwrap_or(name);
                let family = families.get_mut(family).filter(|family| !family.kind.is_empty());
                let family = family.ok_or_else(|| wrong("a sample before its TYPE"))?;
                family.samples.push((name.to_owned(), labels, value));
            }
        }
        Ok(Self(families))
    }

    /// The sum of all series of a counter or gauge whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let Some(family) = self.0.get(name) else { return 0.0 };
        let matches = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| have.get(*label).is_some_and(|have| have == value))
        };
        family.samples.iter().filter(|(_, have, _)| matches(have)).map(|(.., value)| value).sum()
    }
}

/// `a="x",b="y"}`, with backslash, quote and newline escaped.
fn read_labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while rest != "}" {
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (index, '"') => break index,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    escaped => escaped,
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

impl Family {
    /// Whether it is a histogram as it has to be: for each set of labels the buckets never fall, end with `+Inf`, and
    /// that one equals `_count`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_histogram(&self) -> Result<(), String> {
        #[derive(Debug, Default)]
        struct Series {
            buckets: Vec<(f64, f64)>,
            count: Option<f64>,
            sum: Option<f64>,
        }

        let mut all: BTreeMap<BTreeMap<String, String>, Series> = BTreeMap::new();
        for (name, labels, value) in &self.samples {
            let mut labels = labels.clone();
            let bound = labels.remove("le");
            let series = all.entry(labels).or_default();
            match bound {
                Some(bound) => {
                    series.buckets.push((bound.parse().map_err(|_| format!("le={bound}"))?, *value))
                }
                None if name.ends_with("_count") => series.count = Some(*value),
                None if name.ends_with("_sum") => series.sum = Some(*value),
                None => return Err(format!("{name} is no part of a histogram")),
            }
        }
        for (labels, series) in all {
            let rises = series.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            let end = series.buckets.last().map(|(bound, count)| (*bound, Some(*count)));
            let complete = series.buckets.len() > 1
                && series.sum.is_some()
                && end == Some((f64::INFINITY, series.count));
            if !rises || !complete {
                return Err(format!("{labels:?}: {series:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_escaped_labels_and_sums() {
        let text = "# HELP a_total what\n# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"\\\\\\n,}\"} 2\na_total{x=\"2\"} 3\n";
        let exposition = Exposition::parse(text).unwrap();
        assert_eq!(exposition.sum("a_total", &[]), 5.0);
        assert_eq!(exposition.sum("a_total", &[("y", "q\"\\\n,}")]), 2.0);
    }

    #[test]
    fn a_sample_without_a_type_and_a_histogram_without_its_end_are_refused() {
        assert!(Exposition::parse("a 1\n").unwrap_err().contains("before its TYPE"));
        let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1\nh_count 2\n";
        assert_eq!(Exposition::parse(text).unwrap().0["h"].check_histogram(), Ok(()));
        let text = text.replace("h_count 2", "h_count 3");
        assert!(Exposition::parse(&text).unwrap().0["h"].check_histogram().is_err());
    }
}
