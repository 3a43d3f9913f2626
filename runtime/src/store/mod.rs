//! The store port: where an agent's decisions become durable. One `append` is one atomic step.

pub mod jetstream;
pub mod memory;
pub mod postgres;
mod rows;
pub mod sqlite;

use std::future::Future;

use bytes::Bytes;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{Commit, Outcome};
use rhizon_kernel::record::{Line, Observed, Tail};
use rhizon_kernel::{Config, Head};
use serde::{Deserialize, Serialize};

/// What a store remembers of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Which ownership is in force; a writer with another one is refused.
    pub epoch: u64,
    /// The highest stream sequence below which, and with which, everything is settled.
    pub position: u64,
    /// Journal sequence up to which outputs are known to be published.
    pub published: u64,
    pub tail: Tail,
    /// Hash of the config that was journaled last.
    pub config: Option<Hash>,
}

impl Mark {
    /// What is remembered once a batch is durable.
    pub(crate) fn follow(&mut self, batch: &Batch) {
        self.epoch = batch.epoch;
        self.position = self.position.max(batch.position);
        self.published = self.published.max(batch.published);
        self.tail = batch.tail;
        self.config = batch.config.or(self.config);
    }

    /// The append that journals the config, unless it is the one that was journaled last.
    pub fn config_change(&self, config: &Config, revision: &str, time: jiff::Timestamp) -> Option<Batch> {
        (self.config != Some(config.hash())).then(|| self.config_again(config, revision, time))
    }

    /// The append that journals the config, also when it was the last one.
    pub fn config_again(&self, config: &Config, revision: &str, time: jiff::Timestamp) -> Batch {
        let hash = config.hash();
        let mut tail = self.tail;
        let observed = Observed {
            sequence: tail.sequence + 1,
            stream: 0,
            time,
            attempts: 0,
            epoch: self.epoch,
            revision: revision.to_owned(),
            config: Some(hash),
            traceparent: None,
            tracestate: None,
        };
        let line = tail.append_config(config, &observed);
        Batch {
            epoch: self.epoch,
            after: self.tail.sequence,
            entries: vec![Entry { sequence: observed.sequence, line: line.into(), decision: None }],
            tail,
            position: self.position,
            published: self.published,
            config: Some(hash),
            waits: Waits::default(),
        }
    }
}

/// One record and what it changes.
#[derive(Debug, Clone)]
pub struct Entry {
    pub sequence: u64,
    pub line: Bytes,
    /// Absent for a config record.
    pub decision: Option<Decision>,
}

#[derive(Debug, Clone)]
pub struct Decision {
    pub entity: String,
    /// Key and digest of the event, unless its identity belongs to another one.
    pub identity: Option<(Hash, Hash)>,
    pub head: Head,
    /// Whether something must be published for it.
    pub emits: bool,
    /// Whether it is a dead letter, which stays open until it is dealt with.
    pub dead: bool,
}

impl Entry {
    /// Journals a commit behind `tail`. `is_first` says that the event is the first of its identity, and occupies it.
    pub fn of_commit(tail: &mut Tail, commit: &Commit, is_first: bool, observed: &Observed) -> Self {
        let decision = Decision {
            entity: commit.entity.clone(),
            identity: is_first.then_some((commit.key, commit.digest)),
            head: commit.head.clone(),
            emits: !commit.outputs.is_empty() || commit.outcome == Outcome::DeadLettered,
            dead: commit.outcome == Outcome::DeadLettered,
        };
        let line = tail.append_commit(commit, observed).into();
        Self { sequence: observed.sequence, line, decision: Some(decision) }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub epoch: u64,
    /// The sequence that the journal must end with for this batch to fit.
    pub after: u64,
    pub entries: Vec<Entry>,
    pub tail: Tail,
    pub position: u64,
    pub published: u64,
    pub config: Option<Hash>,
    pub waits: Waits,
}

/// Changes to what waits in the store: events that were taken from the stream and can't be decided yet, and outputs that
/// are not to be published yet.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waits {
    /// Parked anew, or again with another due time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub park: Vec<Parked>,
    /// Stream sequences of parked events that the batch decides. The next events of an entity that is held become due.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpark: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub defer: Vec<Deferred>,
    /// Outputs and timers that are taken back: a deferred output is gone, a timer is due, and marked as cancelled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cancel: Vec<Hash>,
    /// Dead letters that are dealt with, by the key of their event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolve: Vec<Hash>,
}

