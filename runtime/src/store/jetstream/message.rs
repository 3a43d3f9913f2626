//! One change of the store as one message: a line of JSON that says what changes, and the records, a line each.
//!
//! ```text
//! {"id":"<unique>","epoch":3,"kind":"append","after":17,"position":120,"published":15,"config":null}
//! {"link":…,"hash":…,"size":…,"decided":{…},"observed":{…}}
//! {"link":…
//! ```

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use rhizon_kernel::chain::Hash;
use serde::{Deserialize, Serialize};

use super::super::{Batch, Result, StoreError, Waits};

/// What changes in a store, one message each.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Claim { epoch: u64 },
    Append(Arc<Batch>),
    Attempt { epoch: u64, key: Hash },
    Published { epoch: u64, sequence: u64 },
    Fired { epoch: u64, keys: Vec<Hash> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// Tells our own message from another's with the same content.
    pub(super) id: String,
    pub(super) epoch: u64,
    #[serde(flatten)]
    pub(super) kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Kind {
    /// The epoch is in force from here on.
    Claim,
    Append {
        after: u64,
        position: u64,
        published: u64,
        config: Option<Hash>,
        #[serde(flatten)]
        waits: Waits,
    },
    Attempt {
        key: Hash,
    },
    Published {
        sequence: u64,
    },
    Fired {
        keys: Vec<Hash>,
    },
}

impl Change {
    pub(super) fn encode(&self, id: &str) -> Bytes {
        let (epoch, kind, entries) = match self {
            Self::Claim { epoch } => (*epoch, Kind::Claim, &[][..]),
            Self::Append(batch) => {
                let Batch { epoch, after, entries, tail: _, position, published, config, waits } = &**batch;
                let (after, position, published, config) = (*after, *position, *published, *config);
                (*epoch, Kind::Append { after, position, published, config, waits: waits.clone() }, &entries[..])
            }
            Self::Attempt { epoch, key } => (*epoch, Kind::Attempt { key: *key }, &[][..]),
            Self::Published { epoch, sequence } => (*epoch, Kind::Published { sequence: *sequence }, &[][..]),
            Self::Fired { epoch, keys } => (*epoch, Kind::Fired { keys: keys.clone() }, &[][..]),
        };
        let header = serde_json::to_vec(&Header { id: id.to_owned(), epoch, kind }).expect("keys are strings");
        let size = entries.iter().map(|entry| entry.line.len() + 1).sum::<usize>() + header.len();
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(&header);
        for entry in entries {
            out.put_u8(b'\n');
            out.put_slice(&entry.line);
        }
        out.freeze()
    }
}

/// The header, and the lines of the records.
pub(super) fn decode(payload: &Bytes) -> Result<(Header, Vec<Bytes>)> {
    let mut lines = payload.split(|byte| *byte == b'\n');
    let header = serde_json::from_slice(lines.next().unwrap_or_default())
        .map_err(|e| StoreError::Failed { doing: "read the journal", cause: format!("a message's first line: {e}") })?;
    Ok((header, lines.map(|line| payload.slice_ref(line)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Deferred, Entry, Parked};

    #[test]
    fn a_message_reads_back_and_is_lines_of_json() {
        let parked = Parked {
            stream: 9,
            entity: "e".into(),
            key: Hash([1; 32]),
            digest: Hash([2; 32]),
            due_ms: None,
            holds: true,
            cancelled: false,
            attempts: 2,
            subject: "ev.x".into(),
            payload: vec![0, 10, 255].into(),
        };
        let deferred =
            Deferred { key: Hash([3; 32]), due_ms: -1, sequence: 4, subject: "ev.y".into(), payload: "é".into() };
        let waits = Waits { park: vec![parked.clone()], defer: vec![deferred.clone()], ..Waits::default() };
        let entry = |line: &'static str| Entry { sequence: 1, line: line.into(), decision: None };
        let batch = Batch { epoch: 3, after: 17, entries: vec![entry("{}"), entry("[1]")], waits, ..Batch::default() };
        let payload = Change::Append(Arc::new(batch)).encode("me");
        for line in payload.split(|byte| *byte == b'\n') {
            serde_json::from_slice::<serde_json::Value>(line).unwrap();
        }
        let (header, lines) = decode(&payload).unwrap();
        assert_eq!((header.id.as_str(), header.epoch, &lines[..]), ("me", 3, &["{}".into(), Bytes::from("[1]")][..]));
        let Kind::Append { after: 17, waits, .. } = header.kind else { panic!("{header:?}") };
        assert_eq!((waits.park, waits.defer), (vec![parked], vec![deferred]));
    }

    #[test]
    fn a_claim_is_one_short_line() {
        let payload = Change::Claim { epoch: 2 }.encode("me");
        assert_eq!(payload, r#"{"id":"me","epoch":2,"kind":"claim"}"#);
        let (header, lines) = decode(&payload).unwrap();
        assert!(matches!(header.kind, Kind::Claim) && lines.is_empty());
    }
}
