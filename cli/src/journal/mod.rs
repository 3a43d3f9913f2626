//! Journals as the commands read them: lines as they arrive, and records taken apart.

pub(crate) mod diff;
pub(crate) mod fold;
pub(crate) mod trace;
pub(crate) mod why;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use rhizon_kernel::Envelope;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress::Reason;
use rhizon_kernel::record::{Decided, Line, Observed, Part};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// The lines of an NDJSON answer, as they arrive.
pub(crate) struct Records {
    body: Incoming,
    buffer: BytesMut,
    /// Up to here the buffer has no line feed.
    searched: usize,
}

impl Records {
    pub(crate) fn of(answer: Response<Incoming>) -> Self {
        Self { body: answer.into_body(), buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its line feed; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(found) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(self.searched + found).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Failure::Unreachable(format!("the journal broke off: {error}"))),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Failure::Unreachable("the journal ends within a record".to_owned())),
            }
        }
    }
}

/// One decision.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) observed: Observed,
    /// The entity chain's link.
    pub(crate) hash: Hash,
    pub(crate) entity: String,
    pub(crate) version: u64,
    /// Logical time.
    pub(crate) time: Option<Timestamp>,
    pub(crate) outcome: String,
    pub(crate) reason: Option<Reason>,
    /// Absent when it could not be decoded.
    pub(crate) event: Option<Envelope>,
    /// Of the event, as commands name it.
    pub(crate) key: Hash,
    pub(crate) outputs: Vec<Output>,
    pub(crate) change: Change,
}

/// An event that followed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Output {
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) id: String,
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) actor: Option<String>,
}

/// What a decision does to its entity's state.
#[derive(Debug)]
pub(crate) enum Change {
    Unchanged,
    Set(Box<RawValue>),
    Deleted,
}

impl Record {
    /// `None` for a config record.
    pub(crate) fn read(line: &[u8]) -> Result<Option<Self>, Failure> {
        let unreadable = |why: &dyn std::fmt::Display| Failure::NotSo(format!("a record cannot be read: {why}"));
        let record = Line::parse(line).map_err(|error| unreadable(&error))?;
        let observed = record.observed().map_err(|error| unreadable(&error))?;
        let Part::Decided(bytes) = record.part else { return Ok(None) };
        let decided = Decided::parse(bytes).map_err(|error| unreadable(&error))?;
        let event = decided.input.and_then(|json| Envelope::journaled(json.get().as_bytes()).ok());
        let outputs = decided.outputs.iter().map(|json| serde_json::from_str(json.get())).collect::<Result<_, _>>();
        Ok(Some(Self {
            observed,
            hash: record.hash,
            version: decided.after,
            time: decided.time,
            key: decided.identity().map_or(Hash::ZERO, |(key, _)| key),
            event,
            outputs: outputs.map_err(|error| unreadable(&error))?,
            change: match decided.state {
                None => Change::Unchanged,
                Some(state) if state.get() == "null" => Change::Deleted,
                Some(state) => Change::Set(state.to_owned()),
            },
            entity: decided.entity.into_owned(),
            outcome: decided.outcome.into_owned(),
            reason: decided.reason,
        }))
    }

    pub(crate) fn event_type(&self) -> String {
        self.event.as_ref().map(|event| event.event_type.to_string()).unwrap_or_default()
    }

    pub(crate) fn actor(&self) -> String {
        self.event.as_ref().and_then(|event| event.actor.clone()).unwrap_or_default()
    }

    /// Code and words, for a table.
    pub(crate) fn why(&self) -> String {
        self.reason.as_ref().map(Reason::to_string).unwrap_or_default()
    }
}

/// JSON that was in a journal already.
pub(crate) fn value(json: &RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of nothing in particular.
    pub(super) fn record(sequence: u64) -> Record {
        let observed = serde_json::json!({
            "sequence": sequence, "stream": 1, "time": "2026-01-01T00:00:00Z", "attempts": 1, "epoch": 1, "revision": "r"
        });
        Record {
            observed: serde_json::from_value(observed).unwrap(),
            hash: Hash::ZERO,
            entity: "e".into(),
            version: 1,
            time: None,
            outcome: "processed".into(),
            reason: None,
            event: None,
            key: Hash::ZERO,
            outputs: vec![],
            change: Change::Unchanged,
        }
    }
}