impl Waits {
    pub fn is_empty(&self) -> bool {
        let Self { park, unpark, defer, cancel, resolve } = self;
        park.is_empty() && unpark.is_empty() && defer.is_empty() && cancel.is_empty() && resolve.is_empty()
    }
}

/// An event that waits in the store, so that the position can pass it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    pub stream: u64,
    pub entity: String,
    pub key: Hash,
    pub digest: Hash,
    /// When it is its turn; absent for what only waits behind others that hold its entity: without any, it is its turn.
    pub due_ms: Option<i64>,
    /// Whether later events of its entity must wait for it. A timer holds nobody.
    pub holds: bool,
    /// Whether somebody has taken it back: it is decided without the agent.
    pub cancelled: bool,
    /// Failed tries so far.
    pub attempts: u32,
    pub subject: String,
    #[serde(with = "jetstream::base64")]
    pub payload: Bytes,
}

/// An output that waits until it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deferred {
    pub key: Hash,
    pub due_ms: i64,
    /// The record it belongs to.
    pub sequence: u64,
    pub subject: String,
    #[serde(with = "jetstream::base64")]
    pub payload: Bytes,
}

/// What is due: events in stream order, and none that holds its entity before those that hold it too and came earlier;
/// outputs in the order of their due times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    pub parked: Vec<Parked>,
    pub deferred: Vec<Deferred>,
}

impl Due {
    /// Whether limits have cut nothing off.
    pub fn is_all(&self, limit: usize, limit_bytes: usize) -> bool {
        let parked = self.parked.iter().map(|parked| parked.payload.len()).sum::<usize>();
        let deferred = self.deferred.iter().map(|deferred| deferred.payload.len()).sum::<usize>();
        self.parked.len() < limit && self.deferred.len() < limit && parked < limit_bytes && deferred < limit_bytes
    }
}

/// How many bytes of what is due are taken from the store at once.
pub const DUE_BYTES: usize = 1 << 20;

/// How many events behind one that was held become due at once.
pub const RELEASED_TOGETHER: usize = 64;

/// What is known of entities and event identities, in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Loaded {
    pub heads: Vec<Option<Head>>,
    /// How many parked events hold each entity.
    pub held: Vec<u64>,
    pub known: Vec<Option<Known>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Decided, with this content.
    Settled(Hash),
    /// Parked, with this content.
    Parked(Hash),
    /// Not decided yet, but its agent was tried so often alone.
    Tried(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub sequence: u64,
    pub line: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub records: u64,
    pub entities: u64,
    pub parked: u64,
    /// Parked events that are in retry, or behind one that is.
    pub held: u64,
    pub deferred: u64,
    /// Dead letters that nobody has dealt with.
    pub dead: u64,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Decided(Row),
    Parked {
        entity: String,
        due_ms: Option<i64>,
        attempts: u32,
    },
    /// An output of this agent that is not published yet.
    Deferred {
        due_ms: i64,
        sequence: u64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process has taken over this agent's store (epoch {found}, ours was {ours}); this one stops")]
    Fenced { ours: u64, found: u64 },
    #[error("the journal ends with record {found}, not {expected}: somebody else wrote to it")]
    Conflict { expected: u64, found: u64 },
    #[error(
        "schema {0} of the database belongs to another workspace, or to one that was deleted. Give the agent another database \
         (spec.store.secretRef), or drop the schema to begin anew"
    )]
    Foreign(String),
    #[error(
        "the journal is broken: {0}. Restore the store from a backup, or delete the agent and create it again; \
         `rhizon verify` shows how far the journal can be trusted"
    )]
    Broken(String),
    /// With what to do about it.
    #[error("the store is full: {0}")]
    Full(String),
    #[error(
        "the batch is {bytes} bytes and the broker takes {limit}; give the agent smaller batches (spec.batch.maxEvents)"
    )]
    TooLarge { bytes: usize, limit: usize },
    #[error("older records are still on their way from the journal ({have} of {of} are here); ask again later")]
    NotYet { have: u64, of: u64 },
    #[error("the store did not answer ({doing}): {cause}")]
    Failed { doing: &'static str, cause: String },
}

