//! Connections: one that writes, a few that read, all of them with the same explicit rules.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::{Mutex, MutexGuard};

use super::super::rows::failed;
use super::super::{Result, StoreError};
use super::PATIENCE;

/// What holds for each connection, whatever the server's own defaults are.
const RULES: [(&str, &str); 6] = [
    ("synchronous_commit", "on"),
    ("statement_timeout", "15s"),
    // A writer that the network has lost must not hold the fence for long.
    ("idle_in_transaction_session_timeout", "15s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "2"),
];

/// Longer names are cut off by the server, and two agents could share what is left.
const NAME_BYTES: usize = 63;

/// `ca` is a file with the certificates that the server's own must lead to.
pub(super) fn options(url: &str, schema: &str, ca: Option<&Path>) -> Result<PgConnectOptions> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if schema.is_empty() || schema.len() > NAME_BYTES || !schema.bytes().all(legal) {
        let cause = format!("'{schema}' is no name of a schema: up to {NAME_BYTES} of A-Z, a-z, 0-9, _ and -");
        return Err(StoreError::Failed { doing: "open", cause });
    }
    let mut options: PgConnectOptions = url.parse().map_err(|e| failed("read the database's URL", &e))?;
    if let Some(ca) = ca {
        options = options.ssl_root_cert(ca);
        // Who gives a certificate wants it to count.
        if !url.contains("sslmode=") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
    }
    let options = options.application_name("rhizon").options(RULES);
    Ok(options.options([("search_path", format!("\"{schema}\""))]))
}

pub(super) fn readers(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(PATIENCE)
        .idle_timeout(Duration::from_mins(1))
        .connect_lazy_with(options)
}

/// Pods may start at the same moment: one of them migrates, under a lock that ends with its connection.
async fn migrate(connection: &mut PgConnection, schema: &str, account: &str) -> Result<()> {
    let doing = "migrate";
    let lock = sqlx::query("SELECT pg_advisory_lock(hashtextextended('rhizon ' || $1, 0))").bind(schema);
    lock.execute(&mut *connection).await.map_err(|e| failed(doing, &e))?;
    let found = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = $1").bind(schema);
    // A role that may use its schema need not be allowed to make one.
    if found.fetch_optional(&mut *connection).await.map_err(|e| failed(doing, &e))?.is_none() {
        let create = AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\""));
        connection.execute(create).await.map_err(|e| failed(doing, &e))?;
    }
    let mut migrator = sqlx::migrate!("migrations/postgres");
    // What `run` does, which takes more than a connection and gives a future that no other thread may take.
    let result = migrator.set_locking(false).run_direct(None, connection, false).await;
    result.map_err(|e| StoreError::Failed { doing, cause: e.to_string() })?;
    check_account(connection, schema, account).await?;
    let unlock = sqlx::query("SELECT pg_advisory_unlock_all()");
    unlock.execute(connection).await.map(drop).map_err(|e| failed(doing, &e))
}

/// Positions are those of one account's streams: with others, events would be passed over.
async fn check_account(connection: &mut PgConnection, schema: &str, account: &str) -> Result<()> {
    let doing = "look whose store it is";
    let note = sqlx::query("UPDATE mark SET account = $1 WHERE account IS NULL").bind(account);
    note.execute(&mut *connection).await.map_err(|e| failed(doing, &e))?;
    let ours = sqlx::query("SELECT 1 FROM mark WHERE account = $1").bind(account);
    let found = ours.fetch_optional(connection).await.map_err(|e| failed(doing, &e))?;
    found.map(drop).ok_or_else(|| StoreError::Foreign(schema.to_owned()))
}

/// The connection that writes. It is made when it is needed, and let go when it may be in the middle of something. The first
/// one makes the schema or brings it up to date.
pub(super) struct Writer {
    options: PgConnectOptions,
    schema: String,
    account: String,
    migrated: OnceLock<()>,
    connection: Mutex<Option<PgConnection>>,
}

impl Writer {
    pub(super) fn new(options: PgConnectOptions, schema: String, account: String) -> Self {
        Self { options, schema, account, migrated: OnceLock::new(), connection: Mutex::new(None) }
    }

    /// Waits until nobody else writes.
    pub(super) async fn turn(&self, doing: &'static str) -> Result<Turn<'_>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.take() {
            return Ok(Turn { slot, connection });
        }
        let connection = super::within(doing, self.connect(doing)).await?;
        Ok(Turn { slot, connection })
    }

    /// Returns when the schema is there to be read.
    pub(super) async fn ready(&self, doing: &'static str) -> Result<()> {
        if self.migrated.get().is_some() { Ok(()) } else { self.turn(doing).await?.end(Ok(())) }
    }

    async fn connect(&self, doing: &'static str) -> Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.options).await.map_err(|e| failed(doing, &e))?;
        if self.migrated.get().is_none() {
            migrate(&mut connection, &self.schema, &self.account).await?;
            let _ = self.migrated.set(());
        }
        Ok(connection)
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            let _ = connection.close().await;
        }
    }
}

/// Somebody's turn to write. One that is not ended closes the connection: the server then rolls back what was under way.
pub(super) struct Turn<'a> {
    slot: MutexGuard<'a, Option<PgConnection>>,
    connection: PgConnection,
}

impl Turn<'_> {
    pub(super) fn end<T>(self, result: Result<T>) -> Result<T> {
        let Self { mut slot, connection } = self;
        if !result.as_ref().is_err_and(StoreError::is_transient) {
            *slot = Some(connection);
        }
        result
    }
}

impl Deref for Turn<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
