//! The whole path inside one process: two agents in a chain, stores and bus real but local.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod inprocess;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::events::admitted;
use common::{config, log};
use inprocess::{Running, ledger, permits, settings, start, states};
use rhizon_kernel::Envelope;
use rhizon_kernel::replay::Replay;
use rhizon_runtime::agent::{Answer, InProcess, Item};
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::bus::{Ack, BusError, Outgoing, Publisher};
use rhizon_runtime::clock::SystemClock;
use rhizon_runtime::driver::{Settings, Stopped};
use rhizon_runtime::engine::{Effect, Engine, Error};
use rhizon_runtime::reads::root;
use rhizon_runtime::store::EventStore;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::store::sqlite::SqliteStore;
use rhizon_tests::permits::{Expected, Log};

/// Replays a whole journal; answers its root.
async fn verify(store: &impl EventStore) -> String {
    let mut replay = Replay::default();
    loop {
        let rows = store.journal(replay.tail().sequence, 1 << 20).await.unwrap();
        if rows.is_empty() {
            assert_eq!(replay.root(), root(store).await.unwrap(), "replay equals the live state");
            return replay.root().to_string();
        }
        for row in rows {
            replay.push(&row.line).unwrap_or_else(|mismatch| panic!("{mismatch}"));
        }
    }
}

/// Waits until a count over all states has reached its end, and nothing is in flight.
async fn until(running: &mut Running, store: &impl EventStore, field: &str, total: u64) {
    let reached = async {
        loop {
            let sum: u64 = states(store).await.values().map(|state| state[field].as_u64().unwrap()).sum();
            if sum >= total && running.report.borrow().in_flight == 0 {
                return;
            }
            running.report.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached)
        .await
        .unwrap_or_else(|_| panic!("{field} does not reach {total}"));
}

#[tokio::test]
async fn a_chain_of_agents_gives_the_expected_states_and_the_same_roots_on_both_stores() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = async |name: &str| SqliteStore::open(&dir.path().join(name)).await.unwrap();
    let on_memory = run_chain(MemoryStore::default(), MemoryStore::default()).await;
    let on_sqlite = run_chain(sqlite("permits").await, sqlite("ledger").await).await;
    assert_eq!(on_memory, on_sqlite);
}

async fn run_chain<S: EventStore>(first: S, second: S) -> [String; 2] {
    let stream = LocalStream::in_memory();
    let (permits_settings, ledger_settings) = (
        settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"])),
        settings(config("ledger", "evt.permit.recorded", &[])),
    );
    let events = log(&Log::sample().events);
    let total = events.len() as u64;
    let bus = |s: &rhizon_runtime::driver::Settings| stream.consumer(&s.config.agent, &s.config.subscribes);
    let mut one = start(&permits_settings, bus(&permits_settings), first.clone(), InProcess(permits));
    let mut two = start(&ledger_settings, bus(&ledger_settings), second.clone(), InProcess(ledger));
    // Everything twice: the second time has no effect.
    stream.publish(events.clone()).await.unwrap();
    for event in &events {
        let again = Outgoing { key: rhizon_kernel::chain::Hash::of(&[&event.payload]), ..event.clone() };
        stream.publish(vec![again]).await.unwrap();
    }
    until(&mut one, &first, "steps", total).await;
    until(&mut two, &second, "handled", total).await;
    Expected::read(&Log::sample().expected)
        .unwrap()
        .compare_all(&states(&first).await, &states(&second).await)
        .unwrap();
    assert!(matches!(one.stop().await, Stopped::Asked));
    assert!(matches!(two.stop().await, Stopped::Asked));
    [verify(&first).await, verify(&second).await]
}

#[tokio::test]
async fn a_restart_goes_on_where_the_store_stands() {
    let (stream, store) = (LocalStream::in_memory(), MemoryStore::default());
    let settings = settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"]));
    let events = log(&Log::sample().events);
    for part in events.chunks(37) {
        let bus = stream.consumer("permits", &settings.config.subscribes);
        let running = start(&settings, bus, store.clone(), InProcess(permits));
        stream.publish(part.to_vec()).await.unwrap();
        // No waiting: the stop comes at an arbitrary step.
        running.task.abort();
    }
    let mut last =
        start(&settings, stream.consumer("permits", &settings.config.subscribes), store.clone(), InProcess(permits));
    until(&mut last, &store, "steps", events.len() as u64).await;
    assert_eq!(states(&store).await, Expected::read(&Log::sample().expected).unwrap().permits);
    assert_eq!(stream.last_sequence(), 2 * events.len() as u64, "each output is published once");
    last.stop().await;
    verify(&store).await;
}

