//! The cache: a SQLite file that nobody needs to keep. It remembers the last message that is in it, and each message is
//! in it whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};

use super::super::rows::{failed, hash, number, signed};
use super::super::sqlite::SqliteStore;
use super::super::sqlite::append;
use super::super::sqlite::transaction::{execute, transaction};
use super::super::{Batch, Entry, Result, StoreError};
use super::gap::{Gap, Missing};
use super::message::Change;
use super::unwritten::Append;

const DOING: &str = "write the cache";
/// Changes whenever the machine was started: what was not synced before may be damaged.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the file; one from before the machine's last start is thrown away.
pub(super) async fn open(path: &Path) -> Result<SqliteStore> {
    let broken = |e: std::io::Error| StoreError::Failed { doing: "open the cache", cause: e.to_string() };
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let boot = tokio::fs::read(BOOT).await.unwrap_or_default();
    if boot.is_empty() || tokio::fs::read(with("-boot")).await.ok().as_ref() != Some(&boot) {
        for file in [path.to_owned(), with("-wal"), with("-shm")] {
            match tokio::fs::remove_file(file).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(broken(error)),
                _ => {}
            }
        }
        tokio::fs::write(with("-boot"), &boot).await.map_err(broken)?;
    }
    let cache = SqliteStore::open_with(path, SqliteSynchronous::Off).await?;
    cache.own().await?;
    sqlx::raw_sql(TABLES).execute(&cache.writer).await.map_err(|e| failed("open the cache", &e))?;
    Ok(cache)
}

/// Which older records are not here yet, with the link of `filled` and the message that holds it; and the snapshot that can
/// be continued: stream sequence of its index, and its last record.
const TABLES: &str = "CREATE TABLE IF NOT EXISTS gap (only INTEGER PRIMARY KEY CHECK (only = 1), \
        filled INTEGER NOT NULL, link BLOB NOT NULL, stream INTEGER NOT NULL, until INTEGER NOT NULL) STRICT; \
    CREATE TABLE IF NOT EXISTS snapshot (only INTEGER PRIMARY KEY CHECK (only = 1), \
        stream INTEGER NOT NULL, sequence INTEGER NOT NULL) STRICT";

/// A connection of its own, to look at one state of it.
pub(super) async fn connect(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).pragma("temp_store", "memory");
    let connection = SqliteConnection::connect_with(&options.pragma("cache_size", "-1000")).await;
    connection.map_err(|e| failed("look into the cache", &e))
}

/// Empties it.
pub(super) async fn clear(cache: &SqliteStore) -> Result<()> {
    let sql = "BEGIN IMMEDIATE; DELETE FROM journal; DELETE FROM heads; DELETE FROM known; DELETE FROM attempts; \
        DELETE FROM by_entity; DELETE FROM parked; DELETE FROM deferred; DELETE FROM dead; DELETE FROM gap; \
        DELETE FROM snapshot; DELETE FROM mark; \
        INSERT INTO mark (only, epoch, position, published, sequence, link) VALUES (1, 0, 0, 0, 0, zeroblob(32)); COMMIT";
    sqlx::raw_sql(sql).execute(&cache.writer).await.map_err(|e| failed("empty the cache", &e))?;
    cache.forget();
    Ok(())
}

/// Stream sequence of the last message in it.
pub(super) async fn applied(cache: &SqliteStore) -> Result<u64> {
    let row = sqlx::query("SELECT applied FROM mark").fetch_one(&cache.writer).await;
    number(&row.map_err(|e| failed("read the cache", &e))?, 0)
}

/// Takes in a message, by its stream sequence. Must run to its end: a transaction that is let go of would stay open.
pub(super) async fn apply(cache: &SqliteStore, change: &Change, applied: u64) -> Result<()> {
    let query = match change {
        Change::Append(batch) => return apply_append(cache, batch, applied).await,
        Change::Claim { epoch } => sqlx::query("UPDATE mark SET epoch = ?").bind(signed(*epoch)),
        Change::Attempt { key, .. } => {
            let sql = "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1";
            sqlx::query(sql).bind(key.0.to_vec())
        }
        Change::Published { sequence, .. } => {
            sqlx::query("UPDATE mark SET published = max(published, ?)").bind(signed(*sequence))
        }
        Change::Fired { keys, .. } => append::drop_deferred(keys),
    };
    transaction(&cache.writer, DOING, async |tx: &mut SqliteConnection| {
        execute(tx, query, DOING).await?;
        set_applied(tx, applied).await
    })
    .await
}

/// Takes in one append, or several as one.
pub(super) async fn apply_append(cache: &SqliteStore, batch: &Batch, applied: u64) -> Result<()> {
    let work = async |tx: &mut SqliteConnection| {
        append::write(tx, batch).await?;
        set_applied(tx, applied).await
    };
    cache.append_behind(DOING, batch.after, &batch.entries, work).await
}

