//! How every loop of this process turns: one small [`Round`] after another, each with a time limit. What a round does
//! is in the file of its name; that it is repeated, watched, paused and stopped is here, once. A round that fails is
//! logged and tried again: no error ends a loop (design §4.9).

use std::{pin::pin, time::Duration};

use anyhow::anyhow;
use common::{clock::Clock, health::Health, metrics};
use tokio_util::sync::CancellationToken;

/// After so long a round is given up and counts as failed. Shorter than
/// [`NOT_READY_AFTER`](common::health::NOT_READY_AFTER): a server that does not answer is an error, not a stuck loop.
const LIMIT: Duration = Duration::from_secs(10);
/// No pause is longer, whatever a round answers: a loop that is silent for
/// [`NOT_READY_AFTER`](common::health::NOT_READY_AFTER) counts as stuck.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const _: () = assert!(LONGEST_PAUSE.as_secs() < common::health::NOT_READY_AFTER.as_secs());
/// The pause after the first failure; it doubles with each further one, up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// What is away is back for us within so long.
const LONGEST_BACKOFF: Duration = Duration::from_secs(4);

/// A loop of this process.
pub trait Round: Send {
    /// Its name in logs, and as a pulse on the readiness page.
    const NAME: &'static str;

    /// Does what is to be done now, at most one batch of it, and answers after which pause there may be more: none if
    /// the batch was full.
    ///
    /// Its future may be dropped at any `await` (the time limit), and it is called again after an error.
    fn round(&mut self) -> impl Future<Output = anyhow::Result<Duration>> + Send;
}

/// Repeats `work` until `stop`. A round that is under way is finished; a pause is not.
pub async fn repeat<R: Round>(mut work: R, health: Health, stop: CancellationToken) {
    let pulse = health.pulse(R::NAME);
    let mut failures = 0;
    while !stop.is_cancelled() {
        let outcome = tokio::time::timeout(LIMIT, work.round())
            .await
            .unwrap_or_else(|_| Err(anyhow!("no result within {} s", LIMIT.as_secs())));
        pulse.beat();
        let pause = match outcome {
            Ok(pause) => {
                let now = Clock::default().instant().timestamp_millis();
                metrics::round_completed(R::NAME, now as f64 / 1000.0);
                if failures > 0 {
                    tracing::info!(r#loop = R::NAME, failures, "works again");
                }
                failures = 0;
                pause.min(LONGEST_PAUSE)
            }
            Err(error) => {
                let pause = backoff(failures);
                failures += 1;
                let retry_in_ms = pause.as_millis();
                tracing::warn!(
                    r#loop = R::NAME,
                    failures,
                    retry_in_ms,
                    error = format!("{error:#}"),
                    "round failed"
                );
                pause
            }
        };
        rest(pause, &stop).await;
    }
    health.forget(R::NAME);
}

/// Sleeps, but not longer than the process lives. No pause still lets others run.
async fn rest(pause: Duration, stop: &CancellationToken) {
    if pause.is_zero() {
        tokio::task::yield_now().await;
    } else {
        let mut sleep = pin!(tokio::time::sleep(pause));
        tokio::select! {
            () = &mut sleep => {}
            () = stop.cancelled() => {}
        }
    }
}

/// The pause after the failure that follows `failures` others: 0.25, 0.5, 1, 2, 4, 4 … seconds.
fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// Fails, hangs, then has two full rounds, then has nothing to do.
    struct Troubled(Arc<AtomicU32>);

    impl Round for Troubled {
        const NAME: &'static str = "troubled";

        async fn round(&mut self) -> anyhow::Result<Duration> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Err(anyhow!("connection refused")),
                1 => std::future::pending().await,
                2 | 3 => Ok(Duration::ZERO),
                _ => Ok(Duration::from_secs(3600)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_an_error_nor_a_round_that_hangs_ends_a_loop() {
        let (health, stop, rounds) =
            (Health::default(), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let start = tokio::time::Instant::now();
        let work = tokio::spawn(repeat(Troubled(rounds.clone()), health.clone(), stop.clone()));
        tokio::time::sleep(LIMIT + Duration::from_secs(2)).await;
        assert_eq!(rounds.load(Ordering::SeqCst), 5);
        tokio::time::sleep(LONGEST_PAUSE).await;
        assert_eq!(rounds.load(Ordering::SeqCst), 6, "an hour's pause is cut short");

        stop.cancel();
        work.await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "a pause does not outlive the process");
        assert_eq!(health.problems(), [""; 0]);
    }

    #[test]
    fn the_backoff_doubles_up_to_its_limit() {
        let seconds: Vec<f64> = (0..7).map(|failures| backoff(failures).as_secs_f64()).collect();
        assert_eq!(seconds, [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]);
        assert_eq!(backoff(u32::MAX), LONGEST_BACKOFF);
    }
}
