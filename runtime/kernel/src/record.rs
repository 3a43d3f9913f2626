//! The journal: one line of JSON per record, with fixed places for what a checker needs.
//!
//! ```text
//! {"link":"<64 hex>","hash":"<64 hex>","size":<n>,"decided":<n bytes>,"observed":{…}}
//!          │         └────────────── before ───────────────┘└── body ─┘└── after ──┘
//!          └ audit chain: SHA-256(previous link ‖ before ‖ SHA-256(body) ‖ after)
//! hash: entity chain, SHA-256(previous hash of this entity ‖ SHA-256(body)). A config record has "config" in place of
//! "decided", and SHA-256(body) as its hash.
//! ```
//!
//! Both chains cover every byte of the body by one hash of it, which is most of what there is to compute.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::chain::Hash;
use crate::config::Config;
use crate::egress::{Commit, Outcome};
use crate::identity::{dedup_key, malformed_key};
use crate::ingress::Reason;
use crate::subject::Subject;

const LINK: std::ops::Range<usize> = 9..73;
/// Behind the link.
const BEFORE: usize = 75;
const HASH: std::ops::Range<usize> = 83..147;
const SIZE: usize = 156;

/// What a run saw besides the decision: other runs may see something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observed {
    /// Place in this journal, from 1 without gaps.
    pub sequence: u64,
    /// Place of the input in the stream; 0 for a config record.
    pub stream: u64,
    /// Wall-clock time of the commit.
    pub time: Timestamp,
    /// How often the agent was asked.
    pub attempts: u32,
    /// Which ownership of the shard wrote this.
    pub epoch: u64,
    /// What answered: the agent's image digest.
    pub revision: String,
    /// Hash of the config that was in force. Older journals lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Hash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// The end of a journal: what the next record continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    pub sequence: u64,
    pub link: Hash,
}

impl Tail {
    pub fn append_commit(&mut self, commit: &Commit, observed: &Observed) -> Vec<u8> {
        self.append("decided", &commit.decided, &commit.decided_hash, &commit.head.hash, observed)
    }

    pub fn append_config(&mut self, config: &Config, observed: &Observed) -> Vec<u8> {
        let json = config.to_json();
        let hash = Hash::of(&[&json]);
        self.append("config", &json, &hash, &hash, observed)
    }

    fn append(&mut self, part: &str, body: &[u8], body_hash: &Hash, hash: &Hash, observed: &Observed) -> Vec<u8> {
        let mut line = Vec::with_capacity(body.len() + 512);
        line.extend_from_slice(b"{\"link\":\"");
        line.extend_from_slice(&[b'0'; 64]);
        line.extend_from_slice(b"\",\"hash\":\"");
        line.extend_from_slice(&hash.to_hex());
        line.extend_from_slice(format!("\",\"size\":{},\"{part}\":", body.len()).as_bytes());
        let begin = line.len();
        line.extend_from_slice(body);
        let end = line.len();
        line.extend_from_slice(b",\"observed\":");
        serde_json::to_writer(&mut line, observed).expect("writing to memory does not fail");
        line.push(b'}');
        self.link = Hash::of(&[&self.link.0, &line[BEFORE..begin], &body_hash.0, &line[end..]]);
        self.sequence = observed.sequence;
        line[LINK].copy_from_slice(&self.link.to_hex());
        line
    }
}

/// One line taken apart, without reading into its parts.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub link: Hash,
    pub hash: Hash,
    pub part: Part<'a>,
    pub observed: &'a [u8],
    /// What stands before the part, but for the link, and behind it.
    before: &'a [u8],
    after: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    Decided(&'a [u8]),
    Config(&'a [u8]),
}

impl<'a> Part<'a> {
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Decided(bytes) | Self::Config(bytes) => bytes,
        }
    }

    pub fn hash(self) -> Hash {
        Hash::of(&[self.bytes()])
    }
}

