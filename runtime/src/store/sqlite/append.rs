//! The writes: records, heads, ids, what waits, position and fence in one transaction.

use std::sync::LazyLock;

use rhizon_kernel::chain::Hash;
use sqlx::sqlite::SqlitePool;

use super::super::{Batch, Decision, Deferred, Entry, Parked, RELEASED_TOGETHER, Result, StoreError, Waits};
use super::sweep::{KnownId, Stretch};
use super::transaction::{Entries, Query, Tx, execute, json, transaction, with_keys};
use super::{SqliteStore, failed, journal, number, packed, signed};
use crate::failpoint::{self, Step};

/// Runs to its end also when nobody waits for it any more: a transaction that is let go of half-way would leave its
/// connection in one.
pub(super) async fn append(store: SqliteStore, batch: Batch) -> Result<()> {
    let task = tokio::spawn(async move {
        store.refuse_decided(&batch).await?;
        let append = async |tx: &mut Tx| {
            write(tx, &batch).await?;
            failpoint::reached(Step::Written);
            Ok(())
        };
        store.append_behind("append", batch.after, &batch.entries, append).await
    });
    task.await.map_err(|e| StoreError::Failed { doing: "append", cause: e.to_string() })?
}

/// All that a batch changes, within a transaction.
pub(in super::super) async fn write(tx: &mut Tx, batch: &Batch) -> Result<()> {
    check_fence(tx, batch).await?;
    write_entries(tx, &batch.entries).await?;
    if !batch.waits.is_empty() {
        change_waits(tx, &batch.waits).await?;
    }
    move_mark(tx, batch).await
}

/// Records that follow each other, and what they decide. Often there are none: only the position moves, or what waits.
pub(in super::super) async fn write_entries(tx: &mut Tx, entries: impl Entries<'_>) -> Result<()> {
    if entries.clone().into_iter().next().is_none() {
        return Ok(());
    }
    journal::insert(tx, entries.clone()).await?;
    upsert_heads(tx, entries.clone()).await?;
    settle(tx, entries).await
}

pub(in super::super) async fn check_fence(tx: &mut Tx, batch: &Batch) -> Result<()> {
    let row = sqlx::query("SELECT epoch, sequence FROM mark")
        .fetch_one(tx)
        .await
        .map_err(|e| failed("check the fence", &e))?;
    let (epoch, sequence) = (number(&row, 0)?, number(&row, 1)?);
    if epoch != batch.epoch {
        return Err(StoreError::Fenced { ours: batch.epoch, found: epoch });
    }
    if sequence != batch.after {
        return Err(StoreError::Conflict { expected: batch.after, found: sequence });
    }
    Ok(())
}

/// Of an entity with several decisions in the batch only the last head is written.
pub(in super::super) async fn upsert_heads(tx: &mut Tx, entries: impl Entries<'_>) -> Result<()> {
    let sql = "INSERT INTO heads SELECT value ->> 0, value ->> 1, substr(?1, key * 32 + 1, 32), value ->> 2, value ->> 3 \
               FROM json_each(?2) WHERE true \
               ON CONFLICT (entity) DO UPDATE SET version = excluded.version, hash = excluded.hash, \
                                                  time = excluded.time, state = excluded.state";
    let decisions = entries.into_iter().filter_map(|entry| entry.decision.as_ref());
    let last: std::collections::BTreeMap<&str, &Decision> = decisions.map(|d| (d.entity.as_str(), d)).collect();
    let mut hashes = Vec::with_capacity(last.len() * 32);
    let heads: Vec<_> = last
        .values()
        .map(|Decision { entity, head, .. }| {
            hashes.extend_from_slice(&head.hash.0);
            let state = head.state.as_ref().map(|state| state.get());
            (entity, head.version, head.time, state)
        })
        .collect();
    execute(tx, sqlx::query(sql).bind(hashes).bind(json(&heads)), "write heads").await
}

