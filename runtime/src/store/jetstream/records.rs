//! What the records of a journal change, derived from their lines. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::Outcome;
use rhizon_kernel::record::{Decided, Line, NoRecord, Part, Tail};
use serde_json::value::RawValue;

use super::super::{Decision, Entry};

/// A line taken apart; what it means for its entity depends on what was before.
pub(super) struct Record {
    sequence: u64,
    line: Bytes,
    decided: Option<Parsed>,
}

struct Parsed {
    decision: Decision,
    identity: (Hash, Hash),
    keeps_state: bool,
}

/// Reads the next record of the journal, which must continue its chain.
pub(super) fn read(tail: &mut Tail, line: Bytes) -> Result<Record, NoRecord> {
    let parsed = Line::parse(&line)?;
    if !parsed.follows(&tail.link) {
        return Err(NoRecord("the link to the record before"));
    }
    *tail = Tail { sequence: tail.sequence + 1, link: parsed.link };
    let decided = of_part(&parsed)?;
    Ok(Record { sequence: tail.sequence, line, decided })
}

/// A record from which on a journal is read: what was before it is not known.
pub(super) fn read_first(after: u64, line: Bytes) -> Result<(Tail, Record), NoRecord> {
    let parsed = Line::parse(&line)?;
    if parsed.observed()?.sequence != after + 1 {
        return Err(NoRecord("the sequence"));
    }
    let decided = of_part(&parsed)?;
    let tail = Tail { sequence: after + 1, link: parsed.link };
    Ok((tail, Record { sequence: tail.sequence, line, decided }))
}

fn of_part(line: &Line<'_>) -> Result<Option<Parsed>, NoRecord> {
    match line.part {
        Part::Config(_) => Ok(None),
        Part::Decided(bytes) => decided(bytes, line.hash).map(Some),
    }
}

fn decided(bytes: &[u8], hash: Hash) -> Result<Parsed, NoRecord> {
    let decided = Decided::parse(bytes)?;
    let (identity, emits) = (decided.identity()?, decided.emits());
    let is_dead = decided.outcome == Outcome::DeadLettered.as_str();
    let state = decided.state.filter(|state| state.get() != "null").map(|state| state.to_owned().into());
    let decision = Decision {
        entity: decided.entity.into_owned(),
        identity: None,
        head: Head { version: decided.after, hash, time: decided.time, state },
        emits,
        dead: is_dead,
    };
    Ok(Parsed { decision, identity, keeps_state: decided.state.is_none() })
}

impl Record {
    /// What the journal alone needs; the head is not to be used.
    pub(super) fn into_entry(self) -> Entry {
        Entry { sequence: self.sequence, line: self.line, decision: self.decided.map(|decided| decided.decision) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.line.len()
    }
}

/// Entities whose state before must be known, and keys of which must be known whether they are taken: a dead letter under
/// one that is taken is not open.
pub(super) fn wanted(records: &[Record]) -> (Vec<String>, Vec<Hash>) {
    let mut seen = HashSet::new();
    let decided = || records.iter().filter_map(|record| record.decided.as_ref());
    let keeping = decided().filter(|d| seen.insert(d.decision.entity.as_str()) && d.keeps_state);
    let entities = keeping.map(|d| d.decision.entity.clone()).collect();
    (entities, decided().filter(|d| d.decision.dead).map(|d| d.identity.0).collect())
}

/// The entries, given the states and the taken keys that were asked for.
pub(super) fn entries(
    records: Vec<Record>,
    mut states: HashMap<String, Option<Arc<RawValue>>>,
    mut taken: HashSet<Hash>,
) -> Vec<Entry> {
    let entry = |Record { sequence, line, decided }: Record| {
        let decision = decided.map(|Parsed { mut decision, identity, keeps_state }| {
            if keeps_state {
                decision.head.state = states.get(&decision.entity).cloned().flatten();
            } else {
                states.insert(decision.entity.clone(), decision.head.state.clone());
            }
            decision.identity = taken.insert(identity.0).then_some(identity);
            decision
        });
        Entry { sequence, line, decision }
    };
    records.into_iter().map(entry).collect()
}
