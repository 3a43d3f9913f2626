//! An event on its way through the window, and what comes out of it.

use bytes::Bytes;
use rhizon_kernel::Head;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::Commit;
use rhizon_kernel::ingress::{Arrival, Body, Control};

use super::line::Line;
use crate::bus::Message;
use crate::planted::{self, Fault};
use crate::store::{Parked, Waits};
use crate::telemetry::TraceContext;

pub(in super::super) type SlotId = u64;

/// Where an event was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Origin {
    Stream,
    /// From among those that wait in the store: its decision takes it out of there.
    Parked {
        holds: bool,
        cancelled: bool,
        attempts: u32,
    },
}

/// An event that was taken, and not looked up yet.
#[derive(Debug)]
pub(in super::super) struct Arrived {
    pub stream: u64,
    pub payload: Bytes,
    pub arrival: Arrival,
    pub origin: Origin,
}

/// A message to decode.
pub(in super::super) struct Taken {
    pub message: Message,
    pub origin: Origin,
}

impl From<Message> for Taken {
    fn from(message: Message) -> Self {
        Self { message, origin: Origin::Stream }
    }
}

impl From<Parked> for Taken {
    fn from(parked: Parked) -> Self {
        let Parked { stream, holds, cancelled, attempts, subject, payload, .. } = parked;
        Self { message: Message { stream, subject, payload }, origin: Origin::Parked { holds, cancelled, attempts } }
    }
}

/// An event in the window.
#[derive(Debug)]
pub(in super::super) struct Slot {
    pub arrival: Arrival,
    pub stream: u64,
    pub(super) payload: Bytes,
    pub(super) origin: Origin,
    /// Failed tries so far.
    pub attempts: u32,
    /// Whether the agent decided it, in a try that did not fail.
    pub(super) answered: bool,
    /// Whether it must be tried with nothing beside it, since its neighbours and it went down together.
    pub(super) lone: bool,
    /// Whether the store has counted the lone try that comes next.
    pub(super) counted: bool,
    /// What the event's effects continue: its own context, or that of the span that handles it.
    pub trace: TraceContext,
    pub(super) known: Option<Hash>,
    pub(super) control: Option<Control>,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    Waiting,
    Calling,
    Backoff,
    Skipped,
    /// On its way to those that wait in the store.
    Parking {
        due_ms: Option<i64>,
        holds: bool,
    },
    Decided(Box<Commit>),
    Taken,
}

impl Slot {
    /// Whether the same event came before.
    pub(super) fn is_repeated(&self) -> bool {
        self.known == Some(self.arrival.digest)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.origin, Origin::Parked { cancelled: true, .. })
    }

    /// Of what it holds until it is appended: a state that is its own is in the decision and beside it, another is shared.
    pub(super) fn decided_bytes(&self) -> usize {
        if let State::Decided(commit) = &self.state { 2 * commit.bytes() } else { 0 }
    }

    /// It is decided; answers who is first in line now.
    pub(super) fn decide(&mut self, line: &mut Line, commit: Commit) -> Option<SlotId> {
        let forgotten = commit.head.state.is_none() && planted::is(Fault::TombstoneForgotten);
        let head = if forgotten { Head::default() } else { commit.head.clone() };
        self.state = State::Decided(Box::new(commit));
        self.release(line);
        line.advance(Some(head))
    }

    /// Nobody has to wait in the store behind it any more.
    pub(super) fn release(&self, line: &mut Line) {
        if matches!(self.origin, Origin::Parked { holds: true, .. }) {
            line.unpark();
        }
    }

    pub(super) fn parked(&self, due_ms: Option<i64>, holds: bool) -> Parked {
        Parked {
            stream: self.stream,
            entity: self.arrival.entity.clone(),
            key: self.arrival.key,
            digest: self.arrival.digest,
            due_ms,
            holds,
            cancelled: self.is_cancelled(),
            attempts: self.attempts,
            subject: self.arrival.raw_subject.clone(),
            payload: self.payload.clone(),
        }
    }
}

/// A decided event on its way to the store.
#[derive(Debug)]
pub(in super::super) struct Settled {
    pub id: SlotId,
    pub stream: u64,
    pub attempts: u32,
    pub trace: TraceContext,
    /// Whether this event is the first of its identity, which it then occupies.
    pub first: bool,
    pub commit: Commit,
}

/// What one append may hold.
#[derive(Debug, Default)]
pub(in super::super) struct Harvest {
    pub settled: Vec<Settled>,
    /// Taken off the stream without a record, duplicates among them.
    pub(super) skipped: usize,
    pub duplicates: usize,
    /// Of what is decided.
    pub(super) bytes: usize,
    pub waits: Waits,
    /// Entity and identity of what is parked.
    pub parked: Vec<Saved>,
    /// Everything up to here is settled once the harvest is appended.
    pub position: u64,
}

/// What the window must hear of a decision once it is durable.
#[derive(Debug)]
pub(in super::super) struct Saved {
    pub entity: String,
    pub identity: Option<(Hash, Hash)>,
}

/// The context that an event came with.
pub(super) fn context_of(arrival: &Arrival) -> TraceContext {
    match &arrival.body {
        Body::Event { envelope, .. } => {
            TraceContext { traceparent: envelope.traceparent.clone(), tracestate: envelope.tracestate.clone() }
        }
        Body::Malformed { .. } => TraceContext::default(),
    }
}
