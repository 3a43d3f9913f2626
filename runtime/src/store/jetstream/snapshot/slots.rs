//! Where new chunks go: slots that the index in force does not name.

use std::collections::BTreeSet;

use bytes::Bytes;
use rhizon_kernel::chain::Hash;

use super::super::super::{EventStore as _, Result, StoreError};
use super::super::JetStreamStore;
use super::{Chunk, Index};

/// Another process may write to the same slot a few times before it sees that it was overtaken.
const TRIES: u32 = 5;

pub(super) struct Slots<'a> {
    store: &'a JetStreamStore,
    epoch: u64,
    used: BTreeSet<u32>,
    /// No slot before this one is free.
    next: u32,
}

impl<'a> Slots<'a> {
    /// Whatever an index is worth, its chunks stay until the next one is there.
    pub(super) fn new(store: &'a JetStreamStore, epoch: u64, index: Option<&Index>) -> Self {
        let used = index.into_iter().flat_map(Index::chunks).map(|chunk| chunk.slot).collect();
        Self { store, epoch, used, next: 0 }
    }

    /// Puts a chunk into a free slot. What lies there is a successor's perhaps, who begins by taking over: so first it is
    /// seen what lies there, then whether this is still the owner, and then only that is replaced.
    pub(super) async fn put(&mut self, payload: Bytes) -> Result<Chunk> {
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        let slot = self.next;
        self.next += 1;
        let (name, snapshots) = (slot.to_string(), &self.store.0.snapshots);
        for _ in 0..TRIES {
            let last = snapshots.shelf.get(&name).await?.map_or(0, |found| found.stream);
            if last > 0 {
                self.check_owner().await?;
            }
            if snapshots.shelf.put(&name, last, payload.clone()).await?.is_some() {
                return Ok(Chunk { slot, bytes: payload.len(), hash: Hash::of(&[&payload]) });
            }
        }
        Err(overtaken())
    }

    pub(super) async fn check_owner(&self) -> Result<()> {
        let found = self.store.mark().await?.epoch;
        if found == self.epoch { Ok(()) } else { Err(StoreError::Fenced { ours: self.epoch, found }) }
    }
}

pub(super) fn overtaken() -> StoreError {
    StoreError::Failed { doing: "take a snapshot", cause: "another process takes them".into() }
}
