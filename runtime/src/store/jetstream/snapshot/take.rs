//! Taking a snapshot: what changed since the last one becomes chunks, and then an index names them.
//!
//! All is read from one state of the cache, through a connection of its own; appends go on meanwhile. What never changes
//! is read after that state was let go: as long as it is held, the cache's write-ahead log can only grow.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::TryStreamExt as _;
use rhizon_kernel::record::{Line, NoRecord};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::super::rows::{self, failed, number, signed};
use super::super::super::sqlite::named;
use super::super::super::{Mark, Result, StoreError};
use super::super::{JetStreamStore, cache};
use super::contents::{Gathered, HeadLine, Wait};
use super::slots::{self, Slots};
use super::{Chunk, Index, LINES, Place};

const DOING: &str = "take a snapshot";
/// Records that are looked at together.
const PAGE: u64 = 500;

impl JetStreamStore {
    /// Takes one of what is durable now. Only the owner may.
    pub async fn take_snapshot(&self) -> Result<()> {
        let _alone = self.0.snapshots.taking.lock().await;
        self.settle().await?;
        let taken = async { Taking::begin(self).await?.run().await }.await;
        let counter = if taken.is_ok() { &self.0.metrics.taken } else { &self.0.metrics.failed };
        counter.inc();
        let Taken { stream, sequence, lines } = taken?;
        self.trust_index(stream, sequence).await?;
        self.0.state.lock().await.places.forget_before(lines.after);
        tracing::debug!(sequence, "took a snapshot");
        Ok(())
    }
}

struct Taken {
    stream: u64,
    sequence: u64,
    lines: Place,
}

struct Taking<'a> {
    store: &'a JetStreamStore,
    cache: SqliteConnection,
    slots: Slots<'a>,
    mark: Mark,
    applied: u64,
    /// Stream sequence of the index that is there, 0 for none, and what it says, if it can be continued.
    last: u64,
    before: Option<Index>,
}

impl<'a> Taking<'a> {
    async fn begin(store: &'a JetStreamStore) -> Result<Self> {
        let found = store.0.snapshots.shelf.get("index").await?;
        let last = found.as_ref().map_or(0, |found| found.stream);
        let index = found.and_then(|found| serde_json::from_slice::<Index>(&found.payload).ok());
        let mut cache = cache::look(&store.0.snapshots.cache).await?;
        let sql = "SELECT epoch, position, published, sequence, link, config, applied FROM mark";
        let row = sqlx::query(sql).fetch_one(&mut cache).await.map_err(|e| failed(DOING, &e))?;
        let (mark, applied) = (rows::mark(&row)?, number(&row, 6)?);
        let ours = store.0.claimed.load(Ordering::Relaxed);
        if mark.epoch != ours {
            return Err(StoreError::Fenced { ours, found: mark.epoch });
        }
        let slots = Slots::new(store, ours, index.as_ref());
        let mut taking = Self { store, cache, slots, mark, applied, last, before: None };
        match index {
            Some(index) if taking.continues(&index).await? => taking.before = Some(index),
            // Then it has all from the beginning on, which must be here.
            _ => store.0.gap.check_behind(0)?,
        }
        Ok(taking)
    }

