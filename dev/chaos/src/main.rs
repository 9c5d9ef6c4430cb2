//! `tasktracker-chaos`: the command line of [`mod@chaos`]. `cargo dev chaos` builds it and gives it servers to start.

use std::{io::Write as _, process::ExitCode, time::Duration};

use chaos::{
    faults::{self, Fault},
    load::Probes,
    run::{self, Plan},
};
use clap::Parser;
use common::sabotage::Sabotage;

/// A run with planted defects needs no longer.
const SABOTAGED_MINUTES: f64 = 0.75;
/// How long a run is, unless said.
const MINUTES: f64 = 3.0;
/// Processes of the cluster.
const PROCESSES: usize = 7;

/// Run the real binaries under load and faults, and balance the books afterwards
///
/// Exits with 0 if the books balance, with 1 if they do not, and with another code if there was no run.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo dev chaos", version)]
struct Args {
    /// Where chance comes from; one is drawn and printed, unless said
    #[arg(long)]
    seed: Option<u64>,
    /// How long there are load and faults; then there is peace until all is done [default: 3, or 0.75 with a planted defect]
    #[arg(long, value_parser = minutes)]
    minutes: Option<f64>,
    /// What may go wrong, separated by commas; everything, unless said
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    faults: Option<Vec<Fault>>,
    /// Plant this defect in the binaries, under the load and the faults that show it; the books must not balance
    #[arg(long, value_name = "DEFECT")]
    sabotage: Option<Sabotage>,
    /// Use the load and the faults of this defect, without planting it; the books must balance
    #[arg(long, value_name = "DEFECT", conflicts_with = "sabotage")]
    mix: Option<Sabotage>,
    /// Print the faults and their times, and do nothing
    #[arg(long)]
    dry_run: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=1440.0).contains(&minutes) => Ok(minutes),
        _ => Err("write a number from 0.1 to 1440".to_owned()),
    }
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        let mix = self.sabotage.or(self.mix);
        let every = Duration::from_millis;
        // What shows a defect: jobs that are under way when their worker dies, that wait in Redis when it forgets, that
        // last longer than it takes to take them twice, or until a stopped worker comes back to them.
        let (faults, tasks, probes) = match mix {
            None => (Fault::ALL.to_vec(), 3.0, Probes { batch: 5, every: every(500), takes: 0..1_500 }),
            Some(Sabotage::AckBeforeFinish) => {
                (vec![Fault::Kill], 0.0, Probes { batch: 10, every: every(500), takes: 1_000..3_000 })
            }
            Some(Sabotage::NoReconcile) => {
                (vec![Fault::RedisFlush], 0.0, Probes { batch: 300, every: every(5_000), takes: 500..1_500 })
            }
            Some(Sabotage::DoubleClaim) => {
                (Vec::new(), 0.0, Probes { batch: 5, every: every(500), takes: 2_000..4_000 })
            }
            Some(Sabotage::SkipFence) => {
                (vec![Fault::Freeze], 0.0, Probes { batch: 3, every: every(500), takes: 6_000..9_000 })
            }
        };
        let usual = if mix.is_some() { SABOTAGED_MINUTES } else { MINUTES };
        Plan {
            seed,
            length: Duration::from_secs_f64(60.0 * self.minutes.unwrap_or(usual)),
            faults: self.faults.clone().unwrap_or(faults),
            tasks,
            probes,
            drain: Duration::from_secs(if self.sabotage == Some(Sabotage::NoReconcile) { 45 } else { 150 }),
            sabotage: self.sabotage,
        }
    }

    /// The command that does the same again.
    fn again(&self, plan: &Plan) -> String {
        let mut words =
            format!("cargo dev chaos --seed {} --minutes {}", plan.seed, plan.length.as_secs_f64() / 60.0);
        if let Some(faults) = &self.faults {
            let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
            words += &format!(" --faults {}", names.join(","));
        }
        for (option, defect) in [("--sabotage", self.sabotage), ("--mix", self.mix)] {
            if let Some(defect) = defect {
                words += &format!(" {option} {defect}");
            }
        }
        words
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let plan = args.plan(args.seed.unwrap_or_else(|| u64::from(rand::random::<u16>())));
    match chaos(&args, &plan).await {
        Ok(balanced) if balanced => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Answers whether the books balance.
async fn chaos(args: &Args, plan: &Plan) -> anyhow::Result<bool> {
    let mut out = std::io::stdout();
    let names: Vec<&str> = plan.faults.iter().map(|fault| fault.name()).collect();
    let minutes = plan.length.as_secs_f64() / 60.0;
    writeln!(out, "seed {}, {minutes} minutes, faults: {}", plan.seed, names.join(", "))?;
    if let Some(sabotage) = plan.sabotage {
        writeln!(out, "planted in the binaries: {sabotage}")?;
    }
    if args.dry_run {
        for planned in faults::schedule(plan.seed, plan.length, &plan.faults, PROCESSES) {
            let target =
                if planned.fault.is_of_process() { planned.target.to_string() } else { String::new() };
            let (at, lasts) = (planned.at.as_secs_f64(), planned.lasts.as_secs_f64());
            writeln!(out, "{at:>7.1} s  {:<16} for {lasts:>4.1} s  {target}", planned.fault.name())?;
        }
        return Ok(true);
    }
    let outcome = run::run(plan).await?;
    writeln!(out, "\n{}", outcome.balance)?;
    let balanced = outcome.balance.differences.is_empty();
    if !balanced {
        writeln!(out, "journal and logs: {}", outcome.folder.display())?;
    }
    writeln!(out, "the same faults again: {}", args.again(plan))?;
    Ok(balanced)
}
