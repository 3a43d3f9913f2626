//! Taking a snapshot: what changed since the last one becomes chunks, and then an index names them.
//!
//! ```text
//! records behind the last snapshot ─▶ from memory; where it does not reach back, from the lines, page by page
//! heads and waits                  ─▶ from one state of the cache, through a connection of its own
//! ```
//!
//! Appends go on meanwhile. As long as a state of the cache is held its write-ahead log can only grow, so lines, which never
//! change, are read before.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::TryStreamExt as _;
use rhizon_kernel::record::Line;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::super::rows::{self, failed, number};
use super::super::super::sqlite::{KnownId, journal, named};
use super::super::super::{Mark, Result, StoreError};
use super::super::{JetStreamStore, cache};
use super::contents::{Gathered, HeadLine, Wait};
use super::slots::{self, Slots};
use super::{Chunk, Index, LINES, Place};

const DOING: &str = "take a snapshot";
/// Records that are looked at together.
const PAGE: usize = 500;

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
    epoch: u64,
    /// Stream sequence of the index that is there, 0 for none, and what it says, if it can be continued.
    last: u64,
    before: Option<Index>,
    known: Chunks,
    /// Those that changed behind the index before.
    entities: BTreeSet<String>,
    /// The last record whose id and entity are here.
    until: u64,
}

/// Chunks that are put already, and what is to be the next.
#[derive(Default)]
struct Chunks {
    put: Vec<Chunk>,
    gathered: Gathered,
}

impl<'a> Taking<'a> {
    async fn begin(store: &'a JetStreamStore) -> Result<Self> {
        let found = store.0.snapshots.shelf.get("index").await?;
        let last = found.as_ref().map_or(0, |found| found.stream);
        let index = found.and_then(|found| serde_json::from_slice::<Index>(&found.payload).ok());
        let cache = cache::connect(&store.0.snapshots.cache).await?;
        let (epoch, known) = (store.0.claimed.load(Ordering::Relaxed), Chunks::default());
        let slots = Slots::new(store, epoch, index.as_ref());
        let mut taking =
            Self { store, cache, slots, epoch, last, before: None, known, entities: BTreeSet::new(), until: 0 };
        let (_, applied) = taking.mark().await?;
        match index {
            Some(index) if taking.continues(&index, applied).await? => {
                (taking.known.put, taking.until) = (index.known.clone(), index.sequence);
                taking.before = Some(index);
            }
            // Then it has all from the beginning on, which must be here.
            _ => store.0.gap.check_behind(0)?,
        }
        Ok(taking)
    }

