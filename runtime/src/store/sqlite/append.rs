//! The one write that matters: records, heads, ids, position and fence in one transaction.

use rhizon_kernel::chain::Hash;
use sqlx::sqlite::SqlitePool;
use sqlx::{Connection as _, QueryBuilder, Sqlite, SqliteConnection};

use super::super::{Batch, Decision, Entry, Result, StoreError};
use super::{CHUNK, failed, number, signed};

type Tx = SqliteConnection;

/// Runs to its end also when nobody waits for it any more: a transaction that is let go of half-way would leave its
/// connection in one.
pub(super) async fn append(writer: &SqlitePool, batch: Batch) -> Result<()> {
    let writer = writer.clone();
    let task = tokio::spawn(async move {
        let mut connection = writer.acquire().await.map_err(|e| failed("begin an append", &e))?;
        let result = transaction(&mut connection, &batch).await;
        if result.as_ref().is_err_and(StoreError::is_transient) {
            // SQLite may have rolled back by itself, and sqlx would not know: the next append gets a new connection.
            drop(connection.detach());
        }
        result
    });
    task.await.map_err(|e| StoreError::Failed { doing: "append", cause: e.to_string() })?
}

async fn transaction(connection: &mut Tx, batch: &Batch) -> Result<()> {
    // IMMEDIATE: the fence is read under the write lock, so nobody can claim between the check and the commit.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|e| failed("begin an append", &e))?;
    check_fence(&mut tx, batch).await?;
    insert_records(&mut tx, &batch.entries).await?;
    let decisions: Vec<&Decision> = batch.entries.iter().filter_map(|entry| entry.decision.as_ref()).collect();
    upsert_heads(&mut tx, &decisions).await?;
    let identities: Vec<(Hash, Hash)> = decisions.iter().filter_map(|decision| decision.identity).collect();
    insert_known(&mut tx, &identities).await?;
    clear_attempts(&mut tx, &identities).await?;
    move_mark(&mut tx, batch).await?;
    tx.commit().await.map_err(|e| failed("commit an append", &e))
}

async fn check_fence(tx: &mut Tx, batch: &Batch) -> Result<()> {
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

async fn insert_records(tx: &mut Tx, entries: &[Entry]) -> Result<()> {
    for chunk in entries.chunks(CHUNK) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO journal (sequence, entity, emits, line) ");
        query.push_values(chunk, |mut row, entry| {
            let decision = entry.decision.as_ref();
            row.push_bind(signed(entry.sequence))
                .push_bind(decision.map(|d| d.entity.as_str()))
                .push_bind(decision.is_some_and(|d| d.emits))
                .push_bind(&entry.line[..]);
        });
        execute(tx, query, "append records").await?;
    }
    Ok(())
}

/// Of an entity with several decisions in the batch only the last head is written.
async fn upsert_heads(tx: &mut Tx, decisions: &[&Decision]) -> Result<()> {
    let mut last: std::collections::BTreeMap<&str, &Decision> = std::collections::BTreeMap::new();
    for decision in decisions {
        last.insert(&decision.entity, decision);
    }
    let last: Vec<&Decision> = last.into_values().collect();
    for chunk in last.chunks(CHUNK) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO heads (entity, version, hash, time, state) ");
        query.push_values(chunk, |mut row, decision| {
            row.push_bind(decision.entity.as_str())
                .push_bind(signed(decision.head.version))
                .push_bind(&decision.head.hash.0[..])
                .push_bind(decision.head.time.map(|time| time.to_string()))
                .push_bind(decision.head.state.as_ref().map(|state| state.get()));
        });
        query.push(
            " ON CONFLICT (entity) DO UPDATE SET version = excluded.version, hash = excluded.hash, \
             time = excluded.time, state = excluded.state",
        );
        execute(tx, query, "write heads").await?;
    }
    Ok(())
}

async fn insert_known(tx: &mut Tx, identities: &[(Hash, Hash)]) -> Result<()> {
    for chunk in identities.chunks(CHUNK) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO known (key, digest) ");
        query.push_values(chunk, |mut row, (key, digest)| {
            row.push_bind(&key.0[..]).push_bind(&digest.0[..]);
        });
        execute(tx, query, "write known ids").await?;
    }
    Ok(())
}

async fn clear_attempts(tx: &mut Tx, identities: &[(Hash, Hash)]) -> Result<()> {
    let any = sqlx::query("SELECT 1 FROM attempts LIMIT 1").fetch_optional(&mut *tx).await;
    if any.map_err(|e| failed("look for attempts", &e))?.is_none() {
        return Ok(());
    }
    for chunk in identities.chunks(CHUNK) {
        let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM attempts WHERE key IN (");
        let mut list = query.separated(",");
        for (key, _) in chunk {
            list.push_bind(&key.0[..]);
        }
        query.push(")");
        execute(tx, query, "clear attempts").await?;
    }
    Ok(())
}

async fn move_mark(tx: &mut Tx, batch: &Batch) -> Result<()> {
    let sql = "UPDATE mark SET position = max(position, ?), published = max(published, ?), sequence = ?, link = ?, config = coalesce(?, config)";
    sqlx::query(sql)
        .bind(signed(batch.position))
        .bind(signed(batch.published))
        .bind(signed(batch.tail.sequence))
        .bind(&batch.tail.link.0[..])
        .bind(batch.config.as_ref().map(|hash| &hash.0[..]))
        .execute(tx)
        .await
        .map_err(|e| failed("move the mark", &e))?;
    Ok(())
}

async fn execute(tx: &mut Tx, mut query: QueryBuilder<Sqlite>, doing: &'static str) -> Result<()> {
    query.build().persistent(false).execute(tx).await.map_err(|e| failed(doing, &e))?;
    Ok(())
}
