//! Hashes, the two chains built of them, and the Merkle root over an agent's entities.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 value; all zero before the first link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

impl Hash {
    pub const ZERO: Hash = Hash([0; 32]);

    pub fn of(parts: &[&[u8]]) -> Hash {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Hash(hasher.finalize().into())
    }

    /// The next hash of an entity's chain: SHA-256(this ‖ SHA-256 of what was decided).
    #[must_use]
    pub fn then(&self, decided: &Hash) -> Hash {
        Hash::of(&[&self.0, &decided.0])
    }

    pub fn from_slice(bytes: &[u8]) -> Option<Hash> {
        bytes.try_into().ok().map(Hash)
    }

    pub fn from_hex(hex: &[u8]) -> Option<Hash> {
        if hex.len() != 64 {
            return None;
        }
        let (mut bytes, mut all) = ([0; 32], 0);
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
            all |= high | low;
            *byte = high << 4 | low;
        }
        (all < 16).then_some(Hash(bytes))
    }

    pub fn to_hex(&self) -> [u8; 64] {
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Of each byte its value as a digit, or more than a digit has. Lower-case digits only: one hash has one spelling.
/// A table, since no branch can foresee the digits of a hash.
const NIBBLES: [u8; 256] = {
    let (mut nibbles, mut value) = ([u8::MAX; 256], 0_u8);
    while value < 16 {
        nibbles[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        Hash::from_hex(hex.as_bytes()).ok_or("a hash is 64 lower-case hexadecimal digits")
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

/// SHA-256 over length-prefixed parts, so that no two lists of parts give the same bytes.
pub fn prefixed(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}

/// What an entity adds to its agent's root.
pub fn leaf(entity: &str, version: u64, head: &Hash) -> Hash {
    Hash::of(&[&[0], &(entity.len() as u64).to_be_bytes(), entity.as_bytes(), &version.to_be_bytes(), &head.0])
}

/// The Merkle tree hash of RFC 6962 (section 2.1) over leaves sorted by entity key: an agent's root.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(&[]),
        [only] => *only,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            Hash::of(&[&[1], &root(left).0, &root(right).0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways_and_has_one_spelling() {
        let hash = Hash::of(&[b"abc"]);
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_hex().as_slice(), hash.to_string().as_bytes());
        assert_eq!(Hash::from_hex(hash.to_string().as_bytes()), Some(hash));
        assert_eq!(Hash::from_hex(hash.to_string().to_uppercase().as_bytes()), None);
    }

    #[test]
    fn the_prefix_keeps_parts_apart() {
        assert_ne!(prefixed(&[b"ab", b"c"]), prefixed(&[b"a", b"bc"]));
    }

    #[test]
    fn the_root_sees_order_and_number() {
        let [a, b, c] = [leaf("a", 1, &Hash::ZERO), leaf("b", 1, &Hash::ZERO), leaf("c", 1, &Hash::ZERO)];
        assert_eq!(root(&[a, b, c]), Hash::of(&[&[1], &Hash::of(&[&[1], &a.0, &b.0]).0, &c.0]));
        assert_ne!(root(&[a, b, c]), root(&[a, c, b]));
        assert_ne!(root(&[a, b]), root(&[a, b, c]));
    }
}
