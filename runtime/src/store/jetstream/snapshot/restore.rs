//! Beginning with a snapshot. What it says counts only when the journal's own records lead to its end.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use sqlx::sqlite::SqliteConnection;

use super::super::super::rows::{failed, signed};
use super::super::super::sqlite::transaction::{Query, transaction};
use super::super::super::sqlite::{KnownId, append};
use super::super::super::{Decision, Entry, Result, StoreError};
use super::super::gap::Missing;
use super::super::message::{self, Kind};
use super::super::{JetStreamStore, cache, records};
use super::contents::{self, HeadLine, Wait};
use super::{Chunk, Index};
use crate::bus;

/// Another index may come while one is read.
const TRIES: u32 = 3;
/// Chunks that are asked for at once.
const AHEAD: usize = 4;
/// Known ids that are sorted and written together.
const TOGETHER: usize = 64_000;

/// Why there is no use in a snapshot, or why that is not known.
enum Trouble {
    Unfit(String),
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Unfit(error.to_string())
    }
}

fn unfit(why: &str) -> Trouble {
    Trouble::Unfit(why.to_owned())
}

/// A snapshot in the cache that is still to be proven.
pub(in super::super) struct Proof {
    index: Index,
    /// Stream sequence of the index.
    stream: u64,
    /// The end of the lines so far.
    tail: Option<Tail>,
}

impl JetStreamStore {
    /// Fills an empty cache from a snapshot, as far as there is one and it can be read.
    pub(in super::super) async fn begin_with_snapshot(&self) -> Result<Option<Proof>> {
        for _ in 0..TRIES {
            self.clear().await?;
            match self.restore().await {
                Ok(proof) => return Ok(proof),
                Err(Trouble::Store(error)) => return Err(error),
                Err(Trouble::Unfit(why)) => self.unfit(&why),
            }
        }
        self.clear().await?;
        Ok(None)
    }

    /// Forgets what came from a snapshot.
    pub(in super::super) async fn clear(&self) -> Result<()> {
        self.0.gap.set(None);
        cache::clear(&self.0.cache).await
    }

    /// A snapshot is given up: all comes from the journal.
    pub(in super::super) fn unfit(&self, why: &str) {
        self.0.metrics.unfit.inc();
        tracing::warn!(why, "a snapshot is not usable");
    }

    async fn restore(&self) -> std::result::Result<Option<Proof>, Trouble> {
        let Some(found) = self.0.snapshots.shelf.get("index").await? else { return Ok(None) };
        let index: Index = serde_json::from_slice(&found.payload)?;
        let missing = (index.lines.after > 0).then(|| Missing::all(index.lines.after));
        transaction(&self.0.cache.writer, "write the cache", async |tx: &mut SqliteConnection| {
            self.known(tx, &index.known).await?;
            self.heads(tx, &index.heads).await?;
            self.waits(tx, &index).await?;
            if let Some(missing) = missing {
                cache::set_missing(tx, missing).await?;
            }
            Ok::<_, Trouble>(())
        })
        .await?;
        self.0.cache.forget();
        self.0.gap.set(missing);
        let tail = (index.lines.after == 0).then(Tail::default);
        Ok(Some(Proof { index, stream: found.stream, tail }))
    }

    async fn known(&self, tx: &mut SqliteConnection, chunks: &[Chunk]) -> std::result::Result<(), Trouble> {
        let mut gathered: Vec<KnownId> = Vec::new();
        let mut read = std::pin::pin!(self.read(chunks));
        while let Some(chunk) = read.try_next().await? {
            gathered
                .extend(contents::known(&chunk).ok_or_else(|| unfit("a chunk of ids has no whole number of them"))?);
            if gathered.len() >= TOGETHER {
                append::insert_known(tx, std::mem::take(&mut gathered)).await?;
            }
        }
        append::insert_known(tx, gathered).await?;
        Ok(())
    }

    async fn heads(&self, tx: &mut SqliteConnection, chunks: &[Chunk]) -> std::result::Result<(), Trouble> {
        let mut read = std::pin::pin!(self.read(chunks));
        while let Some(chunk) = read.try_next().await? {
            let entities: Vec<HeadLine<'_>> = contents::lines(&chunk)?;
            let entries: Vec<Entry> = entities.into_iter().map(entry).collect();
            append::upsert_heads(tx, &entries).await?;
        }
        Ok(())
    }

    async fn waits(&self, tx: &mut SqliteConnection, index: &Index) -> std::result::Result<(), Trouble> {
        let mut read = std::pin::pin!(self.read(&index.waits));
        let mut has_mark = false;
        while let Some(chunk) = read.try_next().await? {
            for wait in contents::lines::<Wait>(&chunk)? {
                has_mark |= matches!(wait, Wait::Mark { .. });
                let failed = |e: sqlx::Error| Trouble::Store(failed("write the cache", &e));
                insert(wait, index).execute(&mut *tx).await.map_err(failed)?;
            }
        }
        if has_mark { Ok(()) } else { Err(unfit("it has no mark")) }
    }

