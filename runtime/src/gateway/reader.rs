//! Asks a sidecar: the port, and the questions and answers of `rq.<agent>.<verb>`.

use bytes::Bytes;
use futures::future::BoxFuture;
use rhizon_kernel::chain::Hash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a sidecar can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Status,
    Entities,
    Entity,
    History,
    Journal,
    Event,
    Dead,
}

impl Verb {
    pub const ALL: [Self; 7] =
        [Self::Status, Self::Entities, Self::Entity, Self::History, Self::Journal, Self::Event, Self::Dead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Entities => "entities",
            Self::Entity => "entity",
            Self::History => "history",
            Self::Journal => "journal",
            Self::Event => "event",
            Self::Dead => "dead",
        }
    }
}

/// Where to go on: behind an entity's key, or behind a record's sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum After {
    Sequence(u64),
    Key(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Of an event, see [`rhizon_kernel::identity::dedup_key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Hash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whom of an agent's shards it is for; without it, and without an entity, the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// Of a status: with the root, for which every entity is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub root: bool,
}

/// A sidecar's reply as it came: JSON, or NDJSON with the sequence behind which there is more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub body: Bytes,
    pub next: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No sidecar is there, or none answered in time.
    #[error("the agent's sidecar does not answer")]
    NoAnswer,
    /// The sidecar has said no.
    #[error("{detail}")]
    Refused { code: String, detail: String },
    #[error("the sidecar's answer cannot be read: {0}")]
    Unreadable(String),
}

/// Port to the sidecars: NATS requests in a cluster, calls in `rhizon dev`.
pub trait Reader: Send + Sync + 'static {
    fn ask<'a>(&'a self, agent: &'a str, verb: Verb, question: Question) -> BoxFuture<'a, Result<Reply, ReadError>>;
}

#[derive(Deserialize)]
struct Answer {
    ok: Option<Box<RawValue>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    detail: String,
}

/// How every refusal begins; a journal record begins with its link.
const REFUSAL: &[u8] = br#"{"error":"#;

impl Reply {
    /// What stands under `ok`.
    pub fn into_json(self) -> Result<Box<RawValue>, ReadError> {
        let answer: Answer = serde_json::from_slice(&self.body).map_err(|e| ReadError::Unreadable(e.to_string()))?;
        match (answer.ok, answer.error) {
            (Some(ok), None) => Ok(ok),
            (_, Some(Refusal { code, detail })) => Err(ReadError::Refused { code, detail }),
            (None, None) => Err(ReadError::Unreadable("neither ok nor error".to_owned())),
        }
    }

    /// Lines of the journal.
    pub fn into_lines(self) -> Result<Self, ReadError> {
        if !self.body.starts_with(REFUSAL) {
            return Ok(self);
        }
        Err(match self.into_json() {
            Ok(_) => ReadError::Unreadable("both ok and error".to_owned()),
            Err(refusal) => refusal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &'static str) -> Reply {
        Reply { body: Bytes::from_static(body.as_bytes()), next: Some(7) }
    }

    #[test]
    fn a_question_says_only_what_it_asks() {
        let page = Question { after: Some(After::Key("a/b".into())), limit: Some(10), ..Question::default() };
        assert_eq!(serde_json::to_string(&page).unwrap(), r#"{"after":"a/b","limit":10}"#);
        let rest: Question = serde_json::from_str(r#"{"after":12}"#).unwrap();
        assert_eq!(rest.after, Some(After::Sequence(12)));
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        assert_eq!(reply(r#"{"ok":{"a":1}}"#).into_json().unwrap().get(), r#"{"a":1}"#);
        let refused = ReadError::Refused { code: "not_found".into(), detail: "no record".into() };
        let text = r#"{"error":{"code":"not_found","detail":"no record"}}"#;
        assert_eq!(reply(text).into_json().unwrap_err(), refused);
        assert_eq!(reply(text).into_lines().unwrap_err(), refused);
        assert_eq!(reply("{\"link\":\"00\"}\n").into_lines().unwrap().next, Some(7));
        assert!(matches!(reply("{}").into_json(), Err(ReadError::Unreadable(_))));
    }
}
