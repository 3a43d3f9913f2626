//! A store in PostgreSQL: the tables of SQLite in a schema of the agent's own, and no disk beside the agent.
//!
//! The fence is the row in `mark`: each write checks the epoch under that row's lock, in its own transaction. Lists go as
//! arrays, so that an append is one statement whatever its size.

mod append;
mod connect;
mod waits;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgRow};

use super::rows::{self, Fields, deferred, failed, hash, head, journal_row, mark, parked, signed, small};
use super::{Batch, Counts, Due, EventStore, Fate, Known, Loaded, Mark, Result, Row, StoreError};
use connect::Writer;

/// Records of one page at most.
const PAGE: usize = 1_000;
/// After so long without an answer the outcome is taken as unknown, and the connection is let go.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct PostgresStore {
    writer: Arc<Writer>,
    readers: PgPool,
}

/// Does not wait for ever: a connection that was lost, or an answer that does not come, leaves its outcome unknown.
async fn within<T>(doing: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = || StoreError::Failed { doing, cause: format!("no answer in {} s", PATIENCE.as_secs()) };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(silent()))
}

/// `$1` bytes of lines after record `$2`, but one line at least. What does not fit is not read.
macro_rules! page {
    ($from:literal) => {
        concat!(
            "SELECT sequence, line FROM (SELECT sequence, line, sum(length(line)) OVER w AS bytes, \
             row_number() OVER w AS place FROM (SELECT sequence, line FROM ",
            $from,
            " AND sequence > $2 ORDER BY sequence LIMIT $3) page WINDOW w AS (ORDER BY sequence)) sized \
             WHERE bytes <= $1 OR place = 1 ORDER BY sequence"
        )
    };
}

impl PostgresStore {
    /// Connects when it is first used: a database may come later. `url` is a connection URI as libpq reads it, `account`
    /// the broker's, whose streams the store is about. With `ca`, a file of certificates, the server must prove its name
    /// by one of them, unless the URI says something else.
    pub fn open(url: &str, schema: &str, account: &str, ca: Option<&Path>) -> Result<Self> {
        let options = connect::options(url, schema, ca)?;
        let writer = Writer::new(options.clone(), schema.to_owned(), account.to_owned());
        Ok(Self { writer: Arc::new(writer), readers: connect::readers(options) })
    }

    async fn rows(&self, doing: &'static str, query: Query<'_>) -> Result<Vec<PgRow>> {
        self.writer.ready(doing).await?;
        within(doing, async { query.fetch_all(&self.readers).await.map_err(|e| failed(doing, &e)) }).await
    }

    async fn row(&self, doing: &'static str, query: Query<'_>) -> Result<Option<PgRow>> {
        self.writer.ready(doing).await?;
        within(doing, async { query.fetch_optional(&self.readers).await.map_err(|e| failed(doing, &e)) }).await
    }

    /// Runs one statement that writes, and answers its row.
    async fn write(&self, doing: &'static str, query: Query<'_>) -> Result<Option<PgRow>> {
        let mut turn = self.writer.turn(doing).await?;
        let work = async { query.fetch_optional(&mut *turn).await.map_err(|e| failed(doing, &e)) };
        let result = within(doing, work).await;
        turn.end(result)
    }

    async fn lines(&self, query: Query<'_>) -> Result<Vec<Row>> {
        self.rows("read the journal", query).await?.iter().map(journal_row).collect()
    }

