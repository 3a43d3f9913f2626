//! What a consumer hands out, checked. An explicit-ack consumer may leave out, repeat or share messages, and each of
//! these shows in its own sequence. Pure: the same check on a real broker and on a simulated one.

use super::{BusError, Result};
use crate::planted::{self, Fault};

/// What the broker tells of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// How often the message was handed out, with this time.
    pub delivered: u64,
    /// Its sequence in the stream, and the place of this delivery among all of the consumer's since its reset.
    pub stream: u64,
    pub consumer: u64,
}

/// Last consumer sequence and last stream sequence taken.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    consumer: u64,
    stream: u64,
}

impl Sequence {
    /// After a reset that begins behind a stream sequence.
    pub fn behind(position: u64) -> Self {
        Self { consumer: 0, stream: position }
    }

    /// Whether the message is the next one; `false` for one that was taken before, an error when something is missing.
    pub fn take(&mut self, delivery: Delivery) -> Result<bool> {
        if delivery.consumer != self.consumer + 1 && !planted::is(Fault::GapAccepted) {
            return Err(BusError::Gap(format!("consumer sequence {} after {}", delivery.consumer, self.consumer)));
        }
        self.consumer = delivery.consumer;
        if delivery.stream <= self.stream {
            return Ok(false); // Delivered again while in flight or settled.
        }
        if delivery.delivered != 1 {
            return Err(BusError::Gap(format!("message {} is delivered again, and was never seen", delivery.stream)));
        }
        self.stream = delivery.stream;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(consumer: u64, stream: u64, delivered: u64) -> Delivery {
        Delivery { delivered, stream, consumer }
    }

    #[test]
    fn only_what_follows_is_taken() {
        let mut sequence = Sequence::behind(10);
        assert!(sequence.take(delivery(1, 11, 1)).unwrap());
        assert!(sequence.take(delivery(2, 14, 1)).unwrap(), "filters leave gaps in the stream");
        assert!(!sequence.take(delivery(3, 11, 2)).unwrap(), "handed out again");
        assert!(matches!(sequence.take(delivery(4, 15, 2)), Err(BusError::Gap(_))), "lost, and handed out again");
        assert!(matches!(sequence.take(delivery(6, 16, 1)), Err(BusError::Gap(_))), "lost, or another reader's");
    }
}
