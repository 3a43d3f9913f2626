//! What must be true of a history when everything has come to rest, whatever was killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::record::{Decided, Line, Observed, Part};
use rhizon_kernel::replay::Replay;
use rhizon_kernel::{Envelope, Limits};
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::bus::nats::Connection;
use serde_json::{Value, json};

use crate::setup;
use crate::stage::AGENT;

/// A message on a stream.
pub(crate) struct Stored {
    subject: String,
    payload: Vec<u8>,
}

pub(crate) struct Checked {
    pub root: Hash,
    pub records_by_epoch: BTreeMap<u64, u64>,
}

/// Both chains verify; each event has one effect, those of an entity in the order of the stream; each output and each dead
/// letter is on its stream once, those that did not wait in the order of the journal; and no epoch writes after the next.
pub(crate) fn check(events: &[Outgoing], lines: &[Vec<u8>], stored: &[Stored], dead: &[Stored]) -> Checked {
    let mut replay = Replay::default();
    for line in lines {
        replay.push(line).unwrap_or_else(|mismatch| panic!("the journal does not verify: {mismatch}"));
    }
    let records: Vec<Record<'_>> = lines.iter().filter_map(|line| Record::parse(line)).collect();
    each_event_has_one_effect(events, &records);
    entities_keep_their_order(&records);
    outputs_are_there_once(&records, stored);
    let letters = records.iter().filter(|record| record.decided.outcome == "dead-lettered").map(Record::letter);
    let dead = dead.iter().map(|message| serde_json::from_slice::<Value>(&message.payload).unwrap());
    assert!(letters.eq(dead), "each dead letter once, in order");
    Checked { root: replay.root(), records_by_epoch: by_epoch(lines) }
}

struct Record<'a> {
    bytes: &'a [u8],
    decided: Decided<'a>,
    observed: Observed,
}

impl<'a> Record<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = Line::parse(line).unwrap();
        let Part::Decided(bytes) = line.part else { return None };
        Some(Self { bytes, decided: Decided::parse(bytes).unwrap(), observed: line.observed().unwrap() })
    }

    fn letter(&self) -> Value {
        let mut letter: Value = serde_json::from_slice(self.bytes).unwrap();
        letter["attempts"] = json!(self.observed.attempts);
        letter
    }
}

fn each_event_has_one_effect(events: &[Outgoing], records: &[Record<'_>]) {
    let mut effects: Vec<Hash> = records.iter().map(|record| record.decided.identity().unwrap().0).collect();
    let mut published: Vec<Hash> = events.iter().map(|event| event.key).collect();
    effects.sort_unstable();
    published.sort_unstable();
    assert_eq!(effects.len(), published.len(), "one effect for each event");
    assert_eq!(effects, published, "one effect for each event");
}

fn entities_keep_their_order(records: &[Record<'_>]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for Record { decided, observed, .. } in records {
        let before = last.insert(&decided.entity, observed.stream).unwrap_or(0);
        assert!(before < observed.stream, "record {}: {} came before", observed.sequence, before);
    }
}

fn outputs_are_there_once(records: &[Record<'_>], stored: &[Stored]) {
    let limits = Limits::default();
    let (mut at_once, mut later) = (Vec::new(), BTreeSet::new());
    for Record { decided, observed, .. } in records {
        for raw in &decided.outputs {
            let output = Envelope::parse(raw.get().as_bytes(), &limits).unwrap();
            if output.deliverat.is_some_and(|due| due.as_millisecond() > observed.time.as_millisecond()) {
                later.insert(output.id);
            } else {
                at_once.push(output.id);
            }
        }
    }
    let publisher = format!(".agent-{AGENT}");
    let outputs = stored.iter().filter(|message| message.subject.ends_with(&publisher));
    let ids: Vec<String> = outputs.map(|message| Envelope::parse(&message.payload, &limits).unwrap().id).collect();
    let (waited, sent): (Vec<String>, Vec<String>) = ids.into_iter().partition(|id| later.contains(id));
    assert_eq!(sent.len(), at_once.len(), "outputs on the stream");
    assert_eq!(sent, at_once, "outputs once each, in the order of the journal");
    assert_eq!(waited.len(), later.len(), "outputs that were due, once each");
    assert_eq!(BTreeSet::from_iter(waited), later, "outputs that were due, once each");
}

/// How many records each epoch wrote; none wrote after a later one.
fn by_epoch(lines: &[Vec<u8>]) -> BTreeMap<u64, u64> {
    let epochs: Vec<u64> = lines.iter().map(|line| Line::parse(line).unwrap().observed().unwrap().epoch).collect();
    assert!(epochs.is_sorted(), "an epoch writes after a later one: {epochs:?}");
    let mut records = BTreeMap::new();
    for epoch in epochs {
        *records.entry(epoch).or_default() += 1;
    }
    records
}

/// All that is on a stream, through a consumer that pushes it.
pub(crate) async fn stored(client: &Connection, stream: &str) -> Vec<Stored> {
    let inbox = client.client.new_inbox();
    let mut messages = client.client.subscribe(inbox.clone()).await.unwrap();
    let name = inbox.rsplit('.').next().unwrap();
    let config = json!({
        "name": name, "ack_policy": "none", "deliver_policy": "all", "deliver_subject": inbox, "replay_policy": "instant",
        "inactive_threshold": 60_000_000_000_u64, "mem_storage": true,
    });
    let create = json!({"stream_name": stream, "config": config});
    setup::ask(client, &format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &create).await;
    let there =
        setup::ask(client, &format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await["state"]["messages"].clone();
    let mut stored = Vec::new();
    while (stored.len() as u64) < there.as_u64().unwrap() {
        let next = tokio::time::timeout(Duration::from_mins(1), messages.next()).await;
        let message = next.expect("a message of the stream").expect("a subscription that goes on");
        stored.push(Stored { subject: message.subject.to_string(), payload: message.payload.to_vec() });
    }
    stored
}
