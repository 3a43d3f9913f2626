//! When an event that failed is tried again.

use rhizon_kernel::chain::Hash;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    pub attempts: u32,
    pub initial_ms: u64,
    pub max_ms: u64,
}

impl Retry {
    /// Exponential, with a jitter that derives from the event.
    pub(super) fn delay_ms(self, attempt: u32, key: &Hash) -> u64 {
        let full = self.initial_ms.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.max_ms);
        let jitter = full / 4 * u64::from(key.0[31]) / 255;
        full - jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_limit_and_differ_by_event_alone() {
        let retry = Retry { attempts: 5, initial_ms: 100, max_ms: 1_000 };
        let delays = |last: u8| {
            let mut key = Hash::ZERO;
            key.0[31] = last;
            [1, 2, 3, 4, 5, 70].map(|attempt| retry.delay_ms(attempt, &key))
        };
        assert_eq!(delays(0), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(delays(255), [75, 150, 300, 600, 750, 750]);
        assert_eq!(delays(100), delays(100));
    }
}
