//! The kernel decides; it does nothing else.
//!
//! ```text
//!  bytes + subject ──▶ ingress::decode ──▶ ingress::decide ──▶ Accept ──▶ (agent) ──▶ egress::react ──▶ Commit
//!                                              │  │                                                       │
//!                                   Duplicate ◀┘  └▶ Reject, Conflict ──▶ egress::settle ──▶ Commit ──────┤
//!                                                                                                         ▼
//!                                                          journal: one line, two hash chains  ◀── Journal::append
//! ```
//!
//! Every function depends on its arguments alone: no I/O, clock, randomness or async. The runtime owns time and I/O,
//! and calls the same functions that `replay` folds a journal through.

pub mod chain;
pub mod config;
pub mod egress;
pub mod envelope;
pub mod event_type;
pub mod head;
pub mod identity;
pub mod ingress;
pub mod json;
pub mod limits;
pub mod record;
pub mod replay;
pub mod subject;

pub use config::{Config, Rule};
pub use envelope::Envelope;
pub use event_type::{EventType, TypePattern};
pub use head::Head;
pub use limits::Limits;
