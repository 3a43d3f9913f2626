//! Messages of a journal as steps for the cache: appends that follow each other are one. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::Tail;

use super::super::{Batch, Known, Loaded, Result, StoreError};
use super::message::{self, Change, Header, Kind};
use super::records::{self, Record};
use crate::bus;

/// Messages without anything that waits are taken in together, up to so many records or bytes.
const TOGETHER: usize = 10_000;
const TOGETHER_BYTES: usize = 8 << 20;

/// What is written at once, and the stream sequence of the last message in it.
pub(super) enum Step {
    Change(Change, u64),
    Appends(Box<Appends>),
}

pub(super) struct Steps {
    tail: Tail,
    appends: Appends,
    ready: VecDeque<Step>,
}

impl Steps {
    /// For messages behind the end of a journal.
    pub(super) fn behind(tail: Tail) -> Self {
        Self { tail, appends: Appends::default(), ready: VecDeque::new() }
    }

    /// Takes the next message; answers whether it has this id.
    pub(super) fn take(&mut self, message: &bus::Message, id: Option<&str>) -> Result<bool> {
        let (header, lines) = message::decode(&message.payload)?;
        let is_it = id == Some(header.id.as_str());
        if !self.appends.is_continued_by(&header) {
            self.end_appends();
        }
        let Header { epoch, kind, .. } = header;
        let change = match kind {
            Kind::Append { .. } => {
                self.append(epoch, kind, lines, message.stream)?;
                return Ok(is_it);
            }
            Kind::Claim => Change::Claim { epoch },
            Kind::Attempt { key } => Change::Attempt { epoch, key },
            Kind::Published { sequence } => Change::Published { epoch, sequence },
            Kind::Fired { keys } => Change::Fired { epoch, keys },
        };
        self.ready.push_back(Step::Change(change, message.stream));
        Ok(is_it)
    }

    fn append(&mut self, epoch: u64, kind: Kind, lines: Vec<Bytes>, stream: u64) -> Result<()> {
        let read = lines.into_iter().map(|line| records::read(&mut self.tail, line));
        let records = read.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| StoreError::Failed {
            doing: "read the journal",
            cause: format!("the message at {stream} of its stream: {e}"),
        })?;
        self.appends.add(epoch, kind, records, stream);
        self.appends.batch.tail = self.tail;
        if self.appends.records.len() >= TOGETHER || self.appends.bytes >= TOGETHER_BYTES {
            self.end_appends();
        }
        Ok(())
    }

    fn end_appends(&mut self) {
        if self.appends.stream > 0 {
            self.ready.push_back(Step::Appends(Box::new(std::mem::take(&mut self.appends))));
        }
    }

    /// The next step that is whole.
    pub(super) fn next(&mut self) -> Option<Step> {
        self.ready.pop_front()
    }

    /// The same, when no more messages come.
    pub(super) fn last(&mut self) -> Option<Step> {
        self.end_appends();
        self.next()
    }
}

/// Appends that follow each other, as one.
#[derive(Default)]
pub(super) struct Appends {
    batch: Batch,
    records: Vec<Record>,
    bytes: usize,
    /// Of each message: the record before, how many it has, and its stream sequence.
    pub(super) places: Vec<(u64, usize, u64)>,
    /// Stream sequence of the last one; 0 when there is none.
    stream: u64,
}

impl Appends {
    fn is_continued_by(&self, header: &Header) -> bool {
        let is_plain = matches!(&header.kind, Kind::Append { waits, .. } if waits.is_empty());
        is_plain && self.batch.waits.is_empty() && (self.stream == 0 || self.batch.epoch == header.epoch)
    }

    fn add(&mut self, epoch: u64, kind: Kind, records: Vec<Record>, stream: u64) {
        let Kind::Append { after, position, published, config, waits } = kind else { return };
        if self.stream == 0 {
            self.batch.after = after;
        }
        self.batch.epoch = epoch;
        self.batch.position = self.batch.position.max(position);
        self.batch.published = self.batch.published.max(published);
        self.batch.config = config.or(self.batch.config);
        self.batch.waits = waits;
        self.bytes += records.iter().map(Record::bytes).sum::<usize>();
        self.places.push((after, records.len(), stream));
        self.records.extend(records);
        self.stream = stream;
    }

    pub(super) fn records(&self) -> usize {
        self.records.len()
    }

    /// Entities and keys that must be looked up before it can be written.
    pub(super) fn wanted(&self) -> (Vec<String>, Vec<Hash>) {
        records::wanted(&self.records)
    }

    /// With what was found of them. And the stream sequence.
    pub(super) fn into_batch(self, entities: Vec<String>, keys: Vec<Hash>, loaded: Loaded) -> (Batch, u64) {
        let Self { mut batch, records, stream, .. } = self;
        let states = loaded.heads.into_iter().map(|head| head.and_then(|head| head.state));
        let states: HashMap<_, _> = entities.into_iter().zip(states).collect();
        let is_taken = |known: &Option<Known>| matches!(known, Some(Known::Settled(_)));
        let taken: HashSet<_> =
            keys.into_iter().zip(&loaded.known).filter(|(_, known)| is_taken(known)).map(|(key, _)| key).collect();
        batch.entries = records::entries(records, states, taken);
        (batch, stream)
    }
}
