//! The default store: one SQLite file in WAL mode, every commit synced before it is acknowledged.
//!
//! One connection writes, a few read. `mark` is the fence: each write checks the epoch in its own transaction.

mod append;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use serde_json::value::RawValue;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::{Batch, Counts, EventStore, Known, Loaded, Mark, Result, Row, StoreError};

/// SQLite allows 32,766 parameters in a statement.
const CHUNK: usize = 4_000;

#[derive(Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, or makes it, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            // A pod's root file system is read-only, so there is no place for temporary files.
            .pragma("temp_store", "memory")
            .pragma("cache_size", "-4000")
            .pragma("wal_autocheckpoint", "4000");
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
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|e| failed("open", &e))?;
        Ok(Self { writer, readers })
    }

    /// Waits for what is under way and closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn heads(&self, entities: &[String]) -> Result<Vec<(String, Head)>> {
        let mut found = Vec::with_capacity(entities.len());
        for chunk in entities.chunks(CHUNK) {
            let mut query =
                QueryBuilder::<Sqlite>::new("SELECT entity, version, hash, time, state FROM heads WHERE entity IN (");
            let mut list = query.separated(",");
            for entity in chunk {
                list.push_bind(entity);
            }
            query.push(")");
            let rows = query.build().fetch_all(&self.readers).await.map_err(|e| failed("load", &e))?;
            for row in &rows {
                found.push(head(row)?);
            }
        }
        Ok(found)
    }

    async fn hashes<T>(
        &self,
        select: &'static str,
        keys: &[Hash],
        read: impl Fn(&SqliteRow) -> Result<T>,
    ) -> Result<Vec<(Hash, T)>> {
        let mut found = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut query = QueryBuilder::<Sqlite>::new(select);
            let mut list = query.separated(",");
            for key in chunk {
                list.push_bind(&key.0[..]);
            }
            query.push(")");
            let rows = query.build().fetch_all(&self.readers).await.map_err(|e| failed("load", &e))?;
            for row in &rows {
                found.push((hash(row, 0)?, read(row)?));
            }
        }
        Ok(found)
    }
}

impl EventStore for SqliteStore {
    async fn claim(&self) -> Result<Mark> {
        // One statement: between two, somebody else's claim would give both the same epoch.
        let sql = "UPDATE mark SET epoch = epoch + 1 RETURNING epoch, position, published, sequence, link, config";
        mark(&sqlx::query(sql).fetch_one(&self.writer).await.map_err(|e| failed("claim", &e))?)
    }

    async fn mark(&self) -> Result<Mark> {
        let sql = "SELECT epoch, position, published, sequence, link, config FROM mark";
        mark(&sqlx::query(sql).fetch_one(&self.writer).await.map_err(|e| failed("read the mark", &e))?)
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        let mut heads: std::collections::HashMap<String, Head> = self.heads(&entities).await?.into_iter().collect();
        let settled = self
            .hashes("SELECT key, digest FROM known WHERE key IN (", &keys, |row| Ok(Known::Settled(hash(row, 1)?)))
            .await?;
        let tried = self
            .hashes("SELECT key, count FROM attempts WHERE key IN (", &keys, |row| {
                Ok(Known::Tried(u32::try_from(number(row, 1)?).unwrap_or(u32::MAX)))
            })
            .await?;
        let known: std::collections::HashMap<Hash, Known> = tried.into_iter().chain(settled).collect();
        Ok(Loaded {
            heads: entities.iter().map(|entity| heads.remove(entity)).collect(),
            known: keys.iter().map(|key| known.get(key).copied()).collect(),
        })
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        append::append(&self.writer, batch).await
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
            Some(row) => Ok(u32::try_from(number(&row, 0)?).unwrap_or(u32::MAX)),
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
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::Fenced { ours: epoch, found: self.mark().await?.epoch })
        }
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        let rows = sqlx::query(
            "SELECT sequence, line FROM journal WHERE emits = 1 AND sequence > ? ORDER BY sequence LIMIT ?",
        )
        .bind(signed(after))
        .bind(signed(limit as u64))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| failed("read the outbox", &e))?;
        rows.iter().map(journal_row).collect()
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let query = sqlx::query("SELECT sequence, line FROM journal WHERE sequence > ? ORDER BY sequence LIMIT 1000")
            .bind(signed(after));
        let rows = query.fetch_all(&self.readers).await.map_err(|e| failed("read the journal", &e))?;
        first_bytes(&rows, limit_bytes)
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let sql = "SELECT sequence, line FROM journal WHERE entity = ? AND sequence > ? ORDER BY sequence LIMIT 1000";
        let query = sqlx::query(sql).bind(entity).bind(signed(after));
        let rows = query.fetch_all(&self.readers).await.map_err(|e| failed("read a history", &e))?;
        first_bytes(&rows, limit_bytes)
    }

    async fn entities(&self, after: String, limit: usize) -> Result<Vec<(String, Head)>> {
        let rows = sqlx::query(
            "SELECT entity, version, hash, time, state FROM heads WHERE entity > ? ORDER BY entity LIMIT ?",
        )
        .bind(after)
        .bind(signed(limit as u64))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| failed("read entities", &e))?;
        rows.iter().map(head).collect()
    }

    async fn counts(&self) -> Result<Counts> {
        let row = sqlx::query("SELECT (SELECT sequence FROM mark), (SELECT count(*) FROM heads)")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| failed("count", &e))?;
        Ok(Counts { records: number(&row, 0)?, entities: number(&row, 1)? })
    }
}

