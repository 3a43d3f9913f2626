//! Keeps room in the stream for agents: clients are turned away while it is nearly full, so that it can drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::publish::{Publisher, Usage};

/// Above this share of the stream, in percent, only agents may publish.
const THRESHOLD_PERCENT: u64 = 80;

const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How full the stream was when it was last looked at. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity {
    percent: Arc<AtomicU64>,
}

impl Capacity {
    /// The fill in percent, when it is too high for clients.
    pub(super) fn over_threshold(&self) -> Option<u64> {
        Some(self.percent.load(Ordering::Relaxed)).filter(|percent| *percent >= THRESHOLD_PERCENT)
    }

    fn take_in(&self, usage: Usage) {
        let percent = match usage.limit_bytes {
            0 => 0,
            limit => u64::try_from(u128::from(usage.bytes) * 100 / u128::from(limit)).unwrap_or(u64::MAX),
        };
        self.percent.store(percent, Ordering::Relaxed);
    }

    /// Looks again and again. An answer that fails to come changes nothing: publishing will fail by itself.
    pub(super) async fn follow(self, publisher: Arc<dyn Publisher>) {
        loop {
            if let Ok(usage) = publisher.usage().await {
                self.take_in(usage);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_turned_away_from_the_threshold_on() {
        let capacity = Capacity::default();
        let over = |bytes, limit_bytes| {
            capacity.take_in(Usage { bytes, limit_bytes });
            capacity.over_threshold()
        };
        assert_eq!(over(0, 0), None);
        assert_eq!(over(799, 1000), None);
        assert_eq!(over(800, 1000), Some(80));
        assert_eq!(over(u64::MAX, u64::MAX), Some(100));
        assert_eq!(over(10, 1000), None);
    }
}