/// What is decided is tried no more; what died is open.
async fn settle(tx: &mut Tx, entries: impl Entries<'_>) -> Result<()> {
    let (mut keys, mut dead) = (Vec::new(), Vec::new());
    for entry in entries {
        let Some(Decision { identity: Some((key, _)), dead: is_dead, .. }) = entry.decision.as_ref() else { continue };
        keys.push(*key);
        if *is_dead {
            dead.push((*key, entry.sequence));
        }
    }
    let tried = sqlx::query("SELECT 1 FROM attempts LIMIT 1").fetch_optional(&mut *tx).await;
    if tried.map_err(|e| failed("look for attempts", &e))?.is_some() {
        let sql = packed!("DELETE FROM attempts WHERE key IN (SELECT key FROM keys)");
        execute(tx, with_keys(sql, &keys), "clear attempts").await?;
    }
    for (key, sequence) in dead {
        let query = sqlx::query("INSERT INTO dead VALUES (?, ?)").bind(key.0.to_vec()).bind(signed(sequence));
        execute(tx, query, "write dead letters").await?;
    }
    Ok(())
}

/// What older records bring to the indexes.
pub(super) async fn move_stretch(tx: &mut Tx, stretch: &Stretch) -> Result<()> {
    if stretch.is_empty() {
        return Ok(());
    }
    insert_known(tx, stretch.known.clone()).await?;
    insert_entities(tx, &stretch.entities).await?;
    if let Some(swept) = stretch.swept {
        execute(tx, sqlx::query("UPDATE mark SET swept = max(swept, ?)").bind(signed(swept)), "move the mark").await?;
    }
    Ok(())
}

/// Rows of one statement. It calls no function and ignores what is there, so that it cannot fail half-way and SQLite keeps no
/// copies of the pages that it changes. Rows that are not bound are NULL, and ignored as well.
const ROWS: usize = 128;
static KNOWN: LazyLock<String> = LazyLock::new(|| insert_rows("known", "(?, ?, ?)"));
static BY_ENTITY: LazyLock<String> = LazyLock::new(|| insert_rows("by_entity", "(?, ?)"));

fn insert_rows(table: &str, row: &str) -> String {
    format!("INSERT OR IGNORE INTO {table} VALUES {}", vec![row; ROWS].join(", "))
}

/// In the order of the keys, which is the order of the table. Of one identity the first record counts.
pub(in super::super) async fn insert_known(tx: &mut Tx, mut known: Vec<KnownId>) -> Result<()> {
    known.sort_unstable_by_key(|(key, _, sequence)| (*key, *sequence));
    for rows in known.chunks(ROWS) {
        let bind = |query: Query, (key, digest, sequence): &KnownId| {
            query.bind(key.0.as_slice()).bind(digest.0.as_slice()).bind(signed(*sequence))
        };
        execute(tx, rows.iter().fold(sqlx::query(KNOWN.as_str()), bind), "write known ids").await?;
    }
    Ok(())
}

/// Entities and their records.
async fn insert_entities(tx: &mut Tx, entities: &[(String, Vec<u64>)]) -> Result<()> {
    let rows = entities.iter().flat_map(|(entity, records)| records.iter().map(move |record| (entity, record)));
    let rows: Vec<_> = rows.collect();
    for rows in rows.chunks(ROWS) {
        let bind =
            |query: Query, (entity, record): &(&String, &u64)| query.bind(entity.as_str()).bind(signed(**record));
        execute(tx, rows.iter().fold(sqlx::query(BY_ENTITY.as_str()), bind), "write records of entities").await?;
    }
    Ok(())
}

/// Records from before those that are there, with their entities at once.
pub(in super::super) async fn insert_older(tx: &mut Tx, entries: &[Entry]) -> Result<()> {
    journal::insert(tx, entries).await?;
    let of_entry = |entry: &Entry| Some((entry.decision.as_ref()?.entity.clone(), vec![entry.sequence]));
    let mut entities: Vec<_> = entries.iter().filter_map(of_entry).collect();
    entities.sort_unstable();
    insert_entities(tx, &entities).await
}

pub(in super::super) async fn change_waits(tx: &mut Tx, waits: &Waits) -> Result<()> {
    let Waits { park, unpark, defer, cancel, resolve } = waits;
    for parked in park {
        execute(tx, with_parked(PARK, parked), "park an event").await?;
    }
    for stream in unpark {
        release(tx, *stream).await?;
    }
    for deferred in defer {
        let sql = "INSERT OR REPLACE INTO deferred VALUES (?, ?, ?, ?, ?)";
        execute(tx, with_deferred(sql, deferred), "defer an output").await?;
    }
    if !cancel.is_empty() {
        let sql = packed!("DELETE FROM deferred WHERE key IN (SELECT key FROM keys)");
        execute(tx, with_keys(sql, cancel), "take back an output").await?;
        let sql = packed!("UPDATE parked SET due = 0, cancelled = 1 WHERE holds = 0 AND key IN (SELECT key FROM keys)");
        execute(tx, with_keys(sql, cancel), "take back a timer").await?;
    }
    if !resolve.is_empty() {
        let sql = packed!("DELETE FROM dead WHERE key IN (SELECT key FROM keys)");
        execute(tx, with_keys(sql, resolve), "close a dead letter").await?;
    }
    Ok(())
}

