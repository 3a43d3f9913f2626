//! The append: records, heads, ids, position and fence in one statement, and what waits with it in one transaction.

use std::collections::BTreeMap;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::super::rows::{failed, number, signed};
use super::super::{Batch, Decision, Entry, Result, StoreError};
use super::{Query, waits};
use crate::failpoint::{self, Step};

/// The fence locks the row that it checks: nobody can claim between the check and the commit. When it refuses, it has no
/// row, and nothing else has any.
const APPEND: &str = "\
WITH fence AS (
    UPDATE mark SET position = greatest(position, $3), published = greatest(published, $4), sequence = $5, link = $6,
                    config = coalesce($7, config)
    WHERE epoch = $1 AND sequence = $2 RETURNING epoch),
records AS (
    INSERT INTO journal SELECT r.* FROM fence, unnest($8::bigint[], $9::bytea[], $10::boolean[], $11::bytea[]) r),
states AS (
    INSERT INTO heads SELECT h.* FROM fence, unnest($12::bytea[], $13::bigint[], $14::bytea[], $15::text[], $16::bytea[]) h
    ON CONFLICT (sha256(entity)) DO UPDATE SET version = excluded.version, hash = excluded.hash, time = excluded.time,
                                               state = excluded.state),
ids AS (
    INSERT INTO known SELECT k.* FROM fence, unnest($17::bytea[], $18::bytea[], $19::bigint[]) k),
tries AS (
    DELETE FROM attempts USING fence WHERE key = ANY($17)),
letters AS (
    INSERT INTO dead SELECT d.* FROM fence, unnest($20::bytea[], $21::bigint[]) d)
SELECT epoch FROM fence";

pub(super) async fn append(connection: &mut PgConnection, batch: &Batch) -> Result<()> {
    if batch.waits.is_empty() {
        return write(connection, batch).await;
    }
    let mut tx = connection.begin().await.map_err(|e| failed("begin an append", &e))?;
    write(&mut tx, batch).await?;
    waits::change(&mut tx, &batch.waits).await?;
    failpoint::reached(Step::Written);
    tx.commit().await.map_err(|e| failed("commit an append", &e))
}

async fn write(connection: &mut PgConnection, batch: &Batch) -> Result<()> {
    let row = statement(batch).fetch_optional(&mut *connection).await;
    if row.map_err(|e| failed("append", &e))?.is_some() {
        return Ok(());
    }
    let row = sqlx::query("SELECT epoch, sequence FROM mark").fetch_one(connection).await;
    let row = row.map_err(|e| failed("check the fence", &e))?;
    let (epoch, found) = (number(&row, 0)?, number(&row, 1)?);
    if epoch == batch.epoch {
        Err(StoreError::Conflict { expected: batch.after, found })
    } else {
        Err(StoreError::Fenced { ours: batch.epoch, found: epoch })
    }
}

fn statement(batch: &Batch) -> Query<'_> {
    let Batch { epoch, after, entries, tail, position, published, config, waits: _ } = batch;
    let query = sqlx::query(APPEND).bind(signed(*epoch)).bind(signed(*after)).bind(signed(*position));
    let query = query.bind(signed(*published)).bind(signed(tail.sequence)).bind(&tail.link.0[..]);
    let query = query.bind(config.as_ref().map(|hash| &hash.0[..]));
    bind_known(bind_heads(bind_records(query, entries), entries), entries)
}

fn bind_records<'q>(query: Query<'q>, entries: &'q [Entry]) -> Query<'q> {
    let decision = |entry: &'q Entry| entry.decision.as_ref();
    let sequences: Vec<i64> = entries.iter().map(|entry| signed(entry.sequence)).collect();
    let entities: Vec<Option<&[u8]>> = entries.iter().map(|e| decision(e).map(|d| d.entity.as_bytes())).collect();
    let emits: Vec<bool> = entries.iter().map(|e| decision(e).is_some_and(|d| d.emits)).collect();
    let lines: Vec<&[u8]> = entries.iter().map(|entry| &entry.line[..]).collect();
    query.bind(sequences).bind(entities).bind(emits).bind(lines)
}

/// Of an entity with several decisions in the batch only the last head is written.
fn bind_heads<'q>(query: Query<'q>, entries: &'q [Entry]) -> Query<'q> {
    let decisions = entries.iter().filter_map(|entry| entry.decision.as_ref());
    let last: BTreeMap<&str, &Decision> = decisions.map(|d| (d.entity.as_str(), d)).collect();
    let (mut entities, mut versions, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut times, mut states) = (Vec::new(), Vec::new());
    for Decision { entity, head, .. } in last.into_values() {
        entities.push(entity.as_bytes());
        versions.push(signed(head.version));
        hashes.push(&head.hash.0[..]);
        times.push(head.time.map(|time| time.to_string()));
        states.push(head.state.as_ref().map(|state| state.get().as_bytes()));
    }
    query.bind(entities).bind(versions).bind(hashes).bind(times).bind(states)
}

fn bind_known<'q>(query: Query<'q>, entries: &'q [Entry]) -> Query<'q> {
    let (mut keys, mut digests, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
    let (mut dead, mut records) = (Vec::new(), Vec::new());
    for entry in entries {
        let Some(Decision { identity: Some((key, digest)), dead: is_dead, .. }) = entry.decision.as_ref() else {
            continue;
        };
        keys.push(&key.0[..]);
        digests.push(&digest.0[..]);
        sequences.push(signed(entry.sequence));
        if *is_dead {
            dead.push(&key.0[..]);
            records.push(signed(entry.sequence));
        }
    }
    query.bind(keys).bind(digests).bind(sequences).bind(dead).bind(records)
}
