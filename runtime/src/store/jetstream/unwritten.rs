//! Appends that are durable in the journal and not in the cache yet.
//!
//! What a write to the cache costs are the pages that it changes, and many appends change the same ones: it takes them
//! together, behind the answers. Who looks for an entity or an event looks here first, and then into the cache.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;

use super::super::{Batch, Decision, Known, Loaded};

/// The cache takes them when there are so many records or bytes; there are at most twice as many.
const RECORDS: usize = 1_400;
const BYTES: usize = 3 << 19;

/// An append without anything that waits, and the stream sequence of its message.
pub(super) struct Append {
    pub(super) batch: Arc<Batch>,
    pub(super) stream: u64,
}

#[derive(Default)]
pub(super) struct Unwritten(Mutex<Held>);

#[derive(Default)]
struct Held {
    appends: VecDeque<Arc<Append>>,
    records: usize,
    bytes: usize,
    /// Of each entity the last decision: its append, and its place there.
    heads: HashMap<String, (Arc<Append>, usize)>,
    /// Content of the decided events, and the append that decided.
    known: HashMap<Hash, (Hash, u64)>,
}

/// How urgent it is to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Low,
    Enough,
    Full,
}

impl Unwritten {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, batch: &Arc<Batch>, stream: u64) {
        self.held().push(Arc::new(Append { batch: Arc::clone(batch), stream }));
    }

    pub(super) fn fill(&self) -> Fill {
        let held = self.held();
        match (held.records / RECORDS).max(held.bytes / BYTES) {
            0 => Fill::Low,
            1 => Fill::Enough,
            _ => Fill::Full,
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Append>> {
        self.held().appends.iter().cloned().collect()
    }

    /// What is in the cache now is not held any more.
    pub(super) fn written(&self, appends: &[Arc<Append>]) {
        let mut held = self.held();
        let Some(last) = appends.last().map(|append| append.stream) else { return };
        held.appends.drain(..appends.len());
        held.records -= appends.iter().map(|append| append.batch.entries.len()).sum::<usize>();
        held.bytes -= appends.iter().map(|append| bytes(&append.batch)).sum::<usize>();
        held.heads.retain(|_, (append, _)| append.stream > last);
        held.known.retain(|_, (_, stream)| *stream > last);
    }

    /// What is held of entities and events. To be asked before the cache: what is written meanwhile is found there.
    pub(super) fn find(&self, entities: &[String], keys: &[Hash]) -> Found {
        let held = self.held();
        Found {
            heads: entities.iter().map(|entity| held.head(entity)).collect(),
            known: keys.iter().map(|key| held.known.get(key).map(|(digest, _)| *digest)).collect(),
        }
    }
}

impl Held {
    fn push(&mut self, append: Arc<Append>) {
        let Batch { entries, .. } = &*append.batch;
        for (place, entry) in entries.iter().enumerate() {
            let Some(Decision { entity, identity, .. }) = &entry.decision else { continue };
            if let Some(last) = self.heads.get_mut(entity) {
                *last = (Arc::clone(&append), place);
            } else {
                self.heads.insert(entity.clone(), (Arc::clone(&append), place));
            }
            if let Some((key, digest)) = identity {
                self.known.insert(*key, (*digest, append.stream));
            }
        }
        self.records += entries.len();
        self.bytes += bytes(&append.batch);
        self.appends.push_back(append);
    }

    fn head(&self, entity: &str) -> Option<Head> {
        let (append, place) = self.heads.get(entity)?;
        append.batch.entries[*place].decision.as_ref().map(|decision| decision.head.clone())
    }
}

fn bytes(batch: &Batch) -> usize {
    batch.entries.iter().map(|entry| entry.line.len()).sum()
}

/// In the order in which it was asked for.
pub(super) struct Found {
    heads: Vec<Option<Head>>,
    known: Vec<Option<Hash>>,
}

impl Found {
    /// It is newer than what the cache knows.
    pub(super) fn over(self, mut loaded: Loaded) -> Loaded {
        for (head, newer) in loaded.heads.iter_mut().zip(self.heads).filter(|(_, newer)| newer.is_some()) {
            *head = newer;
        }
        for (known, newer) in loaded.known.iter_mut().zip(self.known) {
            *known = newer.map(Known::Settled).or(*known);
        }
        loaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    fn batch(after: u64, entity: &str, versions: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
        let entry = |version: u64| {
            let head = Head { version, ..Head::default() };
            let identity = Some((Hash([u8::try_from(version).unwrap(); 32]), Hash([9; 32])));
            let decision = Decision { entity: entity.to_owned(), identity, head, emits: false, dead: false };
            Entry { sequence: after + version, line: "line".into(), decision: Some(decision) }
        };
        Arc::new(Batch { after, entries: versions.map(entry).collect(), ..Batch::default() })
    }

    fn versions(unwritten: &Unwritten) -> Vec<Option<u64>> {
        let found = unwritten.find(&["a".into(), "b".into()], &[]);
        found.heads.iter().map(|head| head.as_ref().map(|head| head.version)).collect()
    }

    #[test]
    fn what_is_held_is_found_and_what_was_written_is_not() {
        let unwritten = Unwritten::default();
        unwritten.push(&batch(0, "a", 1..=2), 10);
        unwritten.push(&batch(2, "b", 3..=3), 11);
        let first = unwritten.all();
        unwritten.push(&batch(3, "b", 4..=4), 12);
        assert_eq!(versions(&unwritten), [Some(2), Some(4)]);
        unwritten.written(&first);
        assert_eq!(versions(&unwritten), [None, Some(4)], "a decision of a later append is still held");
        let found = unwritten.find(&[], &[Hash([3; 32]), Hash([4; 32])]);
        assert_eq!(found.known, [None, Some(Hash([9; 32]))]);
        let held = unwritten.held();
        assert_eq!((held.appends.len(), held.records, held.bytes), (1, 1, 4));
    }

    #[test]
    fn what_is_held_is_newer_than_what_the_cache_says() {
        let unwritten = Unwritten::default();
        unwritten.push(&batch(0, "a", 1..=1), 10);
        let old = Loaded {
            heads: vec![None, Some(Head { version: 7, ..Head::default() })],
            held: vec![1, 0],
            known: vec![Some(Known::Tried(2)), Some(Known::Tried(1))],
        };
        let found = unwritten.find(&["a".into(), "b".into()], &[Hash([1; 32]), Hash([2; 32])]).over(old);
        let versions: Vec<_> = found.heads.iter().flatten().map(|head| head.version).collect();
        assert_eq!((versions, found.held), (vec![1, 7], vec![1, 0]));
        assert_eq!(found.known, [Some(Known::Settled(Hash([9; 32]))), Some(Known::Tried(1))]);
    }

    #[test]
    fn it_says_when_to_write_and_when_to_wait() {
        let unwritten = Unwritten::default();
        let push = |count: usize| {
            let batch = Batch { entries: vec![batch(0, "a", 1..=1).entries[0].clone(); count], ..Batch::default() };
            unwritten.push(&Arc::new(batch), 1);
            unwritten.fill()
        };
        assert_eq!([push(RECORDS - 1), push(1), push(RECORDS)], [Fill::Low, Fill::Enough, Fill::Full]);
    }
}
