//! The default store: one SQLite file in WAL mode, every commit synced before it is acknowledged.
//!
//! One connection writes, a few read. `mark` is the fence: each write checks the epoch in its own transaction. Lists go
//! to SQLite as one argument, packed or as JSON, so that a statement is the same, and prepared once, for every batch.

pub(super) mod append;
mod filter;
mod indexes;
pub(super) mod journal;
mod load;
mod sweep;
pub(super) mod transaction;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::{Decided, Line, Part};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row as _, Sqlite};

use super::rows::{self, Fields, deferred, failed, head, mark, number, parked, signed, small};
use super::{Batch, Counts, Due, EventStore, Fate, Loaded, Mark, Result, Row, StoreError};
use indexes::Indexes;
pub(super) use indexes::named;
pub(super) use sweep::KnownId;
use transaction::Query;

/// The packed hashes of `?1`, of which there are `?2`, as rows.
macro_rules! packed {
    ($rest:literal) => {
        concat!(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2), \
             keys (key) AS (SELECT substr(?1, i * 32 + 1, 32) FROM n) ",
            $rest
        )
    };
}
use packed;

/// Records that one read brings at most.
const PAGE: usize = 1_000;

#[derive(Clone)]
pub struct SqliteStore {
    pub(super) writer: SqlitePool,
    readers: SqlitePool,
    indexes: Arc<Indexes>,
}

impl SqliteStore {
    /// Opens the file, or makes it, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, SqliteSynchronous::Full).await
    }

    /// Of two processes that make the file at the same moment one is refused; when it looks again the file is made.
    pub(super) async fn open_with(path: &Path, synchronous: SqliteSynchronous) -> Result<Self> {
        if let Ok(store) = Self::make(path, synchronous).await {
            return Ok(store);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Self::make(path, synchronous).await
    }

    async fn make(path: &Path, synchronous: SqliteSynchronous) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(Duration::from_secs(10))
            // A pod's root file system is read-only, so there is no place for temporary files.
            .pragma("temp_store", "memory")
            .pragma("cache_size", "-4000")
            .pragma("wal_autocheckpoint", "16000");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(|e| failed("open", &e))?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|e| StoreError::Failed { doing: "migrate", cause: e.to_string() })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .min_connections(1)
            // Each append empties a reader's cache, so it need not be large.
            .connect_with(options.pragma("cache_size", "-1000").read_only(true).create_if_missing(false))
            .await
            .map_err(|e| failed("open", &e))?;
        Ok(Self { writer, readers, indexes: Arc::default() })
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>> {
        self.readers.acquire().await.map_err(|e| failed("connect", &e))
    }

    async fn sequences(&self, query: Query, doing: &'static str) -> Result<Vec<u64>> {
        let rows = query.fetch_all(&self.readers).await.map_err(|e| failed(doing, &e))?;
        rows.iter().map(|row| number(row, 0)).collect()
    }

    async fn unless_fenced(&self, epoch: u64, changed: u64) -> Result<()> {
        if changed == 1 { Ok(()) } else { Err(StoreError::Fenced { ours: epoch, found: self.mark().await?.epoch }) }
    }
}

impl EventStore for SqliteStore {
    async fn claim(&self) -> Result<Mark> {
        // One statement: between two, somebody else's claim would give both the same epoch.
        let sql = "UPDATE mark SET epoch = epoch + 1 RETURNING epoch, position, published, sequence, link, config";
        let claimed = mark(&sqlx::query(sql).fetch_one(&self.writer).await.map_err(|e| failed("claim", &e))?)?;
        self.own().await?;
        Ok(claimed)
    }

