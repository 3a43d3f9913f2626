//! Rows of SQLite as values of the store.

use bytes::Bytes;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::super::{Deferred, Mark, Parked, Result, Row, StoreError};

/// At least one row, and then as many as fit.
pub(super) fn first_bytes(rows: &[SqliteRow], limit_bytes: usize) -> Result<Vec<Row>> {
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

pub(super) fn mark(row: &SqliteRow) -> Result<Mark> {
    let config: Option<Vec<u8>> = row.try_get(5).map_err(|e| failed("read the mark", &e))?;
    Ok(Mark {
        epoch: number(row, 0)?,
        position: number(row, 1)?,
        published: number(row, 2)?,
        tail: Tail { sequence: number(row, 3)?, link: hash(row, 4)? },
        config: config.and_then(|bytes| Hash::from_slice(&bytes)),
    })
}

pub(super) fn journal_row(row: &SqliteRow) -> Result<Row> {
    Ok(Row { sequence: number(row, 0)?, line: bytes(row, 1)? })
}

pub(super) fn head(row: &SqliteRow) -> Result<(String, Head)> {
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

pub(super) fn parked(row: &SqliteRow) -> Result<Parked> {
    let broken = |e: sqlx::Error| failed("read a parked event", &e);
    Ok(Parked {
        stream: number(row, 0)?,
        entity: row.try_get(1).map_err(broken)?,
        key: hash(row, 2)?,
        digest: hash(row, 3)?,
        due_ms: row.try_get(4).map_err(broken)?,
        holds: number(row, 5)? == 1,
        cancelled: number(row, 6)? == 1,
        attempts: small(row, 7)?,
        subject: row.try_get(8).map_err(broken)?,
        payload: bytes(row, 9)?,
    })
}

pub(super) fn deferred(row: &SqliteRow) -> Result<Deferred> {
    let broken = |e: sqlx::Error| failed("read a deferred output", &e);
    Ok(Deferred {
        key: hash(row, 0)?,
        due_ms: row.try_get(1).map_err(broken)?,
        sequence: number(row, 2)?,
        subject: row.try_get(3).map_err(broken)?,
        payload: bytes(row, 4)?,
    })
}

fn bytes(row: &SqliteRow, column: usize) -> Result<Bytes> {
    let value: Vec<u8> = row.try_get(column).map_err(|e| failed("read bytes", &e))?;
    Ok(Bytes::from(value))
}

pub(super) fn number(row: &SqliteRow, column: usize) -> Result<u64> {
    let value: i64 = row.try_get(column).map_err(|e| failed("read a number", &e))?;
    u64::try_from(value)
        .map_err(|_| StoreError::Failed { doing: "read a number", cause: format!("{value} is negative") })
}

pub(super) fn small(row: &SqliteRow, column: usize) -> Result<u32> {
    Ok(u32::try_from(number(row, column)?).unwrap_or(u32::MAX))
}

pub(super) fn hash(row: &SqliteRow, column: usize) -> Result<Hash> {
    let value: &[u8] = row.try_get(column).map_err(|e| failed("read a hash", &e))?;
    Hash::from_slice(value)
        .ok_or_else(|| StoreError::Failed { doing: "read a hash", cause: "it is not 32 bytes".into() })
}

/// SQLite's integers are signed.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn failed(doing: &'static str, error: &sqlx::Error) -> StoreError {
    const SQLITE_FULL: &str = "13";
    match error.as_database_error() {
        Some(database) if database.code().as_deref() == Some(SQLITE_FULL) => {
            StoreError::Full(database.message().to_owned())
        }
        _ => StoreError::Failed { doing, cause: error.to_string() },
    }
}