    /// Whether a snapshot is one of what the cache holds, as it was earlier.
    async fn continues(&mut self, index: &Index) -> Result<bool> {
        let query = sqlx::query("SELECT line FROM journal WHERE sequence = ?").bind(signed(index.sequence));
        let row = query.fetch_optional(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
        let line: Option<Vec<u8>> = row.and_then(|row| row.try_get(0).ok());
        let found = line.and_then(|line| Some(Line::parse(&line).ok()?.link));
        let is_trusted = self.last == self.store.0.snapshots.trusted.load(Ordering::Relaxed);
        Ok(is_trusted && index.stream <= self.applied && found == Some(index.link))
    }

    async fn run(mut self) -> Result<Taken> {
        let (heads, whole) = self.heads().await?;
        let waits = self.waits().await?;
        let lines = self.lines().await?;
        sqlx::query("COMMIT").execute(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
        let known = self.known().await?;
        let (stream, tail, epoch) = (self.applied, self.mark.tail, self.mark.epoch);
        let (sequence, link) = (tail.sequence, tail.link);
        let index = Index { stream, sequence, link, epoch, lines, known, heads, whole, waits };
        let payload = serde_json::to_vec(&index).expect("keys are strings").into();
        self.slots.check_owner().await?;
        match self.store.0.snapshots.shelf.put("index", self.last, payload).await? {
            Some(stream) => Ok(Taken { stream, sequence, lines }),
            None => Err(slots::overtaken()),
        }
    }

    /// The decisions since the last snapshot, from their records.
    async fn known(&mut self) -> Result<Vec<Chunk>> {
        let (mut chunks, mut after) =
            self.before.as_ref().map(|index| (index.known.clone(), index.sequence)).unwrap_or_default();
        let mut gathered = Gathered::default();
        while after < self.mark.tail.sequence {
            let begun = Instant::now();
            let until = (after + PAGE).min(self.mark.tail.sequence);
            let sql = "SELECT sequence, line FROM journal WHERE sequence > ? AND sequence <= ? ORDER BY sequence";
            let query = sqlx::query(sql).bind(signed(after)).bind(signed(until));
            let page = query.fetch_all(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
            if page.len() as u64 != until - after {
                return Err(StoreError::Failed { doing: DOING, cause: format!("records behind {after} are missing") });
            }
            for row in &page {
                let row = rows::journal_row(row)?;
                let named = named(&row.line).map_err(|e| broken(row.sequence, &e))?;
                let Some((_, (key, digest))) = named else { continue };
                if let Some(full) = gathered.known((key, digest, row.sequence)) {
                    chunks.push(self.slots.put(full).await?);
                }
            }
            after = until;
            // An eighth of a processor at most: the agent's work comes first.
            tokio::time::sleep(7 * begun.elapsed()).await;
        }
        if let Some(rest) = gathered.rest() {
            chunks.push(self.slots.put(rest).await?);
        }
        Ok(chunks)
    }

    /// The heads that changed behind those that are there, or all; and how many chunks are all.
    async fn heads(&mut self) -> Result<(Vec<Chunk>, usize)> {
        let before = self.before.as_ref().filter(|index| !index.heads_are_due());
        let mut chunks = before.map(|index| index.heads.clone()).unwrap_or_default();
        let sql = match before {
            Some(_) => {
                "SELECT entity, version, hash, time, state FROM heads WHERE entity IN \
                 (SELECT entity FROM journal WHERE sequence > ? AND entity IS NOT NULL)"
            }
            None => "SELECT entity, version, hash, time, state FROM heads WHERE ? = 0",
        };
        let whole = before.map(|index| index.whole);
        let mut rows = sqlx::query(sql).bind(signed(before.map_or(0, |index| index.sequence))).fetch(&mut self.cache);
        let mut gathered = Gathered::default();
        while let Some(row) = rows.try_next().await.map_err(|e| failed(DOING, &e))? {
            let (entity, head) = rows::head(&row)?;
            if let Some(full) = gathered.line(&HeadLine::new(&entity, head)) {
                chunks.push(self.slots.put(full).await?);
            }
        }
        drop(rows);
        if let Some(rest) = gathered.rest() {
            chunks.push(self.slots.put(rest).await?);
        }
        let whole = whole.unwrap_or(chunks.len());
        Ok((chunks, whole))
    }

    /// The mark, and all that waits.
    async fn waits(&mut self) -> Result<Vec<Chunk>> {
        let Mark { position, published, config, .. } = self.mark;
        let (mut chunks, mut gathered) = (Vec::new(), Gathered::default());
        gathered.line(&Wait::Mark { position, published, config });
        for (sql, read) in WAITS {
            let mut rows = sqlx::query(sql).fetch(&mut self.cache);
            while let Some(row) = rows.try_next().await.map_err(|e| failed(DOING, &e))? {
                if let Some(full) = gathered.line(&read(&row)?) {
                    chunks.push(self.slots.put(full).await?);
                }
            }
        }
        if let Some(rest) = gathered.rest() {
            chunks.push(self.slots.put(rest).await?);
        }
        Ok(chunks)
    }

    /// Where those lines begin that a start needs at once: the last ones, and those with outputs to be published.
    async fn lines(&mut self) -> Result<Place> {
        let before = self.before.as_ref().map_or(Place::BEGINNING, |index| index.lines);
        let sql = "SELECT min(sequence) FROM journal WHERE emits = 1 AND sequence > ?";
        let query = sqlx::query_scalar(sql).bind(signed(self.mark.published.max(before.after)));
        let first: Option<i64> = query.fetch_one(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
        let first = first.and_then(|first| u64::try_from(first).ok()).unwrap_or(u64::MAX);
        let after = self.mark.tail.sequence.saturating_sub(LINES).min(first - 1);
        let place = self.store.0.state.lock().await.places.at(after);
        Ok(place.filter(|place| place.after >= before.after).unwrap_or(before))
    }
}

type Read = fn(&SqliteRow) -> Result<Wait>;

const WAITS: [(&str, Read); 4] = [
    (
        "SELECT stream, entity, key, digest, due, holds, cancelled, attempts, subject, payload FROM parked ORDER BY stream",
        |row| rows::parked(row).map(Wait::Parked),
    ),
    ("SELECT key, due, sequence, subject, payload FROM deferred ORDER BY key", |row| {
        rows::deferred(row).map(Wait::Deferred)
    }),
    ("SELECT key, sequence FROM dead ORDER BY sequence", |row| {
        Ok(Wait::Dead { key: rows::hash(row, 0)?, sequence: number(row, 1)? })
    }),
    ("SELECT key, count FROM attempts ORDER BY key", |row| {
        Ok(Wait::Tried { key: rows::hash(row, 0)?, count: rows::small(row, 1)? })
    }),
];

fn broken(sequence: u64, error: &NoRecord) -> StoreError {
    StoreError::Failed { doing: DOING, cause: format!("record {sequence}: {error}") }
}
