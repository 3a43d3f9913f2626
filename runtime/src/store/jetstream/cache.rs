//! The cache: a SQLite file that nobody needs to keep. It remembers the last message that is in it, and each message is
//! in it whole or not at all.

use std::path::{Path, PathBuf};

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqliteSynchronous};

use super::super::rows::{failed, number, signed};
use super::super::sqlite::{SqliteStore, append};
use super::super::{Result, StoreError};
use super::message::Change;

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
    SqliteStore::open_with(path, SqliteSynchronous::Off).await
}

/// Stream sequence of the last message in it.
pub(super) async fn applied(cache: &SqliteStore) -> Result<u64> {
    let row = sqlx::query("SELECT applied FROM mark").fetch_one(&cache.writer).await;
    number(&row.map_err(|e| failed("read the cache", &e))?, 0)
}

/// Takes in a message, by its stream sequence. Must run to its end: a transaction that is let go of would stay open.
pub(super) async fn apply(cache: &SqliteStore, change: &Change, applied: u64) -> Result<()> {
    let broken = |e: sqlx::Error| failed("write the cache", &e);
    let mut connection = cache.writer.acquire().await.map_err(broken)?;
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(broken)?;
    write(&mut tx, change).await?;
    sqlx::query("UPDATE mark SET applied = ?").bind(signed(applied)).execute(&mut *tx).await.map_err(broken)?;
    tx.commit().await.map_err(broken)
}

async fn write(tx: &mut SqliteConnection, change: &Change) -> Result<()> {
    let query = match change {
        Change::Append(batch) => return append::write(tx, batch).await,
        Change::Fired { keys, .. } => return append::drop_deferred(tx, keys).await,
        Change::Claim { epoch } => sqlx::query("UPDATE mark SET epoch = ?").bind(signed(*epoch)),
        Change::Attempt { key, .. } => {
            let sql = "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1";
            sqlx::query(sql).bind(key.0.to_vec())
        }
        Change::Published { sequence, .. } => {
            sqlx::query("UPDATE mark SET published = max(published, ?)").bind(signed(*sequence))
        }
    };
    query.execute(tx).await.map_err(|e| failed("write the cache", &e))?;
    Ok(())
}
