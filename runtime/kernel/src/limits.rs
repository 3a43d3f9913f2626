//! Everything has a limit, and all limits stand here.

use serde::{Deserialize, Serialize};

/// Bounds on what one event may cost. Sizes are bytes of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    pub envelope_bytes: usize,
    pub entity_bytes: usize,
    pub state_bytes: usize,
    pub outputs_per_reaction: usize,
    /// Of one decision: the event, its outputs and the state together, and outputs that have a time once more, in base64. A
    /// store must take it in one step.
    pub decision_bytes: usize,
    /// How many causes an event may have behind it: what stops two agents from answering each other for ever.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            envelope_bytes: 1 << 20,
            entity_bytes: 256,
            state_bytes: 2 << 20,
            outputs_per_reaction: 256,
            decision_bytes: 6 << 20,
            depth: 32,
        }
    }
}
