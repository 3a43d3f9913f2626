//! Transactions, and statements that take lists.

use rhizon_kernel::chain::Hash;
use serde::Serialize;
use sqlx::sqlite::{SqliteArguments, SqlitePool};
use sqlx::{Connection as _, Sqlite, SqliteConnection};

use super::super::rows::{failed, signed};
use super::super::{Entry, Result, StoreError};

pub(in super::super) type Tx = SqliteConnection;
pub(in super::super) type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// All of it or nothing. IMMEDIATE: the fence is read under the write lock, so nobody can claim between the check and the
/// commit.
pub(in super::super) async fn transaction<T, E: From<StoreError>>(
    writer: &SqlitePool,
    doing: &'static str,
    work: impl AsyncFnOnce(&mut Tx) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let broken = |e: sqlx::Error| failed(doing, &e);
    let mut connection = writer.acquire().await.map_err(broken)?;
    let whole = async {
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(broken)?;
        let value = work(&mut tx).await?;
        tx.commit().await.map_err(broken)?;
        Ok(value)
    };
    let result = whole.await;
    if result.is_err() {
        // SQLite may have rolled back by itself, and sqlx would not know: the next one gets a new connection.
        drop(connection.detach());
    }
    result
}

/// Entries of one batch or of several.
pub(in super::super) trait Entries<'a>:
    IntoIterator<Item = &'a Entry, IntoIter: Send> + Clone + Send
{
}

impl<'a, T: IntoIterator<Item = &'a Entry, IntoIter: Send> + Clone + Send> Entries<'a> for T {}

/// A list as one argument.
pub(super) fn json(list: &impl Serialize) -> String {
    serde_json::to_string(list).expect("a list of numbers and text")
}

pub(super) fn with_keys(sql: &'static str, keys: &[Hash]) -> Query {
    sqlx::query(sql).bind(pack(keys)).bind(signed(keys.len() as u64))
}

pub(in super::super) async fn execute(tx: &mut Tx, query: Query, doing: &'static str) -> Result<()> {
    query.execute(tx).await.map_err(|e| failed(doing, &e))?;
    Ok(())
}

fn pack(keys: &[Hash]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.0).collect()
}
