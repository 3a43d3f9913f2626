//! What chunks hold, as bytes. Known ids are 72 bytes each; the others are lines of JSON.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::super::sqlite::KnownId;
use super::super::super::{Deferred, Parked};
use super::CHUNK;

/// Key, digest and record of a decision.
const KNOWN: usize = 72;

pub(super) fn known(bytes: &[u8]) -> Option<Vec<KnownId>> {
    let read = |row: &[u8]| {
        let (key, rest) = row.split_at(32);
        let (digest, sequence) = rest.split_at(32);
        Some((Hash::from_slice(key)?, Hash::from_slice(digest)?, u64::from_be_bytes(sequence.try_into().ok()?)))
    };
    let rows = bytes.chunks_exact(KNOWN);
    if rows.remainder().is_empty() { rows.map(read).collect() } else { None }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadLine<'a> {
    pub(super) entity: Cow<'a, str>,
    pub(super) version: u64,
    pub(super) hash: Hash,
    pub(super) time: Option<jiff::Timestamp>,
    pub(super) state: Option<Arc<RawValue>>,
}

impl<'a> HeadLine<'a> {
    pub(super) fn new(entity: &'a str, head: Head) -> Self {
        let Head { version, hash, time, state } = head;
        Self { entity: entity.into(), version, hash, time, state }
    }

    pub(super) fn take_apart(self) -> (String, Head) {
        let Self { entity, version, hash, time, state } = self;
        (entity.into_owned(), Head { version, hash, time, state })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Wait {
    Mark { position: u64, published: u64, config: Option<Hash> },
    Parked(Parked),
    Deferred(Deferred),
    Dead { key: Hash, sequence: u64 },
    Tried { key: Hash, count: u32 },
}

/// The lines of a chunk.
pub(super) fn lines<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<Vec<T>> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice).collect()
}

/// Gathers rows until they are a chunk.
#[derive(Default)]
pub(super) struct Gathered(BytesMut);

impl Gathered {
    /// Answers what was gathered before, when there is no room for more.
    pub(super) fn line(&mut self, value: &impl Serialize) -> Option<Bytes> {
        let line = serde_json::to_vec(value).expect("keys are strings");
        let full = self.make_room(line.len() + 1);
        self.0.put_slice(&line);
        self.0.put_u8(b'\n');
        full
    }

    pub(super) fn known(&mut self, (key, digest, sequence): KnownId) -> Option<Bytes> {
        let full = self.make_room(KNOWN);
        self.0.put_slice(&key.0);
        self.0.put_slice(&digest.0);
        self.0.put_u64(sequence);
        full
    }

    pub(super) fn rest(self) -> Option<Bytes> {
        (!self.0.is_empty()).then(|| self.0.freeze())
    }

    fn make_room(&mut self, bytes: usize) -> Option<Bytes> {
        let is_full = !self.0.is_empty() && self.0.len() + bytes > CHUNK;
        is_full.then(|| self.0.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_reads_back_chunk_by_chunk() {
        let hash = |n: u64| Hash::of(&[&n.to_be_bytes()]);
        let rows: Vec<KnownId> = (0..20_000).map(|n| (hash(n), hash(n + 1), n)).collect();
        let mut gathered = Gathered::default();
        let mut chunks: Vec<Bytes> = rows.iter().filter_map(|row| gathered.known(*row)).collect();
        chunks.extend(gathered.rest());
        assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(chunks.iter().flat_map(|chunk| known(chunk).unwrap()).collect::<Vec<_>>(), rows);
        assert_eq!(known(&chunks[0][1..]), None);
    }

    #[test]
    fn an_entity_reads_back_as_it_was() {
        let state = RawValue::from_string("{\"a\": [1.0, \"\\u00e9\"]}".into()).unwrap();
        let head = Head {
            version: 3,
            hash: Hash([1; 32]),
            time: Some(jiff::Timestamp::UNIX_EPOCH),
            state: Some(state.into()),
        };
        let mut gathered = Gathered::default();
        assert_eq!(gathered.line(&HeadLine::new("é\n", head.clone())), None);
        let bytes = gathered.rest().unwrap();
        let [read] = <[HeadLine<'_>; 1]>::try_from(lines(&bytes).unwrap()).unwrap();
        let (entity, read) = read.take_apart();
        assert_eq!((entity.as_str(), format!("{read:?}")), ("é\n", format!("{head:?}")));
    }
}