/// A statement with the columns of `parked` as its arguments.
pub(in super::super) fn with_parked(sql: &'static str, parked: &Parked) -> Query {
    let Parked { stream, entity, key, digest, due_ms, holds, cancelled, attempts, subject, payload } = parked;
    let query = sqlx::query(sql).bind(signed(*stream));
    let query = query.bind(entity.clone()).bind(key.0.to_vec()).bind(digest.0.to_vec()).bind(*due_ms).bind(*holds);
    query.bind(*cancelled).bind(i64::from(*attempts)).bind(subject.clone()).bind(payload.to_vec())
}

/// And one with those of `deferred`.
pub(in super::super) fn with_deferred(sql: &'static str, deferred: &Deferred) -> Query {
    let Deferred { key, due_ms, sequence, subject, payload } = deferred;
    let query = sqlx::query(sql).bind(key.0.to_vec()).bind(*due_ms).bind(signed(*sequence));
    query.bind(subject.clone()).bind(payload.to_vec())
}

const PARK: &str = "INSERT OR REPLACE INTO parked SELECT ?1, ?2, ?3, ?4, \
    CASE WHEN ?5 IS NULL AND NOT EXISTS (SELECT 1 FROM parked WHERE entity = ?2 AND holds = 1 AND stream < ?1) \
         THEN 0 ELSE ?5 END, ?6, ?7, ?8, ?9, ?10";

/// A parked event is decided; those behind it have their turn.
async fn release(tx: &mut Tx, stream: u64) -> Result<()> {
    let sql = "DELETE FROM parked WHERE stream = ? RETURNING CASE WHEN holds = 1 THEN entity END";
    let gone: Option<Option<String>> = sqlx::query_scalar(sql)
        .bind(signed(stream))
        .fetch_optional(&mut *tx)
        .await
        .map_err(|e| failed("release an entity", &e))?;
    let Some(Some(entity)) = gone else { return Ok(()) };
    let sql = "UPDATE parked SET due = 0 WHERE due IS NULL AND stream IN \
               (SELECT stream FROM parked WHERE entity = ? AND holds = 1 ORDER BY stream LIMIT ?)";
    let query = sqlx::query(sql).bind(entity).bind(signed(RELEASED_TOGETHER as u64));
    execute(tx, query, "release an entity").await
}

pub(in super::super) async fn move_mark(tx: &mut Tx, batch: &Batch) -> Result<()> {
    let sql = "UPDATE mark SET position = max(position, ?), published = max(published, ?), sequence = ?, link = ?, \
               config = coalesce(?, config)";
    let query = sqlx::query(sql).bind(signed(batch.position)).bind(signed(batch.published));
    let query = query.bind(signed(batch.tail.sequence)).bind(batch.tail.link.0.to_vec());
    execute(tx, query.bind(batch.config.map(|hash| hash.0.to_vec())), "move the mark").await
}

/// Deferred outputs are published and wait no more.
pub(super) async fn fired(writer: &SqlitePool, epoch: u64, keys: Vec<Hash>) -> Result<()> {
    let writer = writer.clone();
    let task = tokio::spawn(async move {
        transaction(&writer, "close a timer", async |tx: &mut Tx| {
            let row = sqlx::query("SELECT epoch FROM mark").fetch_one(&mut *tx).await;
            let found = number(&row.map_err(|e| failed("check the fence", &e))?, 0)?;
            if found != epoch {
                return Err(StoreError::Fenced { ours: epoch, found });
            }
            execute(tx, drop_deferred(&keys), "close a timer").await
        })
        .await
    });
    task.await.map_err(|e| StoreError::Failed { doing: "close a timer", cause: e.to_string() })?
}

pub(in super::super) fn drop_deferred(keys: &[Hash]) -> Query {
    with_keys(packed!("DELETE FROM deferred WHERE key IN (SELECT key FROM keys)"), keys)
}
