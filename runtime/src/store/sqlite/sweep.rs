//! What records bring to the indexes of events and entities, on its way there. Pure.
//!
//! Keys come in no order: put into an index as they come, each changes a page of its own. So they are gathered, a full run
//! is sorted, and each append moves a stretch of it: neighbours, which share their pages.
//!
//! ```text
//! records  1 … swept │ swept+1 … sorted's end │ … the end
//!          indexed   │ sorted, on its way     │ gathered
//! ```
//!
//! Only memory: whoever opens the store reads the records behind `swept` again.

use std::collections::HashMap;

use rhizon_kernel::chain::Hash;

/// A run is sorted when it has so many records: as many as the hash table of a run has room for.
const RUN: usize = 28_000;
/// Less is not worth a look at the indexes.
const STRETCH: usize = 64;

/// Key and digest of an event.
pub(in super::super) type Identity = (Hash, Hash);
/// The same, and the record that decided it.
pub(in super::super) type KnownId = (Hash, Hash, u64);

#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// All records up to here are in the indexes.
    swept: u64,
    /// The last record that came.
    end: u64,
    gathered: Run,
    sorted: Option<Sorted>,
    /// Records that may be moved.
    owed: usize,
}

#[derive(Debug, Default)]
struct Run {
    records: usize,
    known: HashMap<Hash, (Hash, u64)>,
    entities: HashMap<String, Vec<u64>>,
}

#[derive(Debug)]
struct Sorted {
    end: u64,
    records: usize,
    known: Vec<KnownId>,
    entities: Vec<(String, Vec<u64>)>,
    /// How far it has been moved, in records.
    moved: usize,
}

/// What is to be written to the indexes next.
#[derive(Debug, Default)]
pub(in super::super) struct Stretch {
    pub(super) known: Vec<KnownId>,
    pub(super) entities: Vec<(String, Vec<u64>)>,
    /// Up to where all is in the indexes with this, where that is further than before.
    pub(super) swept: Option<u64>,
    moved: usize,
}

impl Stretch {
    pub(super) fn is_empty(&self) -> bool {
        self.moved == 0
    }
}

impl Sweep {
    pub(super) fn behind(swept: u64) -> Self {
        Self { swept, end: swept, ..Self::default() }
    }

    pub(super) fn swept(&self) -> u64 {
        self.swept
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The next record. Of one identity the first record counts.
    pub(super) fn push(&mut self, sequence: u64, entity: Option<&str>, identity: Option<Identity>) {
        self.end = sequence;
        self.gathered.records += 1;
        self.owed += 1;
        if let Some(entity) = entity {
            match self.gathered.entities.get_mut(entity) {
                Some(sequences) => sequences.push(sequence),
                None => {
                    self.gathered.entities.insert(entity.to_owned(), vec![sequence]);
                }
            }
        }
        if let Some((key, digest)) = identity {
            self.gathered.known.entry(key).or_insert((digest, sequence));
        }
    }

    /// Digest and record of an event that is here.
    pub(super) fn find(&self, key: &Hash) -> Option<(Hash, u64)> {
        let sorted = self.sorted.as_ref().and_then(|sorted| {
            let place = sorted.known.binary_search_by(|(known, ..)| known.cmp(key)).ok()?;
            let (_, digest, sequence) = sorted.known[place];
            Some((digest, sequence))
        });
        sorted.or_else(|| self.gathered.known.get(key).copied())
    }

    /// Of all events that are here.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Hash> {
        let sorted = self.sorted.iter().flat_map(|sorted| sorted.known.iter().map(|(key, ..)| key));
        sorted.chain(self.gathered.known.keys())
    }

    /// Tells what the records behind `after` up to `until` bring, an entity perhaps twice; answers whether all of them
    /// are here.
    pub(super) fn between(
        &self,
        (after, until): (u64, u64),
        known_id: impl FnMut(KnownId),
        entity: impl FnMut(&str),
    ) -> bool {
        let is_wanted = |sequence: &u64| (after + 1..=until).contains(sequence);
        if self.swept > after || self.end < until {
            return false;
        }
        let Run { known, entities, .. } = &self.gathered;
        let known = known.iter().map(|(key, (digest, sequence))| (*key, *digest, *sequence));
        let sorted = self.sorted.iter().flat_map(|sorted| sorted.known.iter().copied());
        sorted.chain(known).filter(|(.., sequence)| is_wanted(sequence)).for_each(known_id);
        let sorted =
            self.sorted.iter().flat_map(|sorted| sorted.entities.iter().map(|(name, sequences)| (name, sequences)));
        let entities = sorted.chain(entities).filter(|(_, sequences)| sequences.iter().any(is_wanted));
        entities.map(|(name, _)| name.as_str()).for_each(entity);
        true
    }

    /// The records of an entity that are here, in order.
    pub(super) fn of_entity(&self, entity: &str) -> impl Iterator<Item = u64> {
        let sorted = self.sorted.as_ref().and_then(|sorted| {
            let place = sorted.entities.binary_search_by(|(name, _)| name.as_str().cmp(entity)).ok()?;
            Some(&sorted.entities[place].1)
        });
        sorted.into_iter().chain(self.gathered.entities.get(entity)).flatten().copied()
    }

    /// What an append of so many records takes along: a little more than it brings, so that a run is moved before the next
    /// one is full.
    pub(super) fn next(&mut self, records: usize) -> Stretch {
        if self.sorted.is_none() && self.gathered.records >= RUN {
            self.owed = 0;
            self.sorted = Some(std::mem::take(&mut self.gathered).sort(self.end));
        }
        let Some(sorted) = &self.sorted else { return Stretch::default() };
        let owed = self.owed + records;
        if owed < STRETCH { Stretch::default() } else { sorted.stretch(owed + owed / 4) }
    }