#[tokio::test]
async fn a_store_that_was_kept_goes_on_where_it_stands_and_a_new_one_begins_where_it_is_told() {
    let (stream, kept) = (LocalStream::in_memory(), MemoryStore::default());
    let settings = settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"]));
    let bus = || stream.consumer("permits", &settings.config.subscribes);
    let events: Vec<Outgoing> = (0..9).map(|n| event(&n.to_string(), "a", "ok")).collect();
    stream.publish(events[..3].to_vec()).await.unwrap();
    let mut first = start(&settings, bus(), kept.clone(), InProcess(permits));
    first.reaches(3).await;
    first.stop().await;
    let rest = stream.publish(events[3..].to_vec()).await.unwrap();
    let last = rest.last().unwrap().stream;
    // The agent was deleted and made anew, which says to begin at what comes from now on.
    let again = Settings { first_position: last - 3, ..settings.clone() };
    let new = MemoryStore::default();
    for (store, steps) in [(kept, 9), (new, 3)] {
        let mut running = start(&again, bus(), store.clone(), InProcess(permits));
        running.reaches(last).await;
        assert_eq!(states(&store).await["a"]["steps"], steps);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_newer_owner_fences_the_older_one() {
    let (stream, store) = (LocalStream::in_memory(), MemoryStore::default());
    let settings = settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"]));
    let bus = || stream.consumer("permits", &settings.config.subscribes);
    let mut old = start(&settings, bus(), store.clone(), InProcess(permits));
    old.report.wait_for(|report| report.attached).await.unwrap();
    let mut new = start(&settings, bus(), store.clone(), InProcess(permits));
    new.report.wait_for(|report| report.attached).await.unwrap();
    let events = log(&Log::sample().events);
    stream.publish(events.clone()).await.unwrap();
    assert!(matches!(old.task.await.unwrap(), Stopped::Store(_)));
    new.reaches(events.len() as u64).await;
    assert_eq!(states(&store).await, Expected::read(&Log::sample().expected).unwrap().permits);
    new.stop().await;
    verify(&store).await;
}

/// Fails "bad" until it is dead-lettered, refuses "never", answers "wrong" with a type it may not publish.
fn moody(item: &Item) -> Answer {
    let envelope: serde_json::Value = serde_json::from_slice(&item.envelope).unwrap();
    match envelope["data"]["activity"].as_str().unwrap() {
        "bad" => Answer::Failed(rhizon_kernel::ingress::Reason::new("agent_failed", "bad day")),
        "never" => Answer::Refused(rhizon_kernel::ingress::Reason::new("agent_rejected", "not mine")),
        "wrong" => match permits(item) {
            Answer::Reaction(mut reaction) => {
                reaction.outputs[0].event_type = "evt.other.thing".into();
                Answer::Reaction(reaction)
            }
            other => other,
        },
        _ => permits(item),
    }
}

fn event(id: &str, entity: &str, activity: &str) -> Outgoing {
    let mut envelope = Envelope::new(id.into(), "/test".into(), "cmd.permit.record".parse().unwrap(), entity.into());
    envelope.data = Some(inprocess::raw(&serde_json::json!({"activity": activity, "resource": "r"})));
    admitted(envelope)
}

#[tokio::test]
async fn every_kind_of_failure_is_journaled_and_harms_no_other_event() {
    let (stream, store) = (LocalStream::in_memory(), MemoryStore::default());
    let settings = settings(config("permits", "cmd.permit.record", &["evt.permit.recorded"]));
    let bus = stream.consumer("permits", &settings.config.subscribes);
    let mut running = start(&settings, bus, store.clone(), InProcess(moody));
    let mut foreign = event("6", "a", "x");
    let text = String::from_utf8(foreign.payload.to_vec())
        .unwrap()
        .replace(r#""workspace":"permits""#, r#""workspace":"other""#);
    foreign.payload = text.into();
    let garbage = Outgoing { payload: "no json".into(), ..event("7", "a", "x") };
    let list = vec![
        event("1", "a", "ok"),
        event("2", "a", "bad"),
        event("3", "a", "never"),
        event("4", "a", "wrong"),
        foreign,
        garbage,
        event("5", "a", "ok"),
    ];
    stream.publish(list).await.unwrap();
    running.reaches(7).await;
    let malformed = format!("malformed-{}", rhizon_kernel::subject::partition("a"));
    let unread = store.history(malformed, 0, 1 << 20).await.unwrap();
    assert!(matches!(&unread[..], [row] if String::from_utf8_lossy(&row.line).contains(r#""code":"not_json""#)));
    let history = store.history("a".into(), 0, 1 << 20).await.unwrap();
    let decided: Vec<serde_json::Value> = history
        .iter()
        .map(|row| serde_json::from_slice::<serde_json::Value>(&row.line).unwrap()["decided"].clone())
        .collect();
    let outcomes: Vec<(&str, &str)> =
        decided.iter().map(|d| (d["outcome"].as_str().unwrap(), d["reason"]["code"].as_str().unwrap_or(""))).collect();
    assert_eq!(
        outcomes,
        [
            ("processed", ""),
            ("dead-lettered", "agent_failed"),
            ("rejected", "agent_rejected"),
            ("dead-lettered", "agent_invalid_answer"),
            ("rejected", "wrong_workspace"),
            ("processed", ""),
        ]
    );
    assert_eq!(states(&store).await["a"]["steps"], 2);
    let report = running.report.borrow().clone();
    assert!(report.last_error.is_some(), "a failure is to be seen");
    running.stop().await;
    verify(&store).await;
}

#[tokio::test]
async fn the_embedded_engine_decides_the_same_as_the_driver() {
    let (stream, store) = (LocalStream::in_memory(), MemoryStore::default());
    let config = config("permits", "cmd.permit.record", &["evt.permit.recorded"]);
    let events = log(&Log::sample().events);
    let engine =
        Engine::start(config.clone(), InProcess(permits), stream.clone(), store.clone(), SystemClock).await.unwrap();
    for event in &events {
        let envelope = Envelope::parse(&event.payload, &config.limits).unwrap();
        assert!(matches!(engine.process_event(&envelope).await.unwrap(), Effect::Settled { .. }));
        assert_eq!(engine.process_event(&envelope).await.unwrap(), Effect::Duplicate);
    }
    assert_eq!(states(&store).await, Expected::read(&Log::sample().expected).unwrap().permits);
    assert_eq!(stream.last_sequence(), events.len() as u64, "each output is published once");
    let (driven, again) = (MemoryStore::default(), LocalStream::in_memory());
    let mut running = start(
        &settings(config),
        again.consumer("permits", &["cmd.permit.record".parse().unwrap()]),
        driven.clone(),
        InProcess(permits),
    );
    again.publish(events.clone()).await.unwrap();
    running.reaches(events.len() as u64).await;
    running.stop().await;
    assert_eq!(verify(&store).await, verify(&driven).await);
}

/// Loses its broker at every second call: before the message is there, or with only the ack lost.
#[derive(Clone)]
struct Shaky {
    stream: LocalStream,
    calls: Arc<AtomicUsize>,
}

impl Publisher for Shaky {
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Ack>, BusError> {
        let call = self.calls.fetch_add(1, SeqCst);
        if call % 2 == 1 {
            return self.stream.publish(messages).await;
        }
        if call % 4 == 2 {
            self.stream.publish(messages).await?;
        }
        Err(BusError::Gap("planned".into()))
    }
}

#[tokio::test]
async fn outputs_of_the_embedded_engine_wait_for_the_next_event_or_start() {
    let stream = LocalStream::in_memory();
    let (shaky, store) = (Shaky { stream: stream.clone(), calls: Arc::default() }, MemoryStore::default());
    let config = config("permits", "cmd.permit.record", &["evt.permit.recorded"]);
    let start = || Engine::start(config.clone(), InProcess(permits), shaky.clone(), store.clone(), SystemClock);
    let engine = start().await.unwrap();
    let events = log(&Log::sample().events);
    let total = events.len();
    for event in &events {
        let envelope = Envelope::parse(&event.payload, &config.limits).unwrap();
        let decided = engine.process_event(&envelope).await;
        assert!(matches!(decided, Err(Error::Outputs(_))), "{decided:?}");
        assert_eq!(engine.process_event(&envelope).await.unwrap(), Effect::Duplicate);
    }
    assert_eq!(stream.last_sequence(), total as u64, "each output is published once");
    assert_eq!(shaky.calls.load(SeqCst), 2 * total);
    // And when there is no next event: the start publishes, or says that it could not.
    let last = Envelope { id: "last".into(), ..Envelope::parse(&events[0].payload, &config.limits).unwrap() };
    assert!(engine.process_event(&last).await.is_err());
    drop(engine);
    start().await.unwrap();
    assert_eq!(stream.last_sequence(), total as u64 + 1);
}
