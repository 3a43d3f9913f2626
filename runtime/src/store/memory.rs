//! A store in memory: the reference that the others are compared with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;

use crate::planted::{self, Fault};

use super::{
    Batch, Counts, Deferred, Due, Entry, EventStore, Fate, Known, Loaded, Mark, Parked, RELEASED_TOGETHER, Result, Row,
    StoreError, Waits,
};

#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    mark: Mark,
    journal: Vec<(Option<String>, bool, Row)>,
    heads: BTreeMap<String, Head>,
    /// Digest of the event, and the record that decided on it.
    known: HashMap<Hash, (Hash, u64)>,
    attempts: HashMap<Hash, u32>,
    parked: BTreeMap<u64, Parked>,
    deferred: BTreeMap<Hash, Deferred>,
    /// Open dead letters: their records, by the key of their event.
    dead: HashMap<Hash, u64>,
}

impl Inner {
    fn check(&self, epoch: u64) -> Result<()> {
        if self.mark.epoch == epoch || planted::is(Fault::FenceNotChecked) {
            Ok(())
        } else {
            Err(StoreError::Fenced { ours: epoch, found: self.mark.epoch })
        }
    }

    fn take_in(&mut self, entry: Entry) {
        let row = Row { sequence: entry.sequence, line: entry.line };
        let Some(decision) = entry.decision else {
            self.journal.push((None, false, row));
            return;
        };
        if let Some((key, digest)) = decision.identity {
            self.known.insert(key, (digest, entry.sequence));
            self.attempts.remove(&key);
            if decision.dead {
                self.dead.insert(key, entry.sequence);
            }
        }
        self.journal.push((Some(decision.entity.clone()), decision.emits, row));
        self.heads.insert(decision.entity, decision.head);
    }

    fn change_waits(&mut self, waits: Waits) {
        let Waits { park, unpark, defer, cancel, resolve } = waits;
        for mut parked in park {
            let mut before = self.parked.range(..parked.stream).map(|(_, before)| before);
            if parked.due_ms.is_none() && !before.any(|before| before.holds && before.entity == parked.entity) {
                parked.due_ms = Some(0);
            }
            self.parked.insert(parked.stream, parked);
        }
        for stream in unpark {
            let Some(gone) = self.parked.remove(&stream).filter(|gone| gone.holds) else { continue };
            let behind = self.parked.values_mut().filter(|parked| parked.holds && parked.entity == gone.entity);
            for next in behind.take(RELEASED_TOGETHER) {
                next.due_ms.get_or_insert(0);
            }
        }
        self.deferred.extend(defer.into_iter().map(|deferred| (deferred.key, deferred)));
        for key in cancel {
            self.deferred.remove(&key);
            for timer in self.parked.values_mut().filter(|parked| parked.key == key && !parked.holds) {
                (timer.due_ms, timer.cancelled) = (Some(0), true);
            }
        }
        for key in resolve {
            self.dead.remove(&key);
        }
    }

    fn row(&self, sequence: u64) -> Option<&Row> {
        self.journal.get(usize::try_from(sequence).ok()?.checked_sub(1)?).map(|entry| &entry.2)
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
            held: entities
                .iter()
                .map(|entity| inner.parked.values().filter(|p| p.holds && p.entity == *entity).count() as u64)
                .collect(),
            known: keys
                .iter()
                .map(|key| {
                    let settled = inner.known.get(key).map(|(digest, _)| Known::Settled(*digest));
                    let parked = || inner.parked.values().find(|parked| parked.key == *key);
                    settled
                        .or_else(|| parked().map(|parked| Known::Parked(parked.digest)))
                        .or_else(|| inner.attempts.get(key).map(|count| Known::Tried(*count)))
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
            inner.mark.follow(&batch);
            for entry in batch.entries {
                inner.take_in(entry);
            }
            inner.change_waits(batch.waits);
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

    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        use std::ops::Bound::{Excluded, Unbounded};
        Ok(self.with(|inner| {
            let range = inner.heads.range::<String, _>((Excluded(&after), Unbounded));
            let fits = begin_within(range.take(limit), limit_bytes, |(_, head)| head.bytes());
            fits.map(|(entity, head)| (entity.clone(), head.clone())).collect()
        }))
    }

    async fn counts(&self) -> Result<Counts> {
        Ok(self.with(|inner| Counts {
            records: inner.journal.len() as u64,
            entities: inner.heads.len() as u64,
            parked: inner.parked.len() as u64,
            held: inner.parked.values().filter(|parked| parked.holds).count() as u64,
            deferred: inner.deferred.len() as u64,
            dead: inner.dead.len() as u64,
        }))
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        Ok(self.with(|inner| {
            let decided = inner.known.get(&key).and_then(|(_, sequence)| inner.row(*sequence));
            let parked = || inner.parked.values().find(|parked| parked.key == key);
            decided
                .map(|row| Fate::Decided(row.clone()))
                .or_else(|| {
                    let Parked { entity, due_ms, attempts, .. } = parked()?.clone();
                    Some(Fate::Parked { entity, due_ms, attempts })
                })
                .or_else(|| {
                    let Deferred { due_ms, sequence, .. } = *inner.deferred.get(&key)?;
                    Some(Fate::Deferred { due_ms, sequence })
                })
        }))
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let open: BTreeSet<u64> = self.with(|inner| inner.dead.values().copied().collect());
        Ok(self.rows(after, limit_bytes, |entry| open.contains(&entry.2.sequence)))
    }

    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        Ok(self.with(|inner| {
            let is_due = |due_ms: Option<i64>| due_ms.is_some_and(|due_ms| due_ms <= now_ms);
            let mut behind = BTreeSet::new();
            let mut parked = Vec::new();
            for event in inner.parked.values() {
                if is_due(event.due_ms) && !(event.holds && behind.contains(event.entity.as_str())) {
                    parked.push(event.clone());
                } else if event.holds && !planted::is(Fault::ReleasedOvertakes) {
                    behind.insert(event.entity.as_str());
                }
            }
            let size = |parked: &Parked| parked.payload.len();
            let parked = begin_within(parked.into_iter().take(limit), limit_bytes, size).collect();
            let mut deferred: Vec<Deferred> =
                inner.deferred.values().filter(|d| is_due(Some(d.due_ms))).cloned().collect();
            deferred.sort_by_key(|deferred| (deferred.due_ms, deferred.sequence, deferred.key));
            let size = |deferred: &Deferred| deferred.payload.len();
            let deferred = begin_within(deferred.into_iter().take(limit), limit_bytes, size).collect();
            Due { parked, deferred }
        }))
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        Ok(self.with(|inner| {
            let parked = inner.parked.values().filter_map(|parked| parked.due_ms);
            let deferred = inner.deferred.values().map(|deferred| deferred.due_ms);
            parked.chain(deferred).filter(|due_ms| *due_ms > after_ms).min()
        }))
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        self.with(|inner| {
            inner.check(epoch)?;
            for key in keys {
                inner.deferred.remove(&key);
            }
            Ok(())
        })
    }
}

/// Those that begin within so many bytes of what comes before them.
fn begin_within<T>(
    items: impl Iterator<Item = T>,
    limit_bytes: usize,
    size: impl Fn(&T) -> usize,
) -> impl Iterator<Item = T> {
    let mut before = 0;
    items.take_while(move |item| {
        let begins = before < limit_bytes;
        before += size(item);
        begins
    })
}