    async fn mark(&self) -> Result<Mark> {
        let sql = "SELECT epoch, position, published, sequence, link, config FROM mark";
        mark(&sqlx::query(sql).fetch_one(&self.writer).await.map_err(|e| failed("read the mark", &e))?)
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        let heads = self.heads(&entities).await?;
        let known = self.known(&keys).await?.into_iter();
        Ok(rows::loaded(&entities, &keys, heads, known))
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        append::append(self.clone(), batch).await
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        let sql = "INSERT INTO attempts SELECT ?, 1 FROM mark WHERE epoch = ? \
                   ON CONFLICT (key) DO UPDATE SET count = count + 1 RETURNING count";
        let row = sqlx::query(sql)
            .bind(&key.0[..])
            .bind(signed(epoch))
            .fetch_optional(&self.writer)
            .await
            .map_err(|e| failed("count an attempt", &e))?;
        match row {
            Some(row) => small(&row, 0),
            None => Err(StoreError::Fenced { ours: epoch, found: self.mark().await?.epoch }),
        }
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        let done = sqlx::query("UPDATE mark SET published = max(published, ?) WHERE epoch = ?")
            .bind(signed(sequence))
            .bind(signed(epoch))
            .execute(&self.writer)
            .await
            .map_err(|e| failed("mark as published", &e))?;
        self.unless_fenced(epoch, done.rows_affected()).await
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        let (mut reader, mut after, mut found) = (self.reader().await?, after, Vec::new());
        loop {
            let page = journal::behind(&mut reader, after, limit, usize::MAX).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.sequence;
            found.extend(page.into_iter().filter(|row| emits(&row.line)));
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        journal::behind(&mut *self.reader().await?, after, PAGE, limit_bytes).await
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let (swept, fresh) = self.fresh_of_entity(&entity, after, PAGE).await?;
        let sql = "SELECT sequence FROM by_entity WHERE entity = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?";
        let query = sqlx::query(sql).bind(entity).bind(signed(after)).bind(signed(swept)).bind(signed(PAGE as u64));
        let mut sequences = self.sequences(query, "read a history").await?;
        sequences.extend(fresh);
        sequences.truncate(PAGE);
        journal::of(&mut *self.reader().await?, &sequences, limit_bytes).await
    }

    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        let rows = sqlx::query(
            "WITH page AS (SELECT entity, ifnull(octet_length(state), 0) AS size FROM heads \
                           WHERE entity > ? ORDER BY entity LIMIT ?), \
                  fits AS (SELECT entity, sum(size) OVER (ORDER BY entity) - size AS before FROM page) \
             SELECT entity, version, hash, time, state FROM fits JOIN heads USING (entity) \
             WHERE before < ? ORDER BY entity",
        )
        .bind(after)
        .bind(signed(limit as u64))
        .bind(signed(limit_bytes as u64))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| failed("read entities", &e))?;
        rows.iter().map(head).collect()
    }

    async fn counts(&self) -> Result<Counts> {
        let row = sqlx::query(rows::counts_sql!("holds = 1"))
            .fetch_one(&self.readers)
            .await
            .map_err(|e| failed("count", &e))?;
        rows::counts(&row)
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        let look = async |sql: &'static str| {
            let query = sqlx::query(sql).bind(&key.0[..]);
            query.fetch_optional(&self.readers).await.map_err(|e| failed("look for an event", &e))
        };
        if let Some((.., sequence)) = self.decided(&[key]).await?.last() {
            let rows = journal::of(&mut *self.reader().await?, &[*sequence], usize::MAX).await?;
            return Ok(rows.into_iter().next().map(Fate::Decided));
        }
        if let Some(row) = look("SELECT entity, due, attempts FROM parked WHERE key = ?").await? {
            return rows::parked_fate(&row).map(Some);
        }
        let row = look("SELECT due, sequence FROM deferred WHERE key = ?").await?;
        row.as_ref().map(rows::deferred_fate).transpose()
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let query = sqlx::query("SELECT sequence FROM dead WHERE sequence > ? ORDER BY sequence LIMIT ?");
        let query = query.bind(signed(after)).bind(signed(PAGE as u64));
        let sequences = self.sequences(query, "look for dead letters").await?;
        journal::of(&mut *self.reader().await?, &sequences, limit_bytes).await
    }

    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        let look = async |sql: &'static str| {
            let query = sqlx::query(sql).bind(now_ms).bind(signed(limit as u64)).bind(signed(limit_bytes as u64));
            query.fetch_all(&self.readers).await.map_err(|e| failed("look for what is due", &e))
        };
        let events = "WITH page AS (SELECT stream, octet_length(payload) AS size FROM parked p \
                          WHERE due <= ?1 AND NOT EXISTS (SELECT 1 FROM parked q WHERE q.entity = p.entity \
                              AND q.holds = 1 AND p.holds = 1 AND q.stream < p.stream AND ifnull(q.due > ?1, true)) \
                          ORDER BY stream LIMIT ?2), \
                      fits AS (SELECT stream, sum(size) OVER (ORDER BY stream) - size AS before FROM page) \
                      SELECT stream, entity, key, digest, due, holds, cancelled, attempts, subject, payload \
                      FROM fits JOIN parked USING (stream) WHERE before < ?3 ORDER BY stream";
        let outputs = "WITH page AS (SELECT key, due, sequence, octet_length(payload) AS size FROM deferred \
                           WHERE due <= ?1 ORDER BY due, sequence, key LIMIT ?2), \
                       fits AS (SELECT key, sum(size) OVER (ORDER BY due, sequence, key) - size AS before FROM page) \
                       SELECT key, due, sequence, subject, payload FROM fits JOIN deferred USING (key) \
                       WHERE before < ?3 ORDER BY due, sequence, key";
        Ok(Due {
            parked: look(events).await?.iter().map(parked).collect::<Result<_>>()?,
            deferred: look(outputs).await?.iter().map(deferred).collect::<Result<_>>()?,
        })
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        let sql = "SELECT min(due) FROM (SELECT min(due) AS due FROM parked WHERE due > ?1 \
                   UNION ALL SELECT min(due) FROM deferred WHERE due > ?1)";
        let row = sqlx::query(sql)
            .bind(after_ms)
            .fetch_one(&self.readers)
            .await
            .map_err(|e| failed("look for what is due", &e))?;
        rows::time_ms(&row, 0)
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        append::fired(&self.writer, epoch, keys).await
    }

    async fn close(&self) {
        self.indexes.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Fields for SqliteRow {
    fn integer(&self, column: usize) -> sqlx::Result<Option<i64>> {
        self.try_get(column)
    }

    fn bytes(&self, column: usize) -> sqlx::Result<Option<Vec<u8>>> {
        self.try_get(column)
    }

    fn text(&self, column: usize) -> sqlx::Result<Option<String>> {
        self.try_get(column)
    }
}

/// Whether something must be published for a record.
fn emits(line: &[u8]) -> bool {
    let decided = Line::parse(line).map(|line| line.part);
    // What can't be read is told to who publishes it.
    matches!(decided, Ok(Part::Decided(bytes)) if Decided::parse(bytes).is_ok_and(|decided| decided.emits()))
        || decided.is_err()
}
