use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    super::table::{Samples, Table, rate},
    Scenario,
    load::Load,
};

/// What a load cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Of the API, of PostgreSQL and of Redis: the share of a core that each used.
    pub(super) cores: [f64; 3],
    /// The memory of the API behind it, in MiB.
    pub(super) pss: f64,
}

/// One scenario over so many connections.
#[derive(Default)]
struct Figures {
    limit: Samples,
    per_second: Samples,
    p50: Samples,
    p99: Samples,
    cores: [Samples; 3],
    pss: Samples,
}

/// What was measured, one sample a round.
#[derive(Default)]
pub(super) struct Measured {
    pinned: bool,
    tasks: u32,
    pub(super) peak_rss: f64,
    pub(super) build: Option<Duration>,
    /// The p99 of the limits of the mixed load over as many connections, in ms.
    pub(super) mixed_p99: Samples,
    /// The mixed load over most connections, with nothing pinned: how many a second, their p99 and that of the limits, in ms.
    unpinned: [Samples; 3],
    figures: BTreeMap<(Scenario, u32), Figures>,
    start: Samples,
    idle: Samples,
    /// Of this round: ours and the limit, the better of those with many connections.
    now: BTreeMap<Scenario, (f64, f64)>,
    ratios: BTreeMap<Scenario, Samples>,
}

/// Percents of the mixed load.
pub(super) const MIXED: [(Scenario, u32); 4] =
    [(Scenario::Get, 50), (Scenario::List, 20), (Scenario::Patch, 20), (Scenario::Create, 10)];

/// What the limits of its parts allow for the mixed load: each request takes its time, one after the other.
pub(super) fn mixed(limits: &BTreeMap<Scenario, f64>) -> f64 {
    let seconds = |(part, percent): &(Scenario, u32)| {
        f64::from(*percent) / limits.get(part).copied().unwrap_or(f64::NAN)
    };
    100.0 / MIXED.iter().map(seconds).sum::<f64>()
}

impl Measured {
    pub(super) fn new(pinned: bool, tasks: u32) -> Self {
        Self { pinned, tasks, ..Self::default() }
    }

    /// What a new process took to answer (ms), and its memory (MiB).
    pub(super) fn begin(&mut self, (start, idle): &(f64, f64)) {
        self.start.push(*start);
        self.idle.push(*idle);
    }

    pub(super) fn push(&mut self, scenario: Scenario, connections: u32, limit: f64, came: Load, cost: Cost) {
        let figures = self.figures.entry((scenario, connections)).or_default();
        figures.limit.push(limit);
        figures.per_second.push(came.per_second);
        figures.p50.push(came.p50_ms);
        figures.p99.push(came.p99_ms);
        figures.pss.push(cost.pss);
        for (samples, share) in figures.cores.iter_mut().zip(cost.cores) {
            samples.push(share);
        }
        // The goal of the mixed load is for 64 connections.
        if connections > 1 && (scenario != Scenario::Mixed || connections == 64) {
            let (ours, best) = self.now.entry(scenario).or_default();
            (*ours, *best) = (ours.max(came.per_second), best.max(limit));
        }
    }

    /// The mixed load with nothing pinned, and the p99 of its limits (ms).
    pub(super) fn push_unpinned(&mut self, came: Load, limit_p99: f64) {
        for (samples, value) in self.unpinned.iter_mut().zip([came.per_second, came.p99_ms, limit_p99]) {
            samples.push(value);
        }
    }

    /// A round ends.
    pub(super) fn end(&mut self) {
        for (scenario, (ours, limit)) in std::mem::take(&mut self.now) {
            self.ratios.entry(scenario).or_default().push(ours / limit);
        }
    }

