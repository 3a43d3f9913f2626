//! What every bus promises, run on the local one and on a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "common/events.rs"]
mod events;

use std::time::Duration;

use bytes::Bytes;
use events::admitted;
use rhizon_api::settings;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::{Envelope, TypePattern};
use rhizon_runtime::bus::jetstream::JetStreamBus;
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::bus::{BusError, EventBus, Message, Outgoing, Publisher as _};
use rhizon_tests::nats;
use serde_json::json;

struct Broker {
    server: nats::Server,
    connection: Connection,
}

async fn connect(server: &nats::Server) -> Connection {
    let settings =
        settings::Nats { url: server.url(), user: "test".into(), credentials: None, ca: None, message_id_key: None };
    Connection::start(&settings).await.unwrap()
}

impl Broker {
    async fn start() -> Self {
        let server = nats::start(&nats::Options::default());
        let connection = connect(&server).await;
        let broker = Self { server, connection };
        let stream = json!({"name": "EVENTS", "subjects": ["ev.>", "to.>"], "discard": "new", "max_bytes": 64 << 20, "allow_atomic": true});
        broker.ask("$JS.API.STREAM.CREATE.EVENTS", &stream).await;
        let consumer = json!({"durable_name": "agent-a", "ack_policy": "all", "filter_subjects": ["ev.cmd.thing.do.*.*", "to.a.cmd.thing.do.*.*"], "max_ack_pending": 20_000});
        broker
            .ask("$JS.API.CONSUMER.CREATE.EVENTS.agent-a", &json!({"stream_name": "EVENTS", "config": consumer}))
            .await;
        broker
    }

    async fn ask(&self, subject: &str, request: &serde_json::Value) {
        let answer = self.connection.request("ask", subject.into(), request.to_string().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer).contains("\"error\""), "{answer:?}");
    }

    async fn consumer(&self) -> serde_json::Value {
        let info = self.connection.request("ask", "$JS.API.CONSUMER.INFO.EVENTS.agent-a".into(), Bytes::new()).await;
        serde_json::from_slice(&info.unwrap()).unwrap()
    }

    fn bus(&self) -> JetStreamBus {
        JetStreamBus::new(self.connection.clone(), "EVENTS".into(), "agent-a".into())
    }
}

fn local() -> impl EventBus {
    let pattern: TypePattern = "cmd.thing.do".parse().unwrap();
    LocalStream::in_memory().consumer("a", &[pattern])
}

fn event(id: usize, verb: &str) -> Outgoing {
    let event_type = format!("cmd.thing.{verb}").parse().unwrap();
    admitted(Envelope::new(id.to_string(), "/test".into(), event_type, format!("entity {}", id % 7)))
}

async fn pull(bus: &impl EventBus, count: usize) -> Vec<Message> {
    let mut all = Vec::new();
    while all.len() < count {
        let more = tokio::time::timeout(Duration::from_secs(20), bus.pull(100)).await.expect("messages");
        all.extend(more.unwrap());
    }
    all
}

async fn what_is_published_comes_in_order_and_once(bus: impl EventBus) {
    let events: Vec<Outgoing> = (0..250).map(|id| event(id, if id % 5 == 0 { "skip" } else { "do" })).collect();
    for batch in events.chunks(60) {
        bus.publish(batch.to_vec()).await.unwrap();
    }
    for again in [&events[..3], &events[40..90]] {
        let acks = bus.publish(again.to_vec()).await.unwrap();
        assert!(acks.iter().all(|ack| ack.duplicate), "what is there already is not stored again: {acks:?}");
    }
    bus.attach(0).await.unwrap();
    let got = pull(&bus, 200).await;
    let want: Vec<&Bytes> = events.iter().enumerate().filter(|(id, _)| id % 5 != 0).map(|(_, e)| &e.payload).collect();
    assert_eq!(got.iter().map(|m| &m.payload).collect::<Vec<_>>(), want);
    assert!(got.windows(2).all(|pair| pair[0].stream < pair[1].stream));
}

async fn a_reader_begins_behind_any_position(bus: impl EventBus) {
    bus.publish((0..30).map(|id| event(id, "do")).collect()).await.unwrap();
    for position in [0, 11, 20, 29] {
        bus.attach(position).await.unwrap();
        let first = pull(&bus, 1).await;
        assert_eq!(first[0].stream, position + 1);
    }
    // Waiting for what is not there yet.
    bus.attach(30).await.unwrap();
    let (messages, ()) = tokio::join!(pull(&bus, 1), async {
        bus.publish(vec![event(99, "do")]).await.unwrap();
    });
    assert_eq!(messages[0].stream, 31);
}