    async fn known(
        &self,
        sql: &'static str,
        keys: &[Hash],
        read: impl Fn(&PgRow) -> Result<Known>,
    ) -> Result<Vec<(Hash, Known)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.rows("load", sqlx::query(sql).bind(list(keys))).await?;
        rows.iter().map(|row| Ok((hash(row, 0)?, read(row)?))).collect()
    }

    async fn fenced<T>(&self, ours: u64) -> Result<T> {
        Err(StoreError::Fenced { ours, found: self.mark().await?.epoch })
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl EventStore for PostgresStore {
    async fn claim(&self) -> Result<Mark> {
        let sql = "UPDATE mark SET epoch = epoch + 1 RETURNING epoch, position, published, sequence, link, config";
        mark(&self.write("claim", sqlx::query(sql)).await?.ok_or_else(no_mark)?)
    }

    /// Waits for an append whose connection was lost: it may still be about to commit.
    async fn mark(&self) -> Result<Mark> {
        let sql = "SELECT epoch, position, published, sequence, link, config FROM mark FOR SHARE";
        mark(&self.write("read the mark", sqlx::query(sql)).await?.ok_or_else(no_mark)?)
    }

    async fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> Result<Loaded> {
        let sql = "SELECT e.entity, h.version, h.hash, h.time, h.state, \
                          (SELECT count(*) FROM parked p WHERE sha256(p.entity) = sha256(e.entity) AND holds) \
                   FROM unnest($1::bytea[]) e (entity) LEFT JOIN heads h ON sha256(h.entity) = sha256(e.entity)";
        let names: Vec<&[u8]> = entities.iter().map(String::as_bytes).collect();
        let found = if entities.is_empty() { vec![] } else { self.rows("load", sqlx::query(sql).bind(names)).await? };
        let heads = found.iter().map(rows::head_and_held).collect::<Result<Vec<_>>>()?;
        let tried = "SELECT key, count FROM attempts WHERE key = ANY($1)";
        let tried = self.known(tried, &keys, |row| Ok(Known::Tried(small(row, 1)?))).await?;
        let parked = "SELECT key, digest FROM parked WHERE key = ANY($1) ORDER BY stream DESC";
        let parked = self.known(parked, &keys, |row| Ok(Known::Parked(hash(row, 1)?))).await?;
        let settled = "SELECT key, digest FROM known WHERE key = ANY($1)";
        let settled = self.known(settled, &keys, |row| Ok(Known::Settled(hash(row, 1)?))).await?;
        let known = tried.into_iter().chain(parked).chain(settled);
        Ok(rows::loaded(&entities, &keys, heads, known))
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        let mut turn = self.writer.turn("begin an append").await?;
        let result = within("append", append::append(&mut turn, &batch)).await;
        turn.end(result)
    }

    async fn count_attempt(&self, epoch: u64, key: Hash) -> Result<u32> {
        let sql = "WITH fence AS (SELECT 1 FROM mark WHERE epoch = $2 FOR SHARE) \
                   INSERT INTO attempts SELECT $1, 1 FROM fence \
                   ON CONFLICT (key) DO UPDATE SET count = attempts.count + 1 RETURNING count";
        let query = sqlx::query(sql).bind(&key.0[..]).bind(signed(epoch));
        match self.write("count an attempt", query).await? {
            Some(row) => small(&row, 0),
            None => self.fenced(epoch).await,
        }
    }

    async fn mark_published(&self, epoch: u64, sequence: u64) -> Result<()> {
        let sql = "UPDATE mark SET published = greatest(published, $1) WHERE epoch = $2 RETURNING epoch";
        let query = sqlx::query(sql).bind(signed(sequence)).bind(signed(epoch));
        if self.write("mark as published", query).await?.is_some() { Ok(()) } else { self.fenced(epoch).await }
    }

    async fn outbox(&self, after: u64, limit: usize) -> Result<Vec<Row>> {
        let sql = "SELECT sequence, line FROM journal WHERE emits AND sequence > $1 ORDER BY sequence LIMIT $2";
        self.lines(sqlx::query(sql).bind(signed(after)).bind(signed(limit as u64))).await
    }

    async fn journal(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let limit = if limit_bytes <= 1 { 1 } else { PAGE };
        self.lines(page(page!("journal WHERE true"), after, limit_bytes, limit)).await
    }

    async fn history(&self, entity: String, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        let sql = page!("journal WHERE sha256(entity) = sha256($4) AND entity IS NOT NULL");
        self.lines(page(sql, after, limit_bytes, PAGE).bind(entity.into_bytes())).await
    }

    async fn entities(&self, after: String, limit: usize, limit_bytes: usize) -> Result<Vec<(String, Head)>> {
        let sql = "WITH page AS (SELECT entity, coalesce(octet_length(state), 0)::bigint AS size FROM heads \
                       WHERE substring(entity FROM 1 FOR 1000) >= substring($1 FROM 1 FOR 1000) AND entity > $1 \
                       ORDER BY substring(entity FROM 1 FOR 1000), entity LIMIT $2), \
                   fits AS (SELECT entity, sum(size) OVER (ORDER BY entity) - size AS before FROM page) \
                   SELECT h.entity, version, hash, time, state FROM fits \
                   JOIN heads h ON sha256(h.entity) = sha256(fits.entity) WHERE before < $3 ORDER BY h.entity";
        let query = sqlx::query(sql).bind(after.into_bytes()).bind(signed(limit as u64));
        let query = query.bind(signed(limit_bytes as u64));
        self.rows("read entities", query).await?.iter().map(head).collect()
    }

    async fn counts(&self) -> Result<Counts> {
        let row = self.row("count", sqlx::query(rows::counts_sql!("holds"))).await?.ok_or_else(no_mark)?;
        rows::counts(&row)
    }

    async fn fate(&self, key: Hash) -> Result<Option<Fate>> {
        let look = async |sql: &'static str| self.row("look for an event", sqlx::query(sql).bind(key.0.to_vec())).await;
        let decided = "SELECT sequence, line FROM journal JOIN known USING (sequence) WHERE key = $1";
        if let Some(row) = look(decided).await? {
            return Ok(Some(Fate::Decided(journal_row(&row)?)));
        }
        if let Some(row) = look("SELECT entity, due, attempts FROM parked WHERE key = $1 ORDER BY stream").await? {
            return rows::parked_fate(&row).map(Some);
        }
        let row = look("SELECT due, sequence FROM deferred WHERE key = $1").await?;
        row.as_ref().map(rows::deferred_fate).transpose()
    }

    async fn dead_letters(&self, after: u64, limit_bytes: usize) -> Result<Vec<Row>> {
        self.lines(page(page!("journal JOIN dead USING (sequence) WHERE true"), after, limit_bytes, PAGE)).await
    }

    async fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> Result<Due> {
        let look = async |sql: &'static str| {
            let query = sqlx::query(sql).bind(now_ms).bind(signed(limit as u64)).bind(signed(limit_bytes as u64));
            self.rows("look for what is due", query).await
        };
        let events = "WITH page AS (SELECT stream, octet_length(payload)::bigint AS size FROM parked p \
                          WHERE due <= $1 AND NOT EXISTS (SELECT 1 FROM parked q \
                          WHERE sha256(q.entity) = sha256(p.entity) AND q.holds AND p.holds AND q.stream < p.stream \
                          AND coalesce(q.due > $1, true)) ORDER BY stream LIMIT $2), \
                      fits AS (SELECT stream, sum(size) OVER (ORDER BY stream) - size AS before FROM page) \
                      SELECT stream, entity, key, digest, due, holds::int::bigint, cancelled::int::bigint, attempts, \
                          subject, payload FROM fits JOIN parked USING (stream) WHERE before < $3 ORDER BY stream";
        let outputs = "WITH page AS (SELECT key, due, sequence, octet_length(payload)::bigint AS size FROM deferred \
                           WHERE due <= $1 ORDER BY due, sequence, key LIMIT $2), \
                       fits AS (SELECT key, sum(size) OVER (ORDER BY due, sequence, key) - size AS before FROM page) \
                       SELECT key, d.due, d.sequence, subject, payload FROM fits JOIN deferred d USING (key) \
                       WHERE before < $3 ORDER BY d.due, d.sequence, key";
        Ok(Due {
            parked: look(events).await?.iter().map(parked).collect::<Result<_>>()?,
            deferred: look(outputs).await?.iter().map(deferred).collect::<Result<_>>()?,
        })
    }

    async fn next_due(&self, after_ms: i64) -> Result<Option<i64>> {
        let sql = "SELECT min(due) FROM (SELECT min(due) AS due FROM parked WHERE due > $1 \
                   UNION ALL SELECT min(due) FROM deferred WHERE due > $1) dues";
        let row = self.row("look for what is due", sqlx::query(sql).bind(after_ms)).await?;
        row.as_ref().map_or(Ok(None), |row| rows::time_ms(row, 0))
    }

    async fn fired(&self, epoch: u64, keys: Vec<Hash>) -> Result<()> {
        let sql = "WITH fence AS (SELECT epoch FROM mark WHERE epoch = $1 FOR SHARE), \
                        gone AS (DELETE FROM deferred USING fence WHERE key = ANY($2)) \
                   SELECT epoch FROM fence";
        let query = sqlx::query(sql).bind(signed(epoch)).bind(list(&keys));
        if self.write("close a timer", query).await?.is_some() { Ok(()) } else { self.fenced(epoch).await }
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn page(sql: &'static str, after: u64, limit_bytes: usize, limit: usize) -> Query<'static> {
    sqlx::query(sql).bind(signed(limit_bytes as u64)).bind(signed(after)).bind(signed(limit as u64))
}

fn list(keys: &[Hash]) -> Vec<&[u8]> {
    keys.iter().map(|key| &key.0[..]).collect()
}

fn no_mark() -> StoreError {
    StoreError::Failed { doing: "read the mark", cause: "the schema has no mark: it is not a store".into() }
}

impl Fields for PgRow {
    fn integer(&self, column: usize) -> sqlx::Result<Option<i64>> {
        self.try_get(column)
    }

    fn bytes(&self, column: usize) -> sqlx::Result<Option<Vec<u8>>> {
        self.try_get(column)
    }

    /// All but times is kept as bytes.
    fn text(&self, column: usize) -> sqlx::Result<Option<String>> {
        let bytes: Option<&[u8]> = self.try_get_unchecked(column)?;
        let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|e| sqlx::Error::Decode(e.into()));
        bytes.map(utf8).transpose()
    }
}