/// A line that is no record; holds the part that could not be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no record: {0} is not where it should be")]
pub struct NoRecord(pub &'static str);

impl<'a> Line<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoRecord> {
        let hash_at =
            |range: std::ops::Range<usize>, name| bytes.get(range).and_then(Hash::from_hex).ok_or(NoRecord(name));
        let literal = |from: usize, text: &[u8], name| {
            bytes.get(from..from + text.len()).filter(|t| *t == text).map(|_| ()).ok_or(NoRecord(name))
        };
        literal(0, b"{\"link\":\"", "link")?;
        let link = hash_at(LINK, "link")?;
        literal(73, b"\",\"hash\":\"", "hash")?;
        let hash = hash_at(HASH, "hash")?;
        literal(147, b"\",\"size\":", "size")?;
        let digits = bytes[SIZE..].iter().take_while(|b| b.is_ascii_digit()).take(12).count();
        let size: usize = std::str::from_utf8(&bytes[SIZE..SIZE + digits])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(NoRecord("size"))?;
        let at = SIZE + digits;
        let decided = literal(at, b",\"decided\":", "decided").is_ok();
        if !decided {
            literal(at, b",\"config\":", "decided")?;
        }
        let from = at + if decided { 11 } else { 10 };
        let body = bytes.get(from..from + size).ok_or(NoRecord("decided"))?;
        literal(from + size, b",\"observed\":", "observed")?;
        let observed = bytes.get(from + size + 12..bytes.len() - 1).ok_or(NoRecord("observed"))?;
        literal(bytes.len() - 1, b"}", "end")?;
        let part = if decided { Part::Decided(body) } else { Part::Config(body) };
        Ok(Self { link, hash, part, observed, before: &bytes[BEFORE..from], after: &bytes[from + size..] })
    }

    /// The link that this record must have behind another one, given the hash of its part.
    pub fn link_behind(&self, previous: &Hash, part: &Hash) -> Hash {
        Hash::of(&[&previous.0, self.before, &part.0, self.after])
    }

    /// Whether it is the next record of a journal, of which nothing but the last link is known.
    pub fn follows(&self, previous: &Hash) -> bool {
        self.link_behind(previous, &self.part.hash()) == self.link
    }

    pub fn observed(&self) -> Result<Observed, NoRecord> {
        serde_json::from_slice(self.observed).map_err(|_| NoRecord("observed"))
    }
}

/// The decided part, read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided<'a> {
    #[serde(borrow)]
    pub entity: Cow<'a, str>,
    #[serde(borrow)]
    pub subject: Cow<'a, str>,
    pub before: u64,
    pub after: u64,
    pub time: Option<Timestamp>,
    #[serde(borrow)]
    pub input: Option<&'a RawValue>,
    pub malformed: Option<Malformed>,
    #[serde(borrow)]
    pub outcome: Cow<'a, str>,
    pub reason: Option<Reason>,
    #[serde(borrow, default)]
    pub outputs: Vec<&'a RawValue>,
    /// `null` when the entity was deleted; absent when its state stayed.
    #[serde(borrow, default, deserialize_with = "present")]
    pub state: Option<&'a RawValue>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Malformed {
    pub sha256: Hash,
    pub bytes: usize,
}

/// The part of an envelope that makes its identity.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Keeps an explicit `null` apart from an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Decided<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoRecord> {
        serde_json::from_slice(bytes).map_err(|_| NoRecord("decided"))
    }

    /// Whether something is published for it: its outputs, or its dead letter.
    pub fn emits(&self) -> bool {
        !self.outputs.is_empty() || self.outcome == Outcome::DeadLettered.as_str()
    }

    /// The key and digest under which the event was taken in.
    pub fn identity(&self) -> Result<(Hash, Hash), NoRecord> {
        if let Some(malformed) = &self.malformed {
            return Ok((malformed_key(&self.subject, &malformed.sha256), malformed.sha256));
        }
        let input = self.input.ok_or(NoRecord("input"))?.get();
        let subject = Subject::parse(&self.subject).map_err(|_| NoRecord("subject"))?;
        let Named { source, id } = serde_json::from_str(input).map_err(|_| NoRecord("input"))?;
        Ok((dedup_key(&subject.publisher, &source, &id), Hash::of(&[input.as_bytes()])))
    }
}
