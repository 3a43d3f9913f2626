//! The events that clients have sent of late, by identity and content: the same id with other content is refused here,
//! where the client still listens. It forgets; agents remember, and refuse the rest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rhizon_kernel::chain::Hash;

/// Events of one generation; there are two, so between one and two of these are remembered.
const GENERATION: usize = 50_000;

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    seen: Arc<Mutex<Generations>>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Hash, Hash>,
    old: HashMap<Hash, Hash>,
}

/// Where an event stands that uses the id of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reused {
    pub index: usize,
}

impl Recent {
    /// Takes the identities for their contents, all of them or none; answers those that are new, to be let go if the events
    /// do not get on the stream.
    pub(super) fn claim(&self, events: &[(Hash, Hash)]) -> Result<Vec<Hash>, Reused> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for (index, (key, digest)) in events.iter().enumerate() {
            match seen.get(key) {
                Some(known) if known == *digest => {}
                Some(_) => {
                    seen.release(&new);
                    return Err(Reused { index });
                }
                None => {
                    seen.insert(*key, *digest);
                    new.push(*key);
                }
            }
        }
        Ok(new)
    }

    pub(super) fn release(&self, keys: &[Hash]) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).release(keys);
    }
}

impl Generations {
    fn get(&self, key: &Hash) -> Option<Hash> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    fn insert(&mut self, key: Hash, digest: Hash) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, digest);
    }

    fn release(&mut self, keys: &[Hash]) {
        for key in keys {
            self.young.remove(key);
            self.old.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: usize) -> Hash {
        Hash::of(&[&number.to_be_bytes()])
    }

    #[test]
    fn an_identity_keeps_its_content() {
        let recent = Recent::default();
        assert_eq!(recent.claim(&[(hash(1), hash(10)), (hash(2), hash(20))]), Ok(vec![hash(1), hash(2)]));
        assert_eq!(recent.claim(&[(hash(1), hash(10))]), Ok(vec![]));
        assert_eq!(recent.claim(&[(hash(3), hash(30)), (hash(2), hash(21))]), Err(Reused { index: 1 }));
        assert_eq!(recent.claim(&[(hash(3), hash(31))]), Ok(vec![hash(3)]), "a refused request claims nothing");
        assert_eq!(recent.claim(&[(hash(4), hash(40)), (hash(4), hash(41))]), Err(Reused { index: 1 }));
        recent.release(&[hash(1)]);
        assert_eq!(recent.claim(&[(hash(1), hash(11))]), Ok(vec![hash(1)]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Recent::default();
        let events: Vec<(Hash, Hash)> = (0..3 * GENERATION).map(|number| (hash(number), hash(0))).collect();
        recent.claim(&events).unwrap();
        let seen = recent.seen.lock().unwrap();
        assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION);
        assert!(seen.get(&hash(0)).is_none() && seen.get(&hash(3 * GENERATION - 1)).is_some());
    }
}
