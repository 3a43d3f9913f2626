//! What a consumer hands out, checked. An explicit-ack consumer may leave out, repeat or share messages, and each of
//! these shows in its own sequence. Pure: the same check on a real broker and on a simulated one.
//!
//! A repetition is a gap too, although nothing is missing yet. A process that was overtaken and does not know it may reset
//! the consumer under its successor, at a position that is not ahead. Then the numbers begin anew, and as long as number n
//! was the n-th message for the successor, the broker's next number can't be a message further on. A repetition that was
//! counted and ignored would let it be, and an event would be left out.

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

    /// Takes the next message; an error when this is another one.
    pub fn take(&mut self, delivery: Delivery) -> Result<()> {
        if delivery.consumer != self.consumer + 1 && !planted::is(Fault::GapAccepted) {
            return Err(BusError::Gap(format!("consumer sequence {} after {}", delivery.consumer, self.consumer)));
        }
        if delivery.delivered != 1 || delivery.stream <= self.stream {
            return Err(BusError::Gap(format!("message {} is delivered again", delivery.stream)));
        }
        self.consumer = delivery.consumer;
        self.stream = delivery.stream;
        Ok(())
    }

    /// The broker has nothing more to hand out, and says which number was the last: an error when somebody else has got it.
    /// Without this the last messages of a stream would be missed until the broker hands them out again.
    pub fn ends_with(&self, consumer: u64) -> Result<()> {
        if consumer == self.consumer {
            return Ok(());
        }
        Err(BusError::Gap(format!("the consumer has handed out {consumer}, and {} have come", self.consumer)))
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
        let is_gap = |mut sequence: Sequence, delivery| matches!(sequence.take(delivery), Err(BusError::Gap(_)));
        sequence.take(delivery(1, 11, 1)).unwrap();
        sequence.take(delivery(2, 14, 1)).unwrap(); // Filters leave gaps in the stream.
        assert!(is_gap(sequence, delivery(3, 11, 2)), "handed out again");
        assert!(is_gap(sequence, delivery(3, 15, 2)), "lost, and handed out again");
        assert!(is_gap(sequence, delivery(3, 14, 1)), "somebody else has reset the consumer");
        assert!(is_gap(sequence, delivery(4, 16, 1)), "lost, or another reader's");
        sequence.take(delivery(3, 15, 1)).unwrap();
        sequence.ends_with(3).unwrap();
        assert!(sequence.ends_with(4).is_err(), "another reader's");
        assert!(sequence.ends_with(0).is_err(), "somebody else has reset the consumer");
    }
}
