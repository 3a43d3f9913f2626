//! Keeps room in the stream for agents: clients are turned away while it is nearly full, so that it can drain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::publish::{Publisher, Usage};
use crate::bus::Outgoing;

/// Above this share of the stream, in percent, only agents may publish.
const THRESHOLD_PERCENT: u64 = 80;

const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// When the stream did not answer, as before it is made.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What the broker stores with a message beside its subject and payload: frame, message id and the batch's headers.
const FRAME_BYTES: usize = 250;

/// How full the stream is: as it was when it was last looked at, and with what this gateway sent since. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity {
    seen: Arc<Mutex<Usage>>,
    sent: Arc<AtomicU64>,
}

impl Capacity {
    /// The fill in percent, when it is too high for clients.
    pub(super) fn over_threshold(&self) -> Option<u64> {
        let Usage { bytes, limit_bytes } = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = u128::from(bytes) + u128::from(self.sent.load(Ordering::Relaxed));
        let percent = u64::try_from(bytes * 100 / u128::from(limit_bytes.max(1))).unwrap_or(u64::MAX);
        (limit_bytes > 0 && percent >= THRESHOLD_PERCENT).then_some(percent)
    }

    /// These are about to be published.
    pub(super) fn send(&self, messages: &[Outgoing]) {
        let bytes: usize =
            messages.iter().map(|message| message.subject.len() + message.payload.len() + FRAME_BYTES).sum();
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Looks again and again. An answer that fails to come changes nothing: publishing will fail by itself.
    pub(super) async fn follow(self, publisher: Arc<dyn Publisher>) {
        loop {
            let sent = self.sent.load(Ordering::Relaxed);
            let usage = publisher.usage().await.inspect(|usage| self.take_in(*usage, sent));
            tokio::time::sleep(if usage.is_ok() { LOOK_AGAIN } else { ASK_AGAIN }).await;
        }
    }

    /// `sent` was known before the look: what was sent meanwhile may count twice until the next one.
    fn take_in(&self, usage: Usage, sent: u64) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = usage;
        self.sent.fetch_sub(sent, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rhizon_kernel::chain::Hash;

    use super::*;

    #[test]
    fn clients_are_turned_away_from_the_threshold_on() {
        let capacity = Capacity::default();
        let over = |bytes, limit_bytes| {
            capacity.take_in(Usage { bytes, limit_bytes }, 0);
            capacity.over_threshold()
        };
        assert_eq!(over(0, 0), None);
        assert_eq!(over(799, 1000), None);
        assert_eq!(over(800, 1000), Some(80));
        assert_eq!(over(u64::MAX, u64::MAX), Some(100));
        assert_eq!(over(10, 1000), None);
    }

    #[test]
    fn what_was_sent_since_the_last_look_counts() {
        let capacity = Capacity::default();
        capacity.take_in(Usage { bytes: 5_000, limit_bytes: 10_000 }, 0);
        let messages = [Outgoing { subject: "s".into(), key: Hash::ZERO, payload: vec![0; 2_800].into() }];
        capacity.send(&messages);
        assert_eq!(capacity.over_threshold(), Some(80));
        capacity.take_in(Usage { bytes: 7_800, limit_bytes: 10_000 }, capacity.sent.load(Ordering::Relaxed));
        assert_eq!(capacity.over_threshold(), None, "it is in what was seen");
    }
}
