//! What the stores in SQL share: rows as values, and what a database's error means.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use serde_json::value::RawValue;

use super::{Counts, Deferred, Fate, Known, Loaded, Mark, Parked, Result, Row, StoreError};

/// Columns by their place. Numbers and flags are integers in every store; text may be kept as bytes.
pub(super) trait Fields {
    fn integer(&self, column: usize) -> sqlx::Result<Option<i64>>;
    fn bytes(&self, column: usize) -> sqlx::Result<Option<Vec<u8>>>;
    fn text(&self, column: usize) -> sqlx::Result<Option<String>>;
}

/// Columns: epoch, position, published, sequence, link, config.
pub(super) fn mark(row: &impl Fields) -> Result<Mark> {
    let config = row.bytes(5).map_err(|e| failed("read the mark", &e))?;
    Ok(Mark {
        epoch: number(row, 0)?,
        position: number(row, 1)?,
        published: number(row, 2)?,
        tail: Tail { sequence: number(row, 3)?, link: hash(row, 4)? },
        config: config.and_then(|bytes| Hash::from_slice(&bytes)),
    })
}

/// Columns: sequence, line.
pub(super) fn journal_row(row: &impl Fields) -> Result<Row> {
    Ok(Row { sequence: number(row, 0)?, line: bytes(row, 1)? })
}

/// Columns: entity, version, hash, time, state.
pub(super) fn head(row: &impl Fields) -> Result<(String, Head)> {
    let optional = |column| row.text(column).map_err(|e| failed("read an entity", &e));
    let unreadable = |cause: String| StoreError::Failed { doing: "read an entity", cause };
    let head = Head {
        version: number(row, 1)?,
        hash: hash(row, 2)?,
        time: optional(3)?.map(|text| text.parse()).transpose().map_err(|e| unreadable(format!("time: {e}")))?,
        state: optional(4)?
            .map(|text| RawValue::from_string(text).map(Arc::from))
            .transpose()
            .map_err(|e| unreadable(format!("state: {e}")))?,
    };
    Ok((text(row, 0)?, head))
}

/// The same columns, without a version when nothing is known of the entity, and how many parked events hold it.
pub(super) fn head_and_held(row: &impl Fields) -> Result<(String, (Option<Head>, u64))> {
    let held = number(row, 5)?;
    if row.integer(1).map_err(|e| failed("load", &e))?.is_none() {
        return Ok((text(row, 0)?, (None, held)));
    }
    head(row).map(|(entity, known)| (entity, (Some(known), held)))
}

/// What was found of entities and identities, in the order in which they were asked for; of what is known of one identity
/// the last counts.
pub(super) fn loaded(
    entities: &[String],
    keys: &[Hash],
    heads: Vec<(String, (Option<Head>, u64))>,
    known: impl Iterator<Item = (Hash, Known)>,
) -> Loaded {
    let (mut heads, known): (HashMap<_, _>, HashMap<_, _>) = (heads.into_iter().collect(), known.collect());
    let (heads, held) = entities.iter().map(|entity| heads.remove(entity).unwrap_or_default()).unzip();
    Loaded { heads, held, known: keys.iter().map(|key| known.get(key).copied()).collect() }
}

/// What is counted; `holds` is the condition by which an index has those that hold their entity.
macro_rules! counts_sql {
    ($holds:literal) => {
        concat!(
            "SELECT (SELECT sequence FROM mark), (SELECT count(*) FROM heads), (SELECT count(*) FROM parked), ",
            "(SELECT count(*) FROM parked WHERE ",
            $holds,
            "), (SELECT count(*) FROM deferred), (SELECT count(*) FROM dead)"
        )
    };
}
pub(super) use counts_sql;

/// The columns of [`counts_sql`].
pub(super) fn counts(row: &impl Fields) -> Result<Counts> {
    Ok(Counts {
        records: number(row, 0)?,
        entities: number(row, 1)?,
        parked: number(row, 2)?,
        held: number(row, 3)?,
        deferred: number(row, 4)?,
        dead: number(row, 5)?,
    })
}

/// Columns: entity, due, attempts.
pub(super) fn parked_fate(row: &impl Fields) -> Result<Fate> {
    Ok(Fate::Parked { entity: text(row, 0)?, due_ms: time_ms(row, 1)?, attempts: small(row, 2)? })
}

/// Columns: due, sequence.
pub(super) fn deferred_fate(row: &impl Fields) -> Result<Fate> {
    Ok(Fate::Deferred { due_ms: signed(number(row, 0)?), sequence: number(row, 1)? })
}

/// Columns: stream, entity, key, digest, due, holds, cancelled, attempts, subject, payload.
pub(super) fn parked(row: &impl Fields) -> Result<Parked> {
    Ok(Parked {
        stream: number(row, 0)?,
        entity: text(row, 1)?,
        key: hash(row, 2)?,
        digest: hash(row, 3)?,
        due_ms: time_ms(row, 4)?,
        holds: number(row, 5)? == 1,
        cancelled: number(row, 6)? == 1,
        attempts: small(row, 7)?,
        subject: text(row, 8)?,
        payload: bytes(row, 9)?,
    })
}

/// Columns: key, due, sequence, subject, payload.
pub(super) fn deferred(row: &impl Fields) -> Result<Deferred> {
    Ok(Deferred {
        key: hash(row, 0)?,
        due_ms: time_ms(row, 1)?.unwrap_or_default(),
        sequence: number(row, 2)?,
        subject: text(row, 3)?,
        payload: bytes(row, 4)?,
    })
}

pub(super) fn text(row: &impl Fields, column: usize) -> Result<String> {
    Ok(row.text(column).map_err(|e| failed("read text", &e))?.unwrap_or_default())
}

pub(super) fn bytes(row: &impl Fields, column: usize) -> Result<Bytes> {
    Ok(Bytes::from(row.bytes(column).map_err(|e| failed("read bytes", &e))?.unwrap_or_default()))
}

pub(super) fn time_ms(row: &impl Fields, column: usize) -> Result<Option<i64>> {
    row.integer(column).map_err(|e| failed("read a time", &e))
}

pub(super) fn number(row: &impl Fields, column: usize) -> Result<u64> {
    let value = row.integer(column).map_err(|e| failed("read a number", &e))?.unwrap_or_default();
    u64::try_from(value)
        .map_err(|_| StoreError::Failed { doing: "read a number", cause: format!("{value} is negative") })
}

pub(super) fn small(row: &impl Fields, column: usize) -> Result<u32> {
    Ok(u32::try_from(number(row, column)?).unwrap_or(u32::MAX))
}

pub(super) fn hash(row: &impl Fields, column: usize) -> Result<Hash> {
    Hash::from_slice(&bytes(row, column)?)
        .ok_or_else(|| StoreError::Failed { doing: "read a hash", cause: "it is not 32 bytes".into() })
}

/// Integers of databases are signed.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const SQLITE_FULL: &str = "13";
/// PostgreSQL's.
const DISK_FULL: &str = "53100";

pub(super) fn failed(doing: &'static str, error: &sqlx::Error) -> StoreError {
    let database = error.as_database_error();
    let full = |advice: &str| StoreError::Full(format!("{}; {advice}", database.map_or("", |error| error.message())));
    match database.and_then(sqlx::error::DatabaseError::code).as_deref() {
        Some(SQLITE_FULL) => {
            full("give its volume more room: enlarge the claim store-agent-NAME-0 where its storage class can do that")
        }
        Some(DISK_FULL) => full("give the database's disk more room"),
        _ => StoreError::Failed { doing, cause: error.to_string() },
    }
}
