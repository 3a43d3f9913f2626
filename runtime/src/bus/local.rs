//! A bus inside one process, kept in a file: `rhizon dev` and the tests run on it. A publish returns when the file has
//! the message, as with a broker.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::{TypePattern, subject};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use tokio::sync::watch;

use super::{Ack, Attached, BusError, EventBus, Message, Outgoing, Publisher, Result};

/// The stream of one workspace.
#[derive(Clone)]
pub struct LocalStream {
    inner: Arc<Inner>,
}

struct Inner {
    log: Mutex<Log>,
    last: watch::Sender<u64>,
    /// One publish at a time, so that sequences and the file agree.
    writing: tokio::sync::Mutex<()>,
    file: Option<SqlitePool>,
}

#[derive(Default)]
struct Log {
    messages: Vec<Message>,
    ids: HashSet<Hash>,
}

impl LocalStream {
    /// A stream that ends with the process.
    pub fn in_memory() -> Self {
        Self::new(Log::default(), None)
    }

    /// A stream in a file, with all that was published to it before.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool =
            SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(|e| failed("open", &e))?;
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS stream (sequence INTEGER PRIMARY KEY, subject TEXT NOT NULL, key BLOB NOT NULL, payload BLOB NOT NULL) STRICT",
        )
        .execute(&pool)
        .await
        .map_err(|e| failed("open", &e))?;
        let rows = sqlx::query("SELECT subject, key, payload FROM stream ORDER BY sequence").fetch_all(&pool).await;
        let mut log = Log::default();
        for row in rows.map_err(|e| failed("read", &e))? {
            let (key, payload): (Vec<u8>, Vec<u8>) = (row.get(1), row.get(2));
            let key = Hash::from_slice(&key).unwrap_or_default();
            log.push(Outgoing { subject: row.get(0), key, payload: Bytes::from(payload) });
        }
        Ok(Self::new(log, Some(pool)))
    }

    fn new(log: Log, file: Option<SqlitePool>) -> Self {
        let (last, _) = watch::channel(log.messages.len() as u64);
        Self { inner: Arc::new(Inner { log: Mutex::new(log), last, writing: tokio::sync::Mutex::new(()), file }) }
    }

    pub fn last_sequence(&self) -> u64 {
        *self.inner.last.borrow()
    }

    /// What an agent sees of the stream.
    pub fn consumer(&self, agent: &str, subscribes: &[TypePattern]) -> LocalBus {
        LocalBus {
            stream: self.clone(),
            agent: agent.to_owned(),
            subscribes: subscribes.to_vec(),
            next: Arc::new(tokio::sync::Mutex::new(0)),
        }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.inner.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, messages: &[&Outgoing], first: u64) -> Result<()> {
        let Some(file) = &self.inner.file else { return Ok(()) };
        let mut tx = file.begin().await.map_err(|e| failed("write", &e))?;
        for (chunk, start) in messages.chunks(5_000).zip((first..).step_by(5_000)) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO stream (sequence, subject, key, payload) ");
            query.push_values(chunk.iter().zip(start..), |mut row, (message, sequence)| {
                row.push_bind(i64::try_from(sequence).unwrap_or(i64::MAX))
                    .push_bind(message.subject.as_str())
                    .push_bind(&message.key.0[..])
                    .push_bind(&message.payload[..]);
            });
            query.build().persistent(false).execute(&mut *tx).await.map_err(|e| failed("write", &e))?;
        }
        tx.commit().await.map_err(|e| failed("write", &e))
    }
}

impl Log {
    fn push(&mut self, message: Outgoing) {
        self.ids.insert(message.key);
        let stream = self.messages.len() as u64 + 1;
        self.messages.push(Message { stream, subject: message.subject, payload: message.payload });
    }
}

impl Publisher for LocalStream {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>> {
        let _alone = self.inner.writing.lock().await;
        let mut seen = HashSet::new();
        let (fresh, first): (Vec<bool>, u64) = {
            let log = self.log();
            let fresh = messages.iter().map(|m| !log.ids.contains(&m.key) && seen.insert(m.key)).collect();
            (fresh, log.messages.len() as u64 + 1)
        };
        let new: Vec<&Outgoing> = messages.iter().zip(&fresh).filter(|(_, fresh)| **fresh).map(|(m, _)| m).collect();
        self.write(&new, first).await?;
        let mut log = self.log();
        let acks = messages.into_iter().zip(fresh).map(|(message, fresh)| {
            if fresh {
                log.push(message);
            }
            Ack { stream: log.messages.len() as u64, duplicate: !fresh }
        });
        let acks = acks.collect();
        let last = log.messages.len() as u64;
        drop(log);
        self.inner.last.send_replace(last);
        Ok(acks)
    }
}

/// One agent's reading of a local stream.
#[derive(Clone)]
pub struct LocalBus {
    stream: LocalStream,
    agent: String,
    subscribes: Vec<TypePattern>,
    /// Index of the next message to look at.
    next: Arc<tokio::sync::Mutex<usize>>,
}

impl LocalBus {
    fn is_for_us(&self, message: &Message) -> bool {
        subject::Subject::parse(&message.subject).is_ok_and(|subject| {
            let is_ours = subject.target.as_deref().is_none_or(|target| target == self.agent);
            let is_control = subject.target.is_some() && subject.publisher == subject::GATEWAY && subject.is_control();
            is_ours && (is_control || self.subscribes.iter().any(|pattern| pattern.matches(&subject.event_type)))
        })
    }
}

impl Publisher for LocalBus {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>> {
        self.stream.publish(messages).await
    }
}

impl EventBus for LocalBus {
    async fn attach(&self, position: u64) -> Result<Attached> {
        *self.next.lock().await = usize::try_from(position).unwrap_or(usize::MAX);
        Ok(Attached::default())
    }

    async fn pull(&self, max: usize) -> Result<Vec<Message>> {
        let mut next = self.next.lock().await;
        let mut last = self.stream.inner.last.subscribe();
        loop {
            let taken: Vec<Message> = {
                let log = self.stream.log();
                let mut taken = Vec::new();
                while taken.len() < max && *next < log.messages.len() {
                    taken.extend(Some(&log.messages[*next]).filter(|m| self.is_for_us(m)).cloned());
                    *next += 1;
                }
                taken
            };
            if !taken.is_empty() {
                return Ok(taken);
            }
            let seen = *next as u64;
            let waited = last.wait_for(|last| *last > seen).await.map(|_| ());
            waited.map_err(|e| BusError::Unreachable { doing: "pull", cause: e.to_string() })?;
        }
    }

    async fn settled(&self, _position: u64) {}
}

fn failed(doing: &'static str, error: &sqlx::Error) -> BusError {
    BusError::Unreachable { doing, cause: format!("the local stream's file: {error}") }
}