    /// A stretch is in the indexes.
    pub(super) fn moved(&mut self, stretch: &Stretch) {
        if let Some(sorted) = self.sorted.as_mut().filter(|_| !stretch.is_empty()) {
            sorted.moved = stretch.moved;
            self.owed = 0;
        }
        if let Some(swept) = stretch.swept {
            self.swept = swept;
            self.sorted = None;
        }
    }
}

impl Run {
    fn sort(self, end: u64) -> Sorted {
        let mut known: Vec<KnownId> =
            self.known.into_iter().map(|(key, (digest, sequence))| (key, digest, sequence)).collect();
        let mut entities: Vec<_> = self.entities.into_iter().collect();
        known.sort_unstable();
        entities.sort_unstable();
        Sorted { end, records: self.records, known, entities, moved: 0 }
    }
}

impl Sorted {
    fn stretch(&self, records: usize) -> Stretch {
        let moved = (self.moved + records).min(self.records);
        let part = |len: usize| len * self.moved / self.records..len * moved / self.records;
        let entities = self.entities[part(self.entities.len())].to_vec();
        let swept = (moved == self.records).then_some(self.end);
        Stretch { known: self.known[part(self.known.len())].to_vec(), entities, swept, moved }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hash(n: u64) -> Hash {
        Hash::of(&[&n.to_be_bytes()])
    }

    fn push(sweep: &mut Sweep, sequences: std::ops::RangeInclusive<u64>) {
        for n in sequences {
            sweep.push(n, Some(&format!("e{}", n % 10)), Some((hash(n), hash(n + 1))));
        }
    }

    #[test]
    fn a_run_goes_to_the_indexes_in_order_and_once() {
        let full = RUN as u64;
        let (mut sweep, mut known, mut entities) = (Sweep::behind(0), Vec::new(), Vec::new());
        push(&mut sweep, 1..=full);
        let mut end = full;
        while sweep.swept() == 0 {
            let stretch = sweep.next(500);
            push(&mut sweep, end + 1..=end + 500);
            end += 500;
            known.extend_from_slice(&stretch.known);
            entities.extend(
                stretch.entities.iter().flat_map(|(name, sequences)| sequences.iter().map(move |n| (name.clone(), *n))),
            );
            sweep.moved(&stretch);
        }
        assert_eq!((sweep.swept(), sweep.end()), (full, end));
        assert!(end - full < full, "it is moved before the next one is full");
        assert!(known.is_sorted() && entities.is_sorted());
        let mut sequences: Vec<u64> = known.iter().map(|(.., sequence)| *sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=full).collect::<Vec<_>>());
        assert_eq!(entities.len(), RUN);
    }

    #[test]
    fn what_is_on_its_way_is_found() {
        let full = RUN as u64;
        let mut sweep = Sweep::behind(0);
        push(&mut sweep, 1..=full);
        let stretch = sweep.next(1_000);
        assert!(!stretch.is_empty());
        push(&mut sweep, full + 1..=full + 10);
        for n in [1, full, full + 10] {
            assert_eq!(sweep.find(&hash(n)), Some((hash(n + 1), n)));
        }
        assert_eq!(sweep.find(&hash(full + 11)), None);
        let of_one: Vec<u64> = sweep.of_entity("e3").collect();
        assert!(of_one.is_sorted() && of_one.len() == RUN / 10 + 1, "{} records", of_one.len());
        assert_eq!(sweep.of_entity("other").count(), 0);
    }

    #[test]
    fn what_came_behind_a_record_is_told_as_long_as_it_is_here() {
        let mut sweep = Sweep::behind(0);
        push(&mut sweep, 1..=RUN as u64);
        let stretch = sweep.next(1);
        push(&mut sweep, RUN as u64 + 1..=RUN as u64 + 5);
        sweep.moved(&stretch);
        let full = RUN as u64;
        let between = |after, until| {
            let (mut known, mut entities) = (BTreeSet::new(), BTreeSet::new());
            let are_here = sweep.between(
                (after, until),
                |(.., sequence)| assert!(known.insert(sequence)),
                |entity| _ = entities.insert(entity.to_owned()),
            );
            are_here.then_some((known, entities.len()))
        };
        assert_eq!(between(full - 2, full + 3), Some(((full - 1..=full + 3).collect(), 5)));
        assert_eq!(between(0, full + 6), None, "one is yet to come");
        assert!(!Sweep::behind(7).between((6, 7), |_| {}, |_| {}), "one is in the indexes alone");
    }

    #[test]
    fn the_first_record_of_an_identity_counts() {
        let mut sweep = Sweep::behind(6);
        sweep.push(7, Some("a"), Some((hash(1), hash(2))));
        sweep.push(8, Some("a"), Some((hash(1), hash(3))));
        assert_eq!(sweep.find(&hash(1)), Some((hash(2), 7)));
    }

    #[test]
    fn a_stretch_that_was_not_written_comes_again() {
        let mut sweep = Sweep::behind(0);
        push(&mut sweep, 1..=RUN as u64);
        let (first, again) = (sweep.next(100), sweep.next(100));
        assert!(!first.known.is_empty());
        assert_eq!(first.known, again.known);
    }

    #[test]
    fn a_few_records_move_nothing() {
        let mut sweep = Sweep::behind(0);
        push(&mut sweep, 1..=RUN as u64);
        assert!(sweep.next(1).is_empty());
        push(&mut sweep, RUN as u64 + 1..=RUN as u64 + STRETCH as u64);
        assert!(!sweep.next(1).is_empty());
    }
}
