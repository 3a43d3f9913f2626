//! The bus port: events come in stream order, and go out so that their order stays.

pub mod jetstream;
pub mod local;
pub mod nats;
pub mod sequence;

use std::future::Future;

use bytes::Bytes;
use rhizon_kernel::chain::Hash;

/// A message of the stream.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its sequence in the stream.
    pub stream: u64,
    pub subject: String,
    pub payload: Bytes,
}

/// A message to publish. `key` names it: published twice within the broker's window, it is stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub subject: String,
    pub key: Hash,
    pub payload: Bytes,
}

/// The broker has it, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Zero when the broker did not say, as for all but the last of an atomic batch.
    pub stream: u64,
    pub duplicate: bool,
}

/// Where the broker stands, told when a reader attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attached {
    /// The highest stream sequence acknowledged before: a store behind it was lost or rolled back.
    pub floor: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the broker can't be reached ({doing}): {cause}")]
    Unreachable { doing: &'static str, cause: String },
    /// What was pulled is not all that there is, in order: read again from the store's position.
    #[error("the feed has a gap: {0}")]
    Gap(String),
    /// What was pulled could not be kept.
    #[error("what was pulled is pulled again: {0}")]
    Dropped(String),
    #[error("the broker refused ({doing}): {code} {detail}")]
    Refused { doing: &'static str, code: u64, detail: String },
    #[error("the stream is full: {0}; raise spec.messaging.maxBytes of the workspace or let its agents catch up")]
    Full(String),
}

pub type Result<T> = std::result::Result<T, BusError>;

/// Puts events on the stream.
pub trait Publisher: Clone + Send + Sync + 'static {
    /// Publishes in this order; returns when all are durable. After an error some may be: publish the same again.
    fn publish(&self, messages: Vec<Outgoing>) -> impl Future<Output = Result<Vec<Ack>>> + Send;
}

/// Takes events from the stream, for one agent.
pub trait EventBus: Publisher {
    /// Begins to read behind a stream sequence, and lets go of all that was pulled before.
    fn attach(&self, position: u64) -> impl Future<Output = Result<Attached>> + Send;
    /// At least one message and at most `max`, in order; waits until there is one.
    fn pull(&self, max: usize) -> impl Future<Output = Result<Vec<Message>>> + Send;
    /// Tells the broker how far the agent is. Nothing depends on it but lag and retention.
    fn settled(&self, position: u64) -> impl Future<Output = ()> + Send;
}
