//! A store in JetStream: everything that changes is one message in the agent's own subject of the journal stream.
//!
//! ```text
//! write ─▶ check against the mark ─▶ publish behind the last message known ─▶ hold for the cache ─▶ (later) the cache
//!                                         │ overtaken, or no answer
//!                                         └─▶ catch up: read what is there and apply it ─▶ ours? done : check again
//! ```
//!
//! The expected sequence is the fence: whoever publishes has seen everything before. The cache is a SQLite file that can be
//! thrown away; reads come from it, and appends reach it behind their answers, many together. A new one begins with a
//! snapshot, where there is one, and gets the older records later.

mod cache;
mod catch_up;
mod gap;
mod journal;
mod message;
mod metrics;
mod records;
mod settle;
mod snapshot;
mod steps;
mod unwritten;

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::sqlite::SqliteStore;
use super::{Batch, Counts, Due, EventStore, Fate, Known, Loaded, Mark, Result, Row, StoreError};
use crate::bus::nats::Connection;
use crate::failpoint::{self, Step};
use gap::Gap;
use journal::{Journal, Sent};
use message::Change;
pub use metrics::JournalMetrics;
use snapshot::{Places, Snapshots};
use unwritten::Unwritten;

/// How often a write begins anew before it fails.
const TRIES: u32 = 8;

#[derive(Clone)]
pub struct JetStreamStore(Arc<Inner>);

struct Inner {
    cache: SqliteStore,
    journal: Journal,
    state: Mutex<State>,
    unwritten: Unwritten,
    /// Held by who writes them.
    writing: Mutex<()>,
    gap: Gap,
    snapshots: Snapshots,
    /// The epoch that this process claimed.
    claimed: AtomicU64,
    metrics: JournalMetrics,
    /// What goes on in the background. It holds nothing of this but for a moment, and ends with it.
    tasks: std::sync::Mutex<JoinSet<()>>,
}

struct State {
    /// Stream sequence of the last message that was taken in, and what the store remembers with it.
    applied: u64,
    mark: Mark,
    /// Whether the journal may hold more.
    behind: bool,
    places: Places,
}

/// Where an agent's journal is.
#[derive(Debug, Clone)]
pub struct Place {
    pub stream: String,
    /// `jr.<agent>.<shard>`
    pub subject: String,
    /// A consumer of this subject, for nobody else.
    pub consumer: String,
    /// Where snapshots are: a stream that keeps one message per subject, and the subjects' beginning, `sn.<agent>.<shard>`.
    pub snapshot_stream: String,
    pub snapshot_subject: String,
}

impl JetStreamStore {
    /// Opens the cache. The journal is read when something is asked of it.
    pub async fn open(connection: Connection, place: Place, cache: &Path, metrics: JournalMetrics) -> Result<Self> {
        let Place { stream, subject, consumer, snapshot_stream, snapshot_subject } = place;
        let snapshots = Snapshots::new(connection.clone(), snapshot_stream, snapshot_subject, cache);
        let cache = cache::open(cache).await?;
        let (applied, mark) = (cache::applied(&cache).await?, cache.mark().await?);
        let state = State { applied, mark, behind: true, places: Places::default() };
        let (gap, (index, record)) = (Gap::open(&cache, state.applied).await?, cache::snapshot(&cache).await?);
        snapshots.trust(index, record);
        let store = Self(Arc::new(Inner {
            cache,
            journal: Journal::new(connection, stream, subject, consumer),
            state: Mutex::new(state),
            unwritten: Unwritten::default(),
            writing: Mutex::default(),
            gap,
            snapshots,
            claimed: AtomicU64::default(),
            metrics,
            tasks: std::sync::Mutex::default(),
        }));
        store.fill_in_background();
        Ok(store)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Makes a change durable. Runs to its end also when nobody waits for it, so that the cache is never left half-way.
    async fn write(&self, mut change: Change) -> Result<Mark> {
        self.make_room().await?;
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut state = store.0.state.lock().await;
            for _ in 0..TRIES {
                if state.behind {
                    store.catch_up(&mut state, None).await?;
                }
                fit(&mut change, &state.mark)?;
                if store.send(&mut state, &change).await? {
                    store.snapshot_when_due(state.mark.tail.sequence);
                    return Ok(state.mark.clone());
                }
            }
            let cause = "others write to this journal all the time".into();
            Err(StoreError::Failed { doing: "append", cause })
        });
        task.await.map_err(|e| StoreError::Failed { doing: "append", cause: e.to_string() })?
    }

    /// Publishes once; answers whether it is stored, and false when something else was.
    async fn send(&self, state: &mut State, change: &Change) -> Result<bool> {
        let id = self.0.journal.id();
        let sent = self.0.journal.publish(state.applied, change.encode(&id)).await?;
        state.behind = true;
        match sent {
            Sent::Stored(sequence) => {
                failpoint::reached(Step::Written);
                if self.take_in(state, change, sequence).await.is_err() {
                    // Durable all the same. The cache takes it in as it would that of another process.
                    return self.catch_up(state, Some(&id)).await;
                }
                (state.applied, state.behind) = (sequence, false);
                Ok(true)
            }
            Sent::Overtaken => self.catch_up(state, Some(&id)).await,
            Sent::Unknown(cause) => {
                let is_there = self.catch_up(state, Some(&id)).await?;
                // It may still come: the next operation looks again.
                state.behind = !is_there;
                if is_there { Ok(true) } else { Err(StoreError::Failed { doing: "append", cause }) }
            }
        }
    }
}

