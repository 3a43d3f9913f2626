//! Waiting for what must come, on slow machines too.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_mins(2);

/// Looks again and again until there is something; `why` is said when it does not come.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>, why: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not come: {}", why());
        sleep(Duration::from_millis(20)).await;
    }
}
