//! What is measured: the plain case, and one thing changed at a time.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    Rust,
    Python,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub name: &'static str,
    /// Events for each of the plain case's.
    pub share: f64,
    pub entities: usize,
    /// Bytes of an event's data.
    pub bytes: usize,
    /// How many events one pull, call, append and publish may hold.
    pub batch: usize,
    pub agent: Agent,
}

pub(crate) const PLAIN: Case =
    Case { name: "plain", share: 1.0, entities: 1_000, bytes: 64, batch: 700, agent: Agent::Rust };

/// Fewer events where each takes longer, so that a run lasts about the same.
pub(crate) const CASES: [Case; 5] = [
    PLAIN,
    Case { name: "one entity", entities: 1, share: 0.1, ..PLAIN },
    Case { name: "16 KB of data", bytes: 16 << 10, share: 0.2, ..PLAIN },
    Case { name: "Python agent", agent: Agent::Python, share: 0.5, ..PLAIN },
    Case { name: "without batches", batch: 1, share: 0.05, ..PLAIN },
];
