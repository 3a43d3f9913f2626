//! A store in memory: the reference that the others are compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;

use crate::planted::{self, Fault};

use super::{Batch, Counts, EventStore, Known, Loaded, Mark, Result, Row, StoreError};

#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    mark: Mark,
    journal: Vec<(Option<String>, bool, Row)>,
    heads: BTreeMap<String, Head>,
    known: HashMap<Hash, Hash>,
    attempts: HashMap<Hash, u32>,
}

impl Inner {
    fn check(&self, epoch: u64) -> Result<()> {
        if self.mark.epoch == epoch || planted::is(Fault::FenceNotChecked) {
            Ok(())
        } else {
            Err(StoreError::Fenced { ours: epoch, found: self.mark.epoch })
        }
    }
}

impl MemoryStore {
    fn with<T>(&self, run: impl FnOnce(&mut Inner) -> T) -> T {
        run(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn rows(&self, after: u64, limit_bytes: usize, keep: impl Fn(&(Option<String>, bool, Row)) -> bool) -> Vec<Row> {
        let mut bytes = 0;
        self.with(|inner| {
            let rows = inner.journal.iter().filter(|entry| entry.2.sequence > after && keep(entry));
            let rows = rows.take_while(|entry| {
                let fits = bytes < limit_bytes;
                bytes += entry.2.line.len();
                fits
            });
            rows.map(|entry| entry.2.clone()).collect()
        })
    }
}

impl EventStore for MemoryStore {
    async fn claim(&self) -> Result<Mark> {
        Ok(self.with(|inner| {
            inner.mark.epoch += 1;
            inner.mark.clone()
        }))
    }

    async fn mark(&self) -> Result<Mark> {
        Ok(self.with(|inner| inner.mark.clone()))
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        Ok(self.with(|inner| Loaded {
            heads: entities.iter().map(|entity| inner.heads.get(entity).cloned()).collect(),
            known: keys
                .iter()
                .map(|key| {
                    let settled = inner.known.get(key).map(|digest| Known::Settled(*digest));
                    settled.or_else(|| inner.attempts.get(key).map(|count| Known::Tried(*count)))
                })
                .collect(),
        }))
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.with(|inner| {
            inner.check(batch.epoch)?;
            if inner.mark.tail.sequence != batch.after && !planted::is(Fault::StaleAppendAccepted) {
                return Err(StoreError::Conflict { expected: batch.after, found: inner.mark.tail.sequence });
            }
            for entry in batch.entries {
                let row = Row { sequence: entry.sequence, line: entry.line };
                let Some(decision) = entry.decision else {
                    inner.journal.push((None, false, row));
                    continue;
                };
                if let Some((key, digest)) = decision.identity {
                    inner.known.insert(key, digest);
                    inner.attempts.remove(&key);
                }
                inner.journal.push((Some(decision.entity.clone()), decision.emits, row));
                inner.heads.insert(decision.entity, decision.head);
            }
            let published = inner.mark.published.max(batch.published);
            let position =
                if planted::is(Fault::PositionGoesBack) { 0 } else { inner.mark.position }.max(batch.position);
            let config = batch.config.or(inner.mark.config);
            inner.mark = Mark { epoch: batch.epoch, position, published, tail: batch.tail, config };
            Ok(())
        })
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        self.with(|inner| {
            inner.check(epoch)?;
            let count = inner.attempts.entry(key).or_default();
            *count += 1;
            Ok(*count)
        })
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        self.with(|inner| {
            inner.check(epoch)?;
            inner.mark.published = inner.mark.published.max(sequence);
            Ok(())
        })
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        let mut rows = self.rows(after, usize::MAX, |entry| entry.1);
        rows.truncate(limit);
        Ok(rows)
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        Ok(self.rows(after, limit_bytes, |_| true))
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        Ok(self.rows(after, limit_bytes, |entry| entry.0.as_deref() == Some(&entity)))
    }

    async fn entities(&self, after: String, limit: usize) -> Result<Vec<(String, Head)>> {
        use std::ops::Bound::{Excluded, Unbounded};
        Ok(self.with(|inner| {
            let range = inner.heads.range::<String, _>((Excluded(&after), Unbounded));
            range.take(limit).map(|(entity, head)| (entity.clone(), head.clone())).collect()
        }))
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.with(|inner| Counts { records: inner.journal.len() as u64, entities: inner.heads.len() as u64 }))
    }
}