/// Takes in our own appends that follow each other.
pub(super) async fn apply_together(cache: &SqliteStore, appends: &[Arc<Append>]) -> Result<()> {
    let (Some(first), Some(last)) = (appends.first(), appends.last()) else { return Ok(()) };
    let entries = appends.iter().flat_map(|append| &append.batch.entries);
    let work = async |tx: &mut SqliteConnection| {
        append::check_fence(tx, &first.batch).await?;
        append::write_entries(tx, entries.clone()).await?;
        for append in appends {
            append::move_mark(tx, &append.batch).await?;
        }
        set_applied(tx, last.stream).await
    };
    cache.append_behind(DOING, first.batch.after, entries.clone(), work).await
}

async fn set_applied(tx: &mut SqliteConnection, applied: u64) -> Result<()> {
    let query = sqlx::query("UPDATE mark SET applied = ?").bind(signed(applied));
    query.execute(tx).await.map_err(|e| failed("write the cache", &e))?;
    Ok(())
}

pub(super) async fn missing(cache: &SqliteStore) -> Result<Option<Missing>> {
    let row = sqlx::query("SELECT filled, link, stream, until FROM gap").fetch_optional(&cache.writer).await;
    let Some(row) = row.map_err(|e| failed("read the cache", &e))? else { return Ok(None) };
    let filled = Tail { sequence: number(&row, 0)?, link: hash(&row, 1)? };
    Ok(Some(Missing { filled, stream: number(&row, 2)?, until: number(&row, 3)? }))
}

/// Puts records where they were missing.
pub(super) async fn fill(cache: &SqliteStore, entries: &[Entry], missing: Missing) -> Result<()> {
    transaction(&cache.writer, "write older records", async |tx: &mut SqliteConnection| {
        append::insert_older(tx, entries).await?;
        set_missing(tx, missing).await
    })
    .await
}

pub(super) async fn set_missing(tx: &mut SqliteConnection, missing: Missing) -> Result<()> {
    let Missing { filled, stream, until } = missing;
    let query = sqlx::query("INSERT OR REPLACE INTO gap VALUES (1, ?, ?, ?, ?)").bind(signed(filled.sequence));
    let query = query.bind(filled.link.0.to_vec()).bind(signed(stream)).bind(signed(until));
    query.execute(tx).await.map_err(|e| failed("write older records", &e))?;
    Ok(())
}

pub(super) async fn close_gap(cache: &SqliteStore) -> Result<()> {
    sqlx::query("DELETE FROM gap").execute(&cache.writer).await.map_err(|e| failed("write older records", &e))?;
    Ok(())
}

/// Stream sequence of the index that can be continued, and its last record.
pub(super) async fn snapshot(cache: &SqliteStore) -> Result<(u64, u64)> {
    let row = sqlx::query("SELECT stream, sequence FROM snapshot").fetch_optional(&cache.writer).await;
    let row = row.map_err(|e| failed("read the cache", &e))?;
    row.map_or(Ok((0, 0)), |row| Ok((number(&row, 0)?, number(&row, 1)?)))
}

pub(super) async fn set_snapshot(cache: &SqliteStore, stream: u64, sequence: u64) -> Result<()> {
    let query = sqlx::query("INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?)").bind(signed(stream));
    query.bind(signed(sequence)).execute(&cache.writer).await.map_err(|e| failed("write the cache", &e))?;
    Ok(())
}

/// Takes in the records that a snapshot needs, and with them the snapshot as true.
pub(super) async fn prove(cache: &SqliteStore, entries: &[Entry], applied: u64) -> Result<()> {
    transaction(&cache.writer, "write the cache", async |tx: &mut SqliteConnection| {
        append::insert_older(tx, entries).await?;
        set_applied(tx, applied).await
    })
    .await
}

/// The record that decided an event, when records are missing.
pub(super) async fn decided(cache: &SqliteStore, key: Hash, gap: &Gap) -> Result<Option<u64>> {
    if gap.missing().is_none() {
        return Ok(None);
    }
    Ok(cache.decided(&[key]).await?.last().map(|(.., sequence)| *sequence))
}

/// The first open dead letter behind a record that is missing.
pub(super) async fn first_dead(cache: &SqliteStore, after: u64, gap: &Gap) -> Result<Option<u64>> {
    let Some(Missing { filled, until, .. }) = gap.missing() else { return Ok(None) };
    let sql = "SELECT min(sequence) FROM dead WHERE sequence > ? AND sequence <= ?";
    let query = sqlx::query_scalar(sql).bind(signed(after.max(filled.sequence))).bind(signed(until));
    let found: Option<i64> = query.fetch_one(&cache.writer).await.map_err(|e| failed("look for dead letters", &e))?;
    Ok(found.and_then(|sequence| u64::try_from(sequence).ok()))
}
