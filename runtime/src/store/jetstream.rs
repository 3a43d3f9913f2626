//! A store in JetStream: everything that changes is one message in the agent's own subject of the journal stream.
//!
//! ```text
//! write ─▶ check against the cache ─▶ publish behind the last message known ─▶ apply to the cache
//!                                         │ overtaken, or no answer
//!                                         └─▶ catch up: read what is there and apply it ─▶ ours? done : check again
//! ```
//!
//! The expected sequence is the fence: whoever publishes has seen everything before. The cache is a SQLite file that can be
//! thrown away; reads come from it.

mod cache;
mod catch_up;
mod journal;
mod message;
mod records;

use std::path::Path;
use std::sync::Arc;

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use tokio::sync::Mutex;

use super::sqlite::SqliteStore;
use super::{Batch, Counts, Due, EventStore, Fate, Known, Loaded, Mark, Result, Row, StoreError};
use crate::bus::nats::Connection;
use crate::failpoint::{self, Step};
use journal::{Journal, Sent};
use message::Change;

/// How often a write begins anew before it fails.
const TRIES: u32 = 8;

#[derive(Clone)]
pub struct JetStreamStore {
    cache: SqliteStore,
    journal: Arc<Journal>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Stream sequence of the last message in the cache.
    applied: u64,
    /// Whether the journal may hold more than the cache.
    behind: bool,
}

/// Where an agent's journal is.
#[derive(Debug, Clone)]
pub struct Place {
    pub stream: String,
    /// `jr.<agent>.<shard>`
    pub subject: String,
    /// A consumer of this subject, for nobody else.
    pub consumer: String,
}

impl JetStreamStore {
    /// Opens the cache. The journal is read when something is asked of it.
    pub async fn open(connection: Connection, place: Place, cache: &Path) -> Result<Self> {
        let cache = cache::open(cache).await?;
        let state = State { applied: cache::applied(&cache).await?, behind: true };
        let Place { stream, subject, consumer } = place;
        let journal = Arc::new(Journal::new(connection, stream, subject, consumer));
        Ok(Self { cache, journal, state: Arc::new(Mutex::new(state)) })
    }

    /// Makes a change durable. Runs to its end also when nobody waits for it, so that the cache is never left half-way.
    async fn write(&self, mut change: Change) -> Result<Mark> {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut state = store.state.lock().await;
            for _ in 0..TRIES {
                if state.behind {
                    store.catch_up(&mut state, None).await?;
                }
                fit(&mut change, &store.cache.mark().await?)?;
                if store.send(&mut state, &change).await? {
                    return store.cache.mark().await;
                }
            }
            let cause = "others write to this journal all the time".into();
            Err(StoreError::Failed { doing: "append", cause })
        });
        task.await.map_err(|e| StoreError::Failed { doing: "append", cause: e.to_string() })?
    }

    /// Publishes once; answers whether it is stored, and false when something else was.
    async fn send(&self, state: &mut State, change: &Change) -> Result<bool> {
        let id = self.journal.id();
        let sent = self.journal.publish(state.applied, change.encode(&id)).await?;
        state.behind = true;
        match sent {
            Sent::Stored(sequence) => {
                failpoint::reached(Step::Written);
                if cache::apply(&self.cache, change, sequence).await.is_err() {
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
        self.write(Change::Claim { epoch: 0 }).await
    }

    /// As the journal stands now: somebody else may have claimed it.
    async fn mark(&self) -> Result<Mark> {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut state = store.state.lock().await;
            store.catch_up(&mut state, None).await?;
            store.cache.mark().await
        });
        task.await.map_err(|e| StoreError::Failed { doing: "read the mark", cause: e.to_string() })?
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        self.cache.load(entities, keys).await
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.write(Change::Append(Box::new(batch))).await.map(drop)
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        self.write(Change::Attempt { epoch, key }).await?;
        match self.cache.load(Vec::new(), vec![key]).await?.known[..] {
            [Some(Known::Tried(count))] => Ok(count),
            // Decided by somebody else meanwhile: the next append says so.
            _ => Ok(1),
        }
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        self.write(Change::Published { epoch, sequence }).await.map(drop)
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        self.cache.outbox(after, limit).await
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.cache.journal(after, limit_bytes).await
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.cache.history(entity, after, limit_bytes).await
    }

    async fn entities(&self, after: String, limit: usize) -> Result<Vec<(String, Head)>> {
        self.cache.entities(after, limit).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.cache.counts().await
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        self.cache.fate(key).await
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.cache.dead_letters(after, limit_bytes).await
    }

    async fn due(&self, now_ms: i64, limit: usize) -> Result<Due> {
        self.cache.due(now_ms, limit).await
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        self.cache.next_due(after_ms).await
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        self.write(Change::Fired { epoch, keys }).await.map(drop)
    }

    async fn close(&self) {
        let _state = self.state.lock().await;
        self.cache.close().await;
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
