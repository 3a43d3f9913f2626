//! What can go wrong with the broker.

use std::fmt;

/// A call that the broker did not answer, or answered with a refusal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, no answer in time, or nobody there to answer: nothing is known, try again later.
    #[error("the broker did not answer {call}: {why}")]
    Unavailable { call: String, why: String },
    /// An answer that says no.
    #[error("the broker refused {call}: {description} (code {code})")]
    Refused { call: String, code: u64, description: String },
    /// An answer that makes no sense.
    #[error("the broker's answer to {call} cannot be read: {why}")]
    Answer { call: String, why: String },
    /// A key that cannot be used: the Secret that holds it was changed by hand.
    #[error("a broker key cannot be used: {why}")]
    Key { why: String },
    /// A certificate or TLS setting that cannot be used.
    #[error("TLS towards the broker: {why}")]
    Tls { why: String },
}

impl Error {
    pub fn unavailable(call: &str, why: impl fmt::Display) -> Self {
        Self::Unavailable { call: call.to_owned(), why: why.to_string() }
    }

    /// Stable, for logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "nats_unavailable",
            Self::Refused { .. } => "nats_refused",
            Self::Answer { .. } => "nats_answer",
            Self::Key { .. } => "nats_key",
            Self::Tls { .. } => "nats_tls",
        }
    }

    /// For a condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "MessagingUnavailable",
            Self::Refused { .. } => "MessagingRefused",
            Self::Answer { .. } => "MessagingAnswer",
            Self::Key { .. } => "MessagingKey",
            Self::Tls { .. } => "MessagingTls",
        }
    }

    /// JetStream's error code, when it gave one.
    pub const fn refusal(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<nkeys::error::Error> for Error {
    fn from(error: nkeys::error::Error) -> Self {
        Self::Key { why: error.to_string() }
    }
}