#[tokio::test]
async fn local_order() {
    what_is_published_comes_in_order_and_once(local()).await;
}

#[tokio::test]
async fn local_position() {
    a_reader_begins_behind_any_position(local()).await;
}

#[tokio::test]
async fn jetstream_order() {
    let broker = Broker::start().await;
    what_is_published_comes_in_order_and_once(broker.bus()).await;
}

#[tokio::test]
async fn jetstream_position() {
    let broker = Broker::start().await;
    a_reader_begins_behind_any_position(broker.bus()).await;
}

#[tokio::test]
async fn no_more_comes_than_was_asked_for() {
    let broker = Broker::start().await;
    let bus = broker.bus();
    for from in (0..3_000).step_by(500) {
        bus.publish((from..from + 500).map(|id| event(id, "do")).collect()).await.unwrap();
    }
    bus.attach(0).await.unwrap();
    let mut taken = 0;
    while taken < 1_000 {
        taken += bus.pull(50).await.unwrap().len() as u64;
    }
    let delivered = broker.consumer().await["delivered"]["consumer_seq"].as_u64().unwrap();
    assert!(delivered <= taken + 50, "{delivered} were handed out, and {taken} taken");
}

#[tokio::test]
async fn a_second_reader_is_noticed_as_a_gap_by_the_first() {
    let broker = Broker::start().await;
    let first = broker.bus();
    let second_connection = connect(&broker.server).await;
    let second = JetStreamBus::new(second_connection, "EVENTS".into(), "agent-a".into());
    first.publish((0..40).map(|id| event(id, "do")).collect()).await.unwrap();
    first.attach(0).await.unwrap();
    assert_eq!(first.pull(10).await.unwrap()[0].stream, 1);
    second.attach(0).await.unwrap();
    let taken = pull(&second, 20).await;
    assert_eq!(taken[0].stream, 1);
    // New messages go to the one or the other; the first that the older reader gets shows it what it has missed.
    let mut next = 40;
    let error = loop {
        tokio::select! {
            pulled = first.pull(10) => match pulled {
                Ok(messages) => assert!(messages.iter().all(|m| m.stream <= 10), "only what was under way"),
                Err(error) => break error,
            },
            _ = second.pull(1) => {}
            published = first.publish(vec![event(next, "do")]) => {
                published.unwrap();
                next += 1;
            }
        }
        assert!(next < 1_000, "the older reader notices nothing");
    };
    assert!(matches!(error, BusError::Gap(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_starts_again_is_a_gap_and_loses_nothing() {
    let mut broker = Broker::start().await;
    let bus = broker.bus();
    bus.publish((0..40).map(|id| event(id, "do")).collect()).await.unwrap();
    bus.attach(0).await.unwrap();
    let before = pull(&bus, 40).await;
    tokio::task::block_in_place(|| broker.server.restart());
    let error = loop {
        match bus.pull(10).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BusError::Gap(_)), "{error}");
    loop {
        match bus.attach(0).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, BusError::Unreachable { .. }), "{error}"),
        }
    }
    assert_eq!(
        pull(&bus, 40).await.iter().map(|m| m.stream).collect::<Vec<_>>(),
        before.iter().map(|m| m.stream).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_floor_above_the_position_is_told_and_nothing_is_attached() {
    let broker = Broker::start().await;
    let bus = broker.bus();
    bus.publish((0..10).map(|id| event(id, "do")).collect()).await.unwrap();
    bus.attach(0).await.unwrap();
    pull(&bus, 10).await;
    bus.settled(7).await;
    while broker.consumer().await["ack_floor"]["stream_seq"] != 7 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bus.attach(3).await.unwrap().floor, 7);
    assert!(matches!(bus.pull(1).await.unwrap_err(), BusError::Gap(_)));
}

#[tokio::test]
async fn a_full_stream_is_said_and_stores_nothing_of_a_batch() {
    let broker = Broker::start().await;
    let bus = broker.bus();
    let large = |id: usize| Outgoing {
        key: Hash::of(&[&id.to_be_bytes()]),
        payload: vec![b'x'; 2 << 20].into(),
        ..event(id, "do")
    };
    let mut stored = 0;
    let error = loop {
        match bus.publish((0..7).map(|n| large(stored + n)).collect()).await {
            Ok(_) => stored += 7,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BusError::Full(_)), "{error}");
    bus.attach(0).await.unwrap();
    assert_eq!(pull(&bus, stored).await.len(), stored);
}
