//! Snapshots: what a new cache begins with, so that it need not read the whole journal first.
//!
//! ```text
//! index ─▶ known    key, digest and record of each decision: written once, named again by each later index
//!      ├─▶ heads    all entities, and behind them those that changed, snapshot by snapshot
//!      └─▶ waits    the mark, and everything that waits: whole each time
//! ```
//!
//! Chunks lie in slots, one message each. Those that the index names are not overwritten before another index is there, so
//! a snapshot is whole or, for who reads while it is replaced, seen to be another.

mod contents;
mod restore;
mod shelf;
mod slots;
mod take;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::super::Result;
use super::{JetStreamStore, cache};
use crate::bus::nats::Connection;
use shelf::Shelf;

pub(super) use restore::{Proof, Proven};

/// A snapshot is taken when there are so many records behind the last one.
const EVERY: u64 = 20_000;
/// A chunk is no larger, unless one entity's state is; a broker takes at least a megabyte.
const CHUNK: usize = 768 << 10;
/// The driver looks at so many of the last records when it begins.
const LINES: u64 = 100;

pub(super) struct Snapshots {
    shelf: Shelf,
    cache: PathBuf,
    /// Stream sequence of an index that this cache agrees with; 0 for none. Another's may name what is no longer there.
    trusted: AtomicU64,
    /// The record at which the next one is due.
    due: AtomicU64,
    /// Held by who takes one.
    taking: Mutex<()>,
}

impl Snapshots {
    pub(super) fn new(connection: Connection, stream: String, subject: String, cache: &Path) -> Self {
        let shelf = Shelf::new(connection, stream, subject);
        let (trusted, due) = (AtomicU64::new(0), AtomicU64::new(EVERY));
        Self { shelf, cache: cache.to_owned(), trusted, due, taking: Mutex::default() }
    }

    /// The snapshot at `stream` ends with a record.
    pub(super) fn trust(&self, stream: u64, sequence: u64) {
        self.trusted.store(stream, Ordering::Relaxed);
        self.next_after(sequence);
    }

    fn next_after(&self, sequence: u64) {
        self.due.store(sequence + EVERY, Ordering::Relaxed);
    }
}

impl JetStreamStore {
    async fn trust_index(&self, stream: u64, sequence: u64) -> Result<()> {
        self.0.snapshots.trust(stream, sequence);
        cache::set_snapshot(&self.0.cache, stream, sequence).await
    }

    /// Takes one in the background, one at a time.
    pub(super) fn snapshot_when_due(&self, sequence: u64) {
        let snapshots = &self.0.snapshots;
        if sequence < snapshots.due.load(Ordering::Relaxed) {
            return;
        }
        snapshots.next_after(sequence);
        let inner = std::sync::Arc::downgrade(&self.0);
        self.spawn(async move {
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = Self(inner).take_snapshot().await {
                tracing::warn!(%error, "no snapshot was taken; a new pod reads more of the journal");
            }
        });
    }
}

/// The message that names the chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Index {
    /// Stream sequence of the last message of the journal that is in it, and the chain's end there.
    stream: u64,
    sequence: u64,
    link: Hash,
    epoch: u64,
    /// Where the lines begin that are needed at once.
    lines: Place,
    known: Vec<Chunk>,
    heads: Vec<Chunk>,
    /// How many of `heads` are the whole that the others change.
    whole: usize,
    waits: Vec<Chunk>,
}

/// The message at `stream` has the record behind `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    after: u64,
    stream: u64,
}

impl Place {
    const BEGINNING: Self = Self { after: 0, stream: 1 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunk {
    slot: u32,
    bytes: usize,
    hash: Hash,
}

impl Index {
    fn tail(&self) -> Tail {
        Tail { sequence: self.sequence, link: self.link }
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        let Self { known, heads, waits, .. } = self;
        known.iter().chain(heads).chain(waits)
    }

    /// Whether the changes of heads are as large as the heads.
    fn heads_are_due(&self) -> bool {
        let bytes = |chunks: &[Chunk]| chunks.iter().map(|chunk| chunk.bytes).sum::<usize>();
        let (whole, changes) = self.heads.split_at(self.whole.min(self.heads.len()));
        bytes(changes) >= bytes(whole)
    }
}

/// Where the last records are in the stream, as far back as the next snapshot may need them.
#[derive(Debug, Default)]
pub(super) struct Places(VecDeque<Place>);

impl Places {
    /// When there are more, the next snapshot names an earlier place, and a start reads more lines.
    const MOST: usize = 100_000;

    pub(super) fn push(&mut self, after: u64, records: usize, stream: u64) {
        if records > 0 {
            if self.0.len() == Self::MOST {
                self.0.pop_front();
            }
            self.0.push_back(Place { after, stream });
        }
    }

    /// The last message that begins at `after` or before it.
    fn at(&self, after: u64) -> Option<Place> {
        let behind = self.0.partition_point(|place| place.after <= after);
        self.0.get(behind.checked_sub(1)?).copied()
    }

    fn forget_before(&mut self, after: u64) {
        let needless = self.0.partition_point(|place| place.after < after);
        self.0.drain(..needless);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_a_record_in_it_and_old_ones_are_forgotten() {
        let mut places = Places::default();
        for (after, records, stream) in [(0, 10, 3), (10, 0, 4), (10, 5, 7), (15, 1, 8)] {
            places.push(after, records, stream);
        }
        let at = |places: &Places, after| places.at(after).map(|place| place.stream);
        assert_eq!(
            (at(&places, 0), at(&places, 9), at(&places, 10), at(&places, 99)),
            (Some(3), Some(3), Some(7), Some(8))
        );
        places.forget_before(10);
        assert_eq!((at(&places, 9), at(&places, 12)), (None, Some(7)));
    }

    #[test]
    fn heads_are_written_anew_when_their_changes_are_as_large() {
        let chunk = |bytes| Chunk { slot: 0, bytes, hash: Hash::ZERO };
        let index = |heads: Vec<Chunk>| Index {
            stream: 1,
            sequence: 1,
            link: Hash::ZERO,
            epoch: 1,
            lines: Place::BEGINNING,
            known: vec![],
            heads,
            whole: 1,
            waits: vec![],
        };
        assert!(!index(vec![chunk(10), chunk(4), chunk(5)]).heads_are_due());
        assert!(index(vec![chunk(10), chunk(4), chunk(6)]).heads_are_due());
    }
}
