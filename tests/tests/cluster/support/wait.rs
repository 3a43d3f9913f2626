//! Waiting on conditions, with what stood in the way when the time is over.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(200);

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let why = match ask().await {
            Ok(answer) => return answer,
            Err(why) => why,
        };
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {why}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// For conditions that need no more than yes or no.
pub(crate) fn holds(condition: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}
