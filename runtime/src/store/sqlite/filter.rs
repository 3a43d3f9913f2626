//! Says of most events that no record has decided them, without a look at the index: a Bloom filter. Pure.

use rhizon_kernel::chain::Hash;

/// Bits per key: about one new event in a hundred is looked up for nothing.
const BITS_PER_KEY: u64 = 10;
/// With more keys than this has room for, more are looked up.
const MAX_BITS: u64 = 1 << 25;
const MIN_BITS: u64 = 1 << 18;

#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
    keys: u64,
}

impl Filter {
    /// With room for twice as many keys.
    pub(super) fn for_keys(keys: u64) -> Self {
        let bits = keys.saturating_mul(2 * BITS_PER_KEY).clamp(MIN_BITS, MAX_BITS).next_power_of_two();
        let words = usize::try_from(bits / 64).unwrap_or_default();
        Self { words: vec![0; words], keys: 0 }
    }

    pub(super) fn add(&mut self, key: &Hash) {
        for (word, bit) in places(self.words.len(), key) {
            self.words[word] |= bit;
        }
        self.keys += 1;
    }

    /// False when the key was never added.
    pub(super) fn may_have(&self, key: &Hash) -> bool {
        places(self.words.len(), key).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Whether a larger one would say more.
    pub(super) fn is_full(&self) -> bool {
        let bits = self.words.len() as u64 * 64;
        bits < MAX_BITS && self.keys * BITS_PER_KEY > bits
    }

    pub(super) fn keys(&self) -> u64 {
        self.keys
    }
}

/// A key is a hash: its four parts are as good as four hashes of it.
fn places(words: usize, key: &Hash) -> impl Iterator<Item = (usize, u64)> {
    key.0.chunks_exact(8).map(move |part| {
        let number = part.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        (number / 64 % words, 1 << (number % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> Hash {
        Hash::of(&[&n.to_be_bytes()])
    }

    #[test]
    fn what_was_added_is_there_and_little_else() {
        let keys = 200_000;
        let mut filter = Filter::for_keys(keys);
        (0..keys).for_each(|n| filter.add(&hash(n)));
        assert!((0..keys).all(|n| filter.may_have(&hash(n))));
        let wrong = (keys..2 * keys).filter(|n| filter.may_have(&hash(*n))).count() as u64;
        assert!(wrong < keys / 50, "{wrong} of {keys}");
        assert!(!filter.is_full());
    }

    #[test]
    fn it_says_when_a_larger_one_would_be_better() {
        let mut filter = Filter::for_keys(0);
        (0..=MIN_BITS / BITS_PER_KEY).for_each(|n| filter.add(&hash(n)));
        assert!(filter.is_full());
    }
}
