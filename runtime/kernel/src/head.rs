//! What an agent knows of one entity.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::chain::Hash;

/// The head of an entity; the default is that of an entity nobody has heard of.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// How many events changed it or passed through it: each processed event adds one.
    pub version: u64,
    /// The entity chain's last link.
    pub hash: Hash,
    /// Logical time of the last record.
    pub time: Option<Timestamp>,
    /// Absent before the first state, and again once the entity was deleted.
    /// Shared: what a decision leaves as it was is not copied.
    pub state: Option<Arc<RawValue>>,
}

impl Head {
    /// Of its state.
    pub fn bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.get().len())
    }
}
