//! Batches as the driver makes them, with the kernel's own commits: a store may read its lines.

use std::sync::Arc;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{self, Draft, Outcome, Reaction, StateChange};
use rhizon_kernel::ingress::{self, Arrival, Body, Reason};
use rhizon_kernel::record::Observed;
use rhizon_kernel::subject::Subject;
use rhizon_kernel::{Config, Envelope, Head, Limits};
use rhizon_runtime::store::{Batch, Entry, EventStore, Mark, Parked, Waits};
use serde_json::value::RawValue;

/// An event to be decided.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) entity: String,
    pub(crate) id: String,
    pub(crate) state: StateChange,
    /// The entity's state until now.
    pub(crate) before: Option<Arc<RawValue>>,
    pub(crate) emits: bool,
    pub(crate) dead: bool,
}

impl Event {
    pub(crate) fn new(entity: &str, id: &str) -> Self {
        let (entity, id) = (entity.to_owned(), id.to_owned());
        Self { entity, id, state: state("{\"a\":1}"), before: None, emits: false, dead: false }
    }
}

pub(crate) fn state(text: &str) -> StateChange {
    StateChange::Set(RawValue::from_string(text.into()).unwrap())
}

pub(crate) fn config() -> Config {
    Config {
        workspace: "w".into(),
        agent: "a".into(),
        subscribes: vec!["cmd.a.b".parse().unwrap()],
        publishes: vec!["evt.a.b".parse().unwrap()],
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    }
}

pub(crate) fn arrival(entity: &str, id: &str) -> Arrival {
    let mut envelope = Envelope::new(id.into(), "/s".into(), "cmd.a.b".parse().unwrap(), entity.into());
    envelope.workspace = Some("w".into());
    let subject = Subject::new("gateway", &envelope.event_type, entity, None).to_string();
    ingress::decode(&config(), &subject, &envelope.to_json())
}

/// The key of an event, whatever its entity.
pub(crate) fn key(id: &str) -> Hash {
    arrival("a", id).key
}

pub(crate) fn digest(entity: &str, id: &str) -> Hash {
    arrival(entity, id).digest
}

/// One record per event, the first behind `mark`. Versions count like the journal, so that each can be told.
pub(crate) fn batch_of(mark: &Mark, events: &[Event]) -> Batch {
    let mut tail = mark.tail;
    let entries = events.iter().map(|event| {
        let observed = observed(tail.sequence + 1, mark.epoch);
        Entry::of_commit(&mut tail, &commit(event, observed.sequence - 1), true, &observed)
    });
    let entries = entries.collect();
    Batch {
        epoch: mark.epoch,
        after: mark.tail.sequence,
        entries,
        tail,
        position: mark.position + events.len() as u64,
        published: 0,
        config: None,
        waits: Waits::default(),
    }
}

fn commit(event: &Event, version: u64) -> egress::Commit {
    let arrival = arrival(&event.entity, &event.id);
    let time = Some("2026-01-01T00:00:00Z".parse().unwrap());
    let head = Head { version, time, state: event.before.clone(), ..Head::default() };
    if let Body::Malformed { reason, .. } = &arrival.body {
        return egress::settle(&head, &arrival, Outcome::Rejected, reason);
    }
    if event.dead {
        return egress::settle(&head, &arrival, Outcome::DeadLettered, &Reason::new("agent_failed", "it broke"));
    }
    let draft = Draft { event_type: "evt.a.b".into(), subject: None, target: None, deliver_at: None, data: None };
    let outputs = if event.emits { vec![draft] } else { vec![] };
    egress::react(&config(), &head, &arrival, Reaction { outputs, state: event.state.clone() }).unwrap()
}

/// Made a second apart, the first at the beginning of 2026.
pub(crate) fn observed(sequence: u64, epoch: u64) -> Observed {
    let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Observed {
        sequence,
        stream: sequence,
        time: start + jiff::SignedDuration::from_secs(i64::try_from(sequence).unwrap() - 1),
        attempts: 1,
        epoch,
        revision: "test".into(),
        config: None,
        traceparent: None,
        tracestate: None,
    }
}

pub(crate) fn batch(mark: &Mark, events: &[(&str, &str)], emits: bool) -> Batch {
    let events: Vec<Event> = events.iter().map(|(entity, id)| Event { emits, ..Event::new(entity, id) }).collect();
    batch_of(mark, &events)
}

/// Appends, and answers the mark behind it.
pub(crate) async fn append(store: &impl EventStore, events: &[(&str, &str)]) -> Mark {
    let mark = store.mark().await.unwrap();
    store.append(batch(&mark, events, true)).await.unwrap();
    store.mark().await.unwrap()
}

/// An event that holds its entity: due at a time, or behind another one.
pub(crate) fn parked(stream: u64, entity: &str, due_ms: Option<i64>) -> Parked {
    let arrival = arrival(entity, &format!("parked {stream}"));
    Parked {
        stream,
        entity: entity.into(),
        key: arrival.key,
        digest: arrival.digest,
        due_ms,
        holds: true,
        cancelled: false,
        attempts: 0,
        subject: arrival.raw_subject,
        payload: vec![0, 255, 10, b'x'].into(),
    }
}
