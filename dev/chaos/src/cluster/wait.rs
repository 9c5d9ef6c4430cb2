use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` until it says yes, and answers what that brought. A no says what was seen instead.
///
/// # Panics
/// After `within`, with `what` was awaited and what was seen last.
pub async fn until<T>(
    what: impl Display,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => {
                panic!("not within {within:?}: {what}; seen last: {seen}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