    /// Where the cache stands, if this is still the owner.
    async fn mark(&mut self) -> Result<(Mark, u64)> {
        let sql = "SELECT epoch, position, published, sequence, link, config, applied FROM mark";
        let row = sqlx::query(sql).fetch_one(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
        let (mark, applied) = (rows::mark(&row)?, number(&row, 6)?);
        if mark.epoch == self.epoch {
            Ok((mark, applied))
        } else {
            Err(StoreError::Fenced { ours: self.epoch, found: mark.epoch })
        }
    }

    /// Whether a snapshot is one of what the cache holds, as it was earlier.
    async fn continues(&mut self, index: &Index, applied: u64) -> Result<bool> {
        let rows = journal::of(&mut self.cache, &[index.sequence], usize::MAX).await?;
        let found = rows.first().and_then(|row| Some(Line::parse(&row.line).ok()?.link));
        let is_trusted = self.last == self.store.0.snapshots.trusted.load(Ordering::Relaxed);
        Ok(is_trusted && index.stream <= applied && found == Some(index.link))
    }

    async fn run(mut self) -> Result<Taken> {
        let (mark, applied) = self.hold_state().await?;
        let (heads, whole) = self.heads().await?;
        let waits = self.waits(&mark).await?;
        let lines = self.lines(&mark).await;
        self.let_go().await?;
        let known = self.slots.rest(std::mem::take(&mut self.known)).await?;
        let (sequence, link, epoch) = (mark.tail.sequence, mark.tail.link, self.epoch);
        let index = Index { stream: applied, sequence, link, epoch, lines, known, heads, whole, waits };
        let payload = serde_json::to_vec(&index).expect("keys are strings").into();
        self.slots.check_owner().await?;
        match self.store.0.snapshots.shelf.put("index", self.last, payload).await? {
            Some(stream) => Ok(Taken { stream, sequence, lines }),
            None => Err(slots::overtaken()),
        }
    }

    /// A state of the cache, with ids and entities of all records up to its end.
    async fn hold_state(&mut self) -> Result<(Mark, u64)> {
        loop {
            self.read_lines().await?;
            sqlx::query("BEGIN").execute(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
            let (mark, applied) = self.mark().await?;
            let Self { known, entities, .. } = self;
            let mut full = Vec::new();
            let are_here = self.store.0.cache.between(
                (self.until, mark.tail.sequence),
                |row| full.extend(known.gathered.known(row)),
                |entity| _ = entities.insert(entity.to_owned()),
            );
            if are_here {
                for chunk in full {
                    self.known.put.push(self.slots.put(chunk).await?);
                }
                return Ok((mark, applied));
            }
            self.let_go().await?;
        }
    }

    async fn let_go(&mut self) -> Result<()> {
        sqlx::query("COMMIT").execute(&mut self.cache).await.map_err(|e| failed(DOING, &e))?;
        Ok(())
    }

    /// Ids and entities of the records that are not in memory any more.
    async fn read_lines(&mut self) -> Result<()> {
        while !self.store.0.cache.between((self.until, self.until), |_| {}, |_| {}) {
            let begun = Instant::now();
            let page = journal::behind(&mut self.cache, self.until, PAGE, usize::MAX).await?;
            if page.first().is_none_or(|row| row.sequence != self.until + 1) {
                let cause = format!("records behind {} are missing", self.until);
                return Err(StoreError::Failed { doing: DOING, cause });
            }
            for row in page {
                self.until = row.sequence;
                let cause =
                    |error| StoreError::Failed { doing: DOING, cause: format!("record {}: {error}", row.sequence) };
                let Some((entity, (key, digest))) = named(&row.line).map_err(cause)? else { continue };
                self.entities.insert(entity);
                self.slots.known(&mut self.known, (key, digest, row.sequence)).await?;
            }
            // An eighth of a processor at most: the agent's work comes first.
            tokio::time::sleep(7 * begun.elapsed()).await;
        }
        Ok(())
    }

    /// The heads that changed behind those that are there, or all; and how many chunks are all.
    async fn heads(&mut self) -> Result<(Vec<Chunk>, usize)> {
        let before = self.before.as_ref().filter(|index| !index.heads_are_due());
        let mut chunks = before.map(|index| index.heads.clone()).unwrap_or_default();
        let sql = match before {
            Some(_) => {
                "SELECT entity, version, hash, time, state FROM heads WHERE entity IN (SELECT value FROM json_each(?))"
            }
            None => "SELECT entity, version, hash, time, state FROM heads WHERE ? IS NOT NULL",
        };
        let whole = before.map(|index| index.whole);
        let list = serde_json::to_string(&self.entities).unwrap_or_default();
        let mut rows = sqlx::query(sql).bind(list).fetch(&mut self.cache);
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
    async fn waits(&mut self, mark: &Mark) -> Result<Vec<Chunk>> {
        let Mark { position, published, config, .. } = *mark;
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

    /// Where those lines begin that a start needs at once: the last ones, and those whose outputs may not be published.
    async fn lines(&self, mark: &Mark) -> Place {
        let before = self.before.as_ref().map_or(Place::BEGINNING, |index| index.lines);
        let after = mark.tail.sequence.saturating_sub(LINES).min(mark.published);
        let place = self.store.0.state.lock().await.places.at(after);
        place.filter(|place| place.after >= before.after).unwrap_or(before)
    }
}

impl Slots<'_> {
    async fn known(&mut self, chunks: &mut Chunks, row: KnownId) -> Result<()> {
        if let Some(full) = chunks.gathered.known(row) {
            chunks.put.push(self.put(full).await?);
        }
        Ok(())
    }

    async fn rest(&mut self, chunks: Chunks) -> Result<Vec<Chunk>> {
        let Chunks { mut put, gathered } = chunks;
        if let Some(rest) = gathered.rest() {
            put.push(self.put(rest).await?);
        }
        Ok(put)
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
