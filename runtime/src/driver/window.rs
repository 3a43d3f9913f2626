//! The events between pull and append, and what may be done with each of them next. Pure: time comes as an argument.
//!
//! An entity's events wait in line behind each other; the heads of all lines may be with the agent side by side.

mod bounds;
mod calls;
mod harvest;
mod line;
mod park;
mod retry;
mod slot;
mod tries;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{self, Commit, Outcome};
use rhizon_kernel::head::Head;
use rhizon_kernel::ingress::{self, Arrival, Decision, Reason};

use super::Settings;
use crate::planted::{self, Fault};
use crate::store::{Known, Loaded};
use line::Line;
pub use retry::Retry;
pub(super) use slot::{Arrived, Harvest, Origin, Saved, SlotId, Taken};
use slot::{Slot, State, context_of};
pub(super) use tries::Tries;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Commits keep the order of the stream.
    Stream,
    /// Commits keep the order within each entity.
    Entity,
}

#[derive(Debug)]
pub(super) struct Window<'a> {
    settings: Arc<Settings>,
    slots: VecDeque<Slot>,
    /// Of the slots' messages.
    bytes: usize,
    first: SlotId,
    lines: HashMap<String, Line>,
    /// Of states in use and decisions, at most: it is counted anew when they seem to be too many.
    states_bytes: usize,
    /// Slots at the head of their line that wait for the agent, in stream order.
    ready: BTreeSet<SlotId>,
    sleeping: BTreeSet<(i64, SlotId)>,
    calling: usize,
    /// The lone slot that the agent has, or is about to.
    alone: Option<SlotId>,
    /// Identities admitted and not yet durable, and those made durable since the last load began.
    pending: HashMap<Hash, Hash>,
    recent: HashMap<Hash, Hash>,
    /// Stream sequences of events that are here and in the store, and their bytes.
    in_hand: BTreeMap<u64, usize>,
    /// Those of them that must wait there again, which the store does not know yet.
    parked_again: BTreeSet<u64>,
    tries: &'a mut Tries,
    position: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(settings: Arc<Settings>, position: u64, tries: &'a mut Tries) -> Self {
        Self {
            settings,
            slots: VecDeque::new(),
            bytes: 0,
            first: 0,
            lines: HashMap::new(),
            states_bytes: 0,
            ready: BTreeSet::new(),
            sleeping: BTreeSet::new(),
            calling: 0,
            alone: None,
            pending: HashMap::new(),
            recent: HashMap::new(),
            in_hand: BTreeMap::new(),
            parked_again: BTreeSet::new(),
            tries,
            position,
        }
    }

    pub(super) fn calling(&self) -> usize {
        self.calling
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Decodes, and says which heads and identities must be loaded.
    pub(super) fn begin_load(&mut self, taken: Vec<Taken>) -> (Vec<Arrived>, Vec<String>, Vec<Hash>) {
        self.recent.clear();
        self.forget_heads();
        let config = &self.settings.config;
        let arrived: Vec<Arrived> = taken
            .into_iter()
            .map(|Taken { message, origin }| {
                let arrival = ingress::decode(config, &message.subject, &message.payload);
                Arrived { stream: message.stream, payload: message.payload, arrival, origin }
            })
            .collect();
        let entities = arrived.iter().map(|arrived| &arrived.arrival.entity);
        let unknown: BTreeSet<&String> = entities.filter(|entity| !self.lines.contains_key(*entity)).collect();
        let entities = unknown.into_iter().cloned().collect();
        let keys = arrived.iter().map(|arrived| arrived.arrival.key).collect();
        (arrived, entities, keys)
    }

    /// Puts the arrived in line, in stream order, or among those that wait in the store.
    pub(super) fn admit(&mut self, arrived: Vec<Arrived>, entities: Vec<String>, loaded: Loaded, now_ms: i64) {
        for ((entity, head), held) in entities.into_iter().zip(loaded.heads).zip(loaded.held) {
            self.states_bytes += head.as_ref().map_or(0, Head::bytes);
            self.lines.entry(entity).or_insert_with(|| Line::new(head.unwrap_or_default(), held));
        }
        let last = arrived.last().map(|arrived| arrived.stream).filter(|_| planted::is(Fault::DedupOffByOne));
        for (arrived, stored) in arrived.into_iter().zip(loaded.known) {
            let stored = stored.filter(|_| last != Some(arrived.stream));
            self.admit_one(arrived, stored, now_ms);
        }
    }

    fn admit_one(&mut self, arrived: Arrived, stored: Option<Known>, now_ms: i64) {
        let Arrived { stream, payload, arrival, origin } = arrived;
        let known = self.known(&arrival, origin, stored);
        let ignored = ingress::is_ignored(&self.settings.config, place(stream, origin), &arrival);
        if known.is_none() && (!ignored || planted::is(Fault::IgnoredTakesId)) {
            self.pending.insert(arrival.key, arrival.digest);
        }
        let charged = if let Some(Known::Tried(charged)) = stored { charged } else { 0 };
        let seen = self.tries.seen(&arrival.key).map(|seen| seen.failed);
        let seen = seen.filter(|_| !planted::is(Fault::TriesForgotten));
        let parked = if let Origin::Parked { attempts, .. } = origin { attempts } else { 0 };
        let attempts = seen.unwrap_or(charged).max(parked);
        let id = self.first + self.slots.len() as u64;
        let line = self.lines.entry(arrival.entity.clone()).or_insert_with(|| Line::new(Head::default(), 0));
        let waits = (origin == Origin::Stream && known != Some(arrival.digest))
            .then(|| park::must_wait(&self.settings, place(stream, origin), line, known.as_ref(), &arrival, now_ms))
            .flatten();
        let waits = if ignored { Some(State::Skipped) } else { waits };
        let is_head = match &waits {
            Some(State::Parking { holds, .. }) => {
                line.park(*holds);
                false
            }
            Some(_) => false,
            None => line.join(id),
        };
        let (trace, alone, counted) = (context_of(&arrival), seen.is_some() || charged > 0, charged > attempts);
        let state = waits.unwrap_or(State::Waiting);
        let control = None;
        self.bytes += payload.len();
        self.slots.push_back(Slot {
            arrival,
            stream,
            payload,
            origin,
            attempts,
            answered: false,
            lone: alone,
            counted,
            trace,
            known,
            control,
            state,
        });
        if is_head {
            self.head_of_line(id);
        }
    }

    /// The content under which an event's identity is taken: by who came first, decided or not. What comes from among
    /// the parked does not meet itself.
    fn known(&self, arrival: &Arrival, origin: Origin, stored: Option<Known>) -> Option<Hash> {
        let stored = match stored {
            Some(Known::Settled(digest)) => Some(digest),
            Some(Known::Parked(digest)) => Some(digest).filter(|d| origin == Origin::Stream || *d != arrival.digest),
            Some(Known::Tried(_)) | None => None,
        };
        stored.or_else(|| self.pending.get(&arrival.key).or_else(|| self.recent.get(&arrival.key)).copied())
    }

    /// Decides about the slot at the head of a line, and about those behind it that need no agent.
    fn head_of_line(&mut self, id: SlotId) {
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(index) = self.index(id) else { return };
            let slot = &mut self.slots[index];
            let Some(line) = self.lines.get_mut(&slot.arrival.entity) else { return };
            let stream = place(slot.stream, slot.origin);
            let decision =
                ingress::decide(&self.settings.config, stream, line.head(), slot.known.as_ref(), &slot.arrival);
            let settle = |outcome, reason| egress::settle(line.head(), &slot.arrival, outcome, reason);
            let commit = match decision {
                Decision::Accept if slot.is_cancelled() => settle(Outcome::Rejected, &ingress::cancelled()),
                Decision::Accept if slot.attempts < self.settings.retry.attempts => {
                    self.ready.insert(id);
                    return;
                }
                Decision::Accept => {
                    let seen = self.tries.seen(&slot.arrival.key).and_then(|seen| seen.reason.clone());
                    settle(Outcome::DeadLettered, &seen.unwrap_or_else(gone))
                }
                Decision::Duplicate | Decision::Ignore => {
                    slot.state = State::Skipped;
                    slot.release(line);
                    next = line.advance(None);
                    continue;
                }
                Decision::Note(control) => {
                    slot.control = Some(control);
                    egress::note(line.head(), &slot.arrival)
                }
                Decision::Conflict(_) if planted::is(Fault::ExpectedVersionLost) => {
                    self.ready.insert(id);
                    return;
                }
                Decision::Reject(reason) => settle(Outcome::Rejected, &reason),
                Decision::Conflict(reason) => settle(Outcome::Conflict, &reason),
            };
            next = slot.decide(line, commit);
            self.states_bytes += slot.decided_bytes();
        }
    }

    fn decided(&mut self, index: usize, commit: Commit) {
        let slot = &mut self.slots[index];
        let Some(line) = self.lines.get_mut(&slot.arrival.entity) else { return };
        let next = slot.decide(line, commit);
        self.states_bytes += slot.decided_bytes();
        if let Some(next) = next {
            self.head_of_line(next);
        }
    }

    /// When the next retry is due.
    pub(super) fn next_retry_ms(&self) -> Option<i64> {
        self.sleeping.first().map(|(until, _)| *until)
    }

    pub(super) fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(self.index(id)?)
    }

    fn index(&self, id: SlotId) -> Option<usize> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        (index < self.slots.len()).then_some(index)
    }
}

/// Where in the stream an event is judged: where it came, however long it waited.
fn place(stream: u64, origin: Origin) -> u64 {
    let lost = planted::is(Fault::PlaceIgnored) || (origin != Origin::Stream && planted::is(Fault::PlaceOfParkedLost));
    if lost { u64::MAX } else { stream }
}

/// The words are the same whatever the connection said, since they are decided on.
fn gone() -> Reason {
    Reason::new("agent_lost", "the agent went away or gave no answer in time")
}