    /// Chunks in their order, each as its index has it.
    fn read<'a>(&'a self, chunks: &'a [Chunk]) -> impl Stream<Item = std::result::Result<Bytes, Trouble>> + 'a {
        let get = async move |chunk: &Chunk| {
            let found = self.0.snapshots.shelf.get(&chunk.slot.to_string()).await?;
            match found.filter(|found| Hash::of(&[&found.payload]) == chunk.hash) {
                Some(found) => Ok(found.payload),
                None => Err(unfit(&format!("chunk {} is not there, or another one", chunk.slot))),
            }
        };
        stream::iter(chunks).map(get).buffered(AHEAD)
    }

    /// Takes in what lies between the snapshot's lines and its end. Answers whether it is proven by now.
    pub(in super::super) async fn prove(&self, proof: &mut Proof, page: &[bus::Message]) -> Result<Proven> {
        let mut entries = Vec::new();
        for message in page {
            match proof.take(message, &mut entries) {
                Ok(false) => {}
                Ok(true) => {
                    self.0.metrics.read.inc_by(entries.len() as u64);
                    cache::prove(&self.0.cache, &entries, message.stream).await?;
                    self.is_proven(proof).await?;
                    return Ok(Proven::Yes { stream: message.stream });
                }
                Err(why) => return Ok(Proven::No(why)),
            }
        }
        self.0.metrics.read.inc_by(entries.len() as u64);
        cache::prove(&self.0.cache, &entries, 0).await?;
        Ok(Proven::NotYet)
    }

    async fn is_proven(&self, proof: &Proof) -> Result<()> {
        let Proof { index, stream, .. } = proof;
        self.trust_index(*stream, index.sequence).await?;
        self.0.metrics.used.inc();
        tracing::info!(records = index.sequence, "began with a snapshot");
        self.fill_in_background();
        Ok(())
    }
}

pub(in super::super) enum Proven {
    /// With the message at this place of the stream.
    Yes {
        stream: u64,
    },
    NotYet,
    No(String),
}

impl Proof {
    /// Where reading the journal begins.
    pub(in super::super) fn begin(&self) -> u64 {
        self.index.lines.stream
    }

    /// Reads a message; answers whether it was the last one of the snapshot, and all of it agrees.
    fn take(&mut self, message: &bus::Message, entries: &mut Vec<Entry>) -> std::result::Result<bool, String> {
        let (header, lines) = message::decode(&message.payload).map_err(|e| e.to_string())?;
        if let Kind::Append { .. } = header.kind {
            for line in lines {
                let record = match &mut self.tail {
                    Some(tail) => records::read(tail, line),
                    None => records::read_first(self.index.lines.after, line).map(|(tail, record)| {
                        self.tail = Some(tail);
                        record
                    }),
                };
                entries.push(record.map_err(|e| format!("message {}: {e}", message.stream))?.into_entry());
            }
        }
        if message.stream < self.index.stream {
            return Ok(false);
        }
        let is_end = message.stream == self.index.stream && header.epoch == self.index.epoch;
        if is_end && self.tail == Some(self.index.tail()) {
            Ok(true)
        } else {
            Err(format!("the journal is another one at message {} of its stream", self.index.stream))
        }
    }
}

fn entry(entity: HeadLine<'_>) -> Entry {
    let (entity, head) = entity.take_apart();
    let decision = Decision { entity, identity: None, head, emits: false, dead: false };
    Entry { sequence: 0, line: Bytes::new(), decision: Some(decision) }
}

fn insert(wait: Wait, index: &Index) -> Query {
    match wait {
        Wait::Mark { position, published, config } => {
            let sql = "UPDATE mark SET epoch = ?1, position = ?2, published = ?3, sequence = ?4, swept = ?4, link = ?5, \
                       config = ?6";
            let query = sqlx::query(sql).bind(signed(index.epoch)).bind(signed(position)).bind(signed(published));
            let query = query.bind(signed(index.sequence)).bind(index.link.0.to_vec());
            query.bind(config.map(|hash| hash.0.to_vec()))
        }
        Wait::Parked(parked) => {
            append::with_parked("INSERT INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", &parked)
        }
        Wait::Deferred(deferred) => append::with_deferred("INSERT INTO deferred VALUES (?, ?, ?, ?, ?)", &deferred),
        Wait::Dead { key, sequence } => {
            sqlx::query("INSERT INTO dead VALUES (?, ?)").bind(key.0.to_vec()).bind(signed(sequence))
        }
        Wait::Tried { key, count } => {
            sqlx::query("INSERT INTO attempts VALUES (?, ?)").bind(key.0.to_vec()).bind(i64::from(count))
        }
    }
}