impl StoreError {
    /// Whether the same call may go through later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full(_) | Self::NotYet { .. } | Self::Failed { .. })
    }
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Heads, known ids, journal, outbox and position of one agent.
pub trait EventStore: Clone + Send + Sync + 'static {
    /// Takes ownership: the next epoch, durably, before anything else. Who holds an older one is fenced.
    fn claim(&self) -> impl Future<Output = Result<Mark>> + Send;
    fn mark(&self) -> impl Future<Output = Result<Mark>> + Send;
    fn load(&self, entities: Vec<String>, keys: Vec<Hash>) -> impl Future<Output = Result<Loaded>> + Send;
    /// Makes the whole batch durable, or nothing of it. To append what is there already is a conflict. A batch without
    /// records fits behind the same record as before: late, it must not take the position back.
    fn append(&self, batch: Batch) -> impl Future<Output = Result<()>> + Send;
    /// Counts a lone try, durably, before it is made; answers how many there were with it.
    fn count_attempt(&self, epoch: u64, key: Hash) -> impl Future<Output = Result<u32>> + Send;
    /// Remembers that all outputs up to this journal sequence are published.
    fn mark_published(&self, epoch: u64, sequence: u64) -> impl Future<Output = Result<()>> + Send;
    /// Records after a sequence whose outputs may not be published.
    fn outbox(&self, after: u64, limit: usize) -> impl Future<Output = Result<Vec<Row>>> + Send;
    fn journal(&self, after: u64, limit_bytes: usize) -> impl Future<Output = Result<Vec<Row>>> + Send;
    fn history(&self, entity: String, after: u64, limit_bytes: usize) -> impl Future<Output = Result<Vec<Row>>> + Send;
    /// Entities in the order of their keys.
    fn entities(
        &self,
        after: String,
        limit: usize,
        limit_bytes: usize,
    ) -> impl Future<Output = Result<Vec<(String, Head)>>> + Send;
    fn counts(&self) -> impl Future<Output = Result<Counts>> + Send;
    /// What became of an event, by its key.
    fn fate(&self, key: Hash) -> impl Future<Output = Result<Option<Fate>>> + Send;
    /// Records of open dead letters.
    fn dead_letters(&self, after: u64, limit_bytes: usize) -> impl Future<Output = Result<Vec<Row>>> + Send;
    /// What is due at a time, at most `limit` of each kind, and of each the payloads that begin within `limit_bytes`.
    fn due(&self, now_ms: i64, limit: usize, limit_bytes: usize) -> impl Future<Output = Result<Due>> + Send;
    /// When something is due next, behind a time.
    fn next_due(&self, after_ms: i64) -> impl Future<Output = Result<Option<i64>>> + Send;
    /// Deferred outputs are published.
    fn fired(&self, epoch: u64, keys: Vec<Hash>) -> impl Future<Output = Result<()>> + Send;

    /// Waits for what is under way, and lets go of files and connections.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The last record that was made at a time or before; 0 when there is none. Clocks may step back a little.
    fn sequence_at(&self, time: jiff::Timestamp) -> impl Future<Output = Result<u64>> + Send {
        async move {
            let (mut before, mut behind) = (0, self.mark().await?.tail.sequence + 1);
            while behind - before > 1 {
                let middle = before + (behind - before) / 2;
                let rows = self.journal(middle - 1, 1).await?;
                let made = rows.first().and_then(|row| Line::parse(&row.line).ok()?.observed().ok()).map(|o| o.time);
                if made.is_some_and(|made| made <= time) { before = middle } else { behind = middle }
            }
            Ok(before)
        }
    }
}