/// Makes sure that a change fits behind what is there, or says why not.
fn fit(change: &mut Change, mark: &Mark) -> Result<()> {
    let epoch = match change {
        Change::Claim { epoch } => {
            *epoch = mark.epoch + 1;
            return Ok(());
        }
        Change::Append(batch) => batch.epoch,
        Change::Attempt { epoch, .. } | Change::Published { epoch, .. } | Change::Fired { epoch, .. } => *epoch,
    };
    if epoch != mark.epoch {
        return Err(StoreError::Fenced { ours: epoch, found: mark.epoch });
    }
    match change {
        Change::Append(batch) if batch.after != mark.tail.sequence => {
            Err(StoreError::Conflict { expected: batch.after, found: mark.tail.sequence })
        }
        _ => Ok(()),
    }
}

impl EventStore for JetStreamStore {
    async fn claim(&self) -> Result<Mark> {
        let mark = self.write(Change::Claim { epoch: 0 }).await?;
        self.0.claimed.store(mark.epoch, Ordering::Relaxed);
        Ok(mark)
    }

    /// As the journal stands now: somebody else may have claimed it.
    async fn mark(&self) -> Result<Mark> {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut state = store.0.state.lock().await;
            store.catch_up(&mut state, None).await?;
            Ok(state.mark.clone())
        });
        task.await.map_err(|e| StoreError::Failed { doing: "read the mark", cause: e.to_string() })?
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        let found = self.0.unwritten.find(&entities, &keys);
        Ok(found.over(self.0.cache.load(entities, keys).await?))
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.write(Change::Append(Arc::new(batch))).await.map(drop)
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        self.write(Change::Attempt { epoch, key }).await?;
        match self.0.cache.load(Vec::new(), vec![key]).await?.known[..] {
            [Some(Known::Tried(count))] => Ok(count),
            // Decided by somebody else meanwhile: the next append says so.
            _ => Ok(1),
        }
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        self.write(Change::Published { epoch, sequence }).await.map(drop)
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        self.settled().await?.outbox(after, limit).await
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.0.gap.check(after)?;
        let mut rows = self.settled().await?.journal(after, limit_bytes).await?;
        // What comes behind the gap is no continuation of what comes before it.
        let together = rows.iter().zip(after + 1..).take_while(|(row, sequence)| row.sequence == *sequence).count();
        rows.truncate(together);
        Ok(rows)
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.0.gap.check_behind(after)?;
        self.settled().await?.history(entity, after, limit_bytes).await
    }

    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        self.settled().await?.entities(after, limit, limit_bytes).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.settled().await?.counts().await
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        let cache = self.settled().await?;
        if let Some(sequence) = cache::decided(cache, key, &self.0.gap).await? {
            self.0.gap.check(sequence - 1)?;
        }
        cache.fate(key).await
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let cache = self.settled().await?;
        if let Some(sequence) = cache::first_dead(cache, after, &self.0.gap).await? {
            self.0.gap.check(sequence - 1)?;
        }
        cache.dead_letters(after, limit_bytes).await
    }

    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        self.settled().await?.due(now_ms, limit, limit_bytes).await
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        self.settled().await?.next_due(after_ms).await
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        self.write(Change::Fired { epoch, keys }).await.map(drop)
    }

    async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        let _state = self.0.state.lock().await;
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "the cache lacks what was appended last; the next start reads it from the journal");
        }
        self.0.cache.close().await;
    }
}

/// Bytes in JSON.
pub(super) mod base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(de::Error::custom)
    }
}
