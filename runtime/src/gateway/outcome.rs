//! What became of an event, as a sidecar answers it and the gateway passes it on.

use jiff::Timestamp;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress::Reason;
use serde::{Deserialize, Serialize};

/// The outcome of an event that waits in its agent's store.
pub const WAITING: &str = "waiting";

/// One agent's word on one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// As the journal spells it, or `waiting`.
    pub outcome: String,
    pub entity: String,
    /// Version of the entity after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its record in the agent's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it was decided, by the clock of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default)]
    pub outputs: Vec<Sent>,
    /// When a waiting event has its turn; absent behind another one of its entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Failed tries of a waiting event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Of the content that was decided on: the same id may have been used for other content too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Hash>,
}

/// An event that followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: String,
    pub id: String,
}

impl Outcome {
    /// Nothing more will become of it.
    pub fn is_final(&self) -> bool {
        self.outcome != WAITING
    }

    /// Waits for its time, and not for an entity or a retry: it can be taken back.
    pub fn is_timer(&self) -> bool {
        self.outcome == WAITING && self.until.is_some() && self.attempts.unwrap_or_default() == 0
    }
}