    pub(super) fn report(&self) -> String {
        let mut text = format!(
            "{} tasks of 1,000 people; {}.\n\n",
            self.tasks,
            if self.pinned {
                "the server on core 0, PostgreSQL, Redis and the load on core 1"
            } else {
                "nothing pinned to a core"
            }
        );
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}", self.goals());
        let _ = writeln!(text, "{}", self.details());
        text
    }

    fn goals(&self) -> Table<5> {
        let head = ["", "measured", "share of the limit", "must", "aim"].map(str::to_owned);
        let rows = [
            (Scenario::Cached, "P1 GET one task, cached, beside a bare axum endpoint", "25 %", "37 %"),
            (Scenario::Get, "P2 GET one task, beside pgbench with the same SQL", "60 %", "80 %"),
            (Scenario::ListBusy, "P3 list 20 of 100,000", "45 %", "60 %"),
            (Scenario::List, "   list 20 of 100", "", ""),
            (Scenario::Patch, "P4 PATCH with audit", "65 %", "85 %"),
            (Scenario::Create, "P5 POST with audit and reminder", "80 %", "105 %"),
            (Scenario::Mixed, "P6 mixed, 64 connections", "55 %", "74 %"),
        ];
        let mut table = vec![head];
        for (scenario, what, must, aim) in rows {
            let Some(ratio) = self.ratios.get(&scenario) else { continue };
            let best = match scenario {
                Scenario::Mixed => self.per_second(scenario, 64),
                _ => self.per_second(scenario, 16).max(self.per_second(scenario, 64)),
            };
            let share = format!("{:.0} %", ratio.median() * 100.0);
            table.push([what.into(), rate(best), share, must.into(), aim.into()]);
        }
        if let Some(mixed) = self.figures.get(&(Scenario::Mixed, 64)) {
            let p99 = format!("p99 {:.1} ms", mixed.p99.median());
            let limit = format!("the limit's: {:.1} ms", self.mixed_p99.median());
            table.push(["".into(), p99, limit, "40 ms".into(), "20 ms".into()]);
            let [per_second, p99, limit] = self.unpinned.each_ref().map(Samples::median);
            let what = format!("   nothing pinned: {}", rate(per_second));
            let limit = format!("the limit's: {limit:.1} ms");
            table.push([what, format!("p99 {p99:.1} ms"), limit, "40 ms".into(), "20 ms".into()]);
        }
        let plain = |what: &str, measured: String, must: &str, aim: &str| {
            [what.into(), measured, String::new(), must.into(), aim.into()]
        };
        let start = format!("{:.0} ms", self.start.median());
        table.push(plain("P11 start to the first 200", start, "100 ms", "30 ms"));
        table.push(plain("    idle (PSS)", format!("{:.1} MiB", self.idle.median()), "15 MB", "12 MB"));
        table.push(plain("    most under load (RSS)", format!("{:.1} MiB", self.peak_rss), "40 MB", "20 MB"));
        if let Some(took) = self.build {
            let took = format!("{:.1} s", took.as_secs_f64());
            table.push(plain("P13 build after a changed line", took, "15 s", "5 s"));
        }
        Table(table)
    }

    fn per_second(&self, scenario: Scenario, connections: u32) -> f64 {
        self.figures.get(&(scenario, connections)).map_or(f64::NAN, |figures| figures.per_second.median())
    }

    fn details(&self) -> Table<9> {
        let head = ["", "conn.", "limit", "API", "p50 / p99 ms", "cores: API", "PostgreSQL", "Redis", "PSS"];
        let mut table = vec![head.map(str::to_owned)];
        for ((scenario, connections), figures) in &self.figures {
            let [api, postgres, redis] = &figures.cores;
            table.push([
                scenario.name(),
                connections.to_string(),
                rate(figures.limit.median()),
                rate(figures.per_second.median()),
                format!("{:.2} / {:.2}", figures.p50.median(), figures.p99.median()),
                format!("{:.2}", api.median()),
                format!("{:.2}", postgres.median()),
                format!("{:.2}", redis.median()),
                format!("{:.1} MiB", figures.pss.median()),
            ]);
        }
        Table(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_limit_is_between_those_of_its_parts() {
        let even = MIXED.iter().map(|(part, _)| (*part, 1_000.0)).collect();
        assert!((mixed(&even) - 1_000.0).abs() < 1e-6);
        let slow =
            MIXED.iter().map(|(part, _)| (*part, if *part == Scenario::Create { 100.0 } else { 1_000.0 }));
        // 0.9 ms of the others and 1 ms of it.
        assert!((mixed(&slow.collect()) - 1_000.0 / 1.9).abs() < 1e-6);
        assert!(mixed(&BTreeMap::new()).is_nan());
    }

    #[test]
    fn the_ratio_is_that_of_the_best_with_many_connections() {
        let mut measured = Measured::default();
        let cost = Cost { cores: [0.0; 3], pss: 1.0 };
        for (connections, limit, ours) in [(1, 10.0, 10.0), (16, 100.0, 40.0), (64, 80.0, 60.0)] {
            let came = Load { per_second: ours, p50_ms: 1.0, p99_ms: 2.0 };
            measured.push(Scenario::Patch, connections, limit, came, cost);
        }
        measured.end();
        assert!((measured.ratios[&Scenario::Patch].median() - 0.6).abs() < 1e-9);
        assert!(measured.report().contains("P4"));
    }
}