/// At least one row, and then as many as fit.
fn first_bytes(rows: &[SqliteRow], limit_bytes: usize) -> Result<Vec<Row>> {
    let mut bytes = 0;
    let mut out = Vec::new();
    for row in rows {
        let row = journal_row(row)?;
        bytes += row.line.len();
        if !out.is_empty() && bytes > limit_bytes {
            break;
        }
        out.push(row);
    }
    Ok(out)
}

fn mark(row: &SqliteRow) -> Result<Mark> {
    let config: Option<Vec<u8>> = row.try_get(5).map_err(|e| failed("read the mark", &e))?;
    Ok(Mark {
        epoch: number(row, 0)?,
        position: number(row, 1)?,
        published: number(row, 2)?,
        tail: Tail { sequence: number(row, 3)?, link: hash(row, 4)? },
        config: config.and_then(|bytes| Hash::from_slice(&bytes)),
    })
}

fn journal_row(row: &SqliteRow) -> Result<Row> {
    let line: Vec<u8> = row.try_get(1).map_err(|e| failed("read the journal", &e))?;
    Ok(Row { sequence: number(row, 0)?, line: Bytes::from(line) })
}

fn head(row: &SqliteRow) -> Result<(String, Head)> {
    let broken = |e: &sqlx::Error| failed("read an entity", e);
    let entity: String = row.try_get(0).map_err(|e| broken(&e))?;
    let time: Option<String> = row.try_get(3).map_err(|e| broken(&e))?;
    let state: Option<String> = row.try_get(4).map_err(|e| broken(&e))?;
    let unreadable = |cause: String| StoreError::Failed { doing: "read an entity", cause };
    let head = Head {
        version: number(row, 1)?,
        hash: hash(row, 2)?,
        time: time.map(|text| text.parse()).transpose().map_err(|e| unreadable(format!("time: {e}")))?,
        state: state.map(RawValue::from_string).transpose().map_err(|e| unreadable(format!("state: {e}")))?,
    };
    Ok((entity, head))
}

fn number(row: &SqliteRow, column: usize) -> Result<u64> {
    let value: i64 = row.try_get(column).map_err(|e| failed("read a number", &e))?;
    u64::try_from(value)
        .map_err(|_| StoreError::Failed { doing: "read a number", cause: format!("{value} is negative") })
}

fn hash(row: &SqliteRow, column: usize) -> Result<Hash> {
    let value: Vec<u8> = row.try_get(column).map_err(|e| failed("read a hash", &e))?;
    Hash::from_slice(&value)
        .ok_or_else(|| StoreError::Failed { doing: "read a hash", cause: "it is not 32 bytes".into() })
}

/// SQLite's integers are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn failed(doing: &'static str, error: &sqlx::Error) -> StoreError {
    const SQLITE_FULL: &str = "13";
    match error.as_database_error() {
        Some(database) if database.code().as_deref() == Some(SQLITE_FULL) => {
            StoreError::Full(database.message().to_owned())
        }
        _ => StoreError::Failed { doing, cause: error.to_string() },
    }
}
