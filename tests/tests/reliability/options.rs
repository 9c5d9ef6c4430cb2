use std::{env, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};

use crate::figures::say;

/// How long a scenario keeps its load up: `usual`, or as many minutes as `SCENARIO_MINUTES` says.
pub(crate) fn length(usual: Duration) -> Duration {
    number("SCENARIO_MINUTES").map_or(usual, |minutes| Duration::from_secs(60 * minutes))
}

/// Chance, from a seed that is printed; `SEED` brings the same again.
pub(crate) fn chance(scenario: &str) -> StdRng {
    let seed = number("SEED").unwrap_or_else(rand::random);
    say!("{scenario}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
