//! What leaves the event stream of a real broker, and what an agent that is behind keeps in it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so where it stands")]

mod broker;

use broker::{Broker, User, WORKSPACE};
use rhizon_api::{units::Duration, workspace::Messaging};
use rhizon_operator::nats::{api, retention, streams};
use serde_json::json;

const EVENT: &str = "ev.evt.permit.recorded.7.gateway";

/// Everything is old at once.
fn short() -> Messaging {
    Messaging { max_age: Duration::from_ms(0), ..Messaging::default() }
}

async fn enforce(broker: &Broker, messaging: &Messaging, consumers: &[&str]) -> Option<u64> {
    let consumers: Vec<String> = consumers.iter().map(|name| (*name).to_owned()).collect();
    retention::enforce(&broker.data, "EVENTS", messaging, &consumers).await.unwrap()
}

/// Takes so many events, and acknowledges them.
async fn handle(agent: &User, consumer: &str, count: u32) {
    let pulled = agent.pull(consumer, count).await;
    agent.ask(&pulled.last().unwrap().1, "+ACK").await.unwrap();
}

#[tokio::test]
async fn old_events_go_when_every_agent_has_handled_them() {
    let broker = Broker::start(WORKSPACE).await;
    let (gateway, permits) = (broker.gateway().await, broker.agent("permits", &[], &["evt.permit.*"]).await);
    // It never had an event, and so is as far as anybody.
    broker.agent("idle", &[], &["evt.other.happened"]).await;
    for payload in ["1", "2", "3"] {
        gateway.publish(EVENT, &[], payload).await;
    }
    assert_eq!(enforce(&broker, &short(), &[]).await, None, "nothing is handled yet");
    handle(&permits, "agent-permits", 2).await;
    assert_eq!(enforce(&broker, &Messaging::default(), &[]).await, None, "all are young");
    assert_eq!(enforce(&broker, &short(), &["agent-permits", "agent-idle"]).await, Some(3));
    assert_eq!(broker.messages().await, 1);
    handle(&permits, "agent-permits", 1).await;
    assert_eq!(enforce(&broker, &short(), &[]).await, Some(4));
    assert_eq!(broker.messages().await, 0);
}

#[tokio::test]
async fn a_paused_agent_and_one_without_its_consumer_lose_nothing() {
    let broker = Broker::start(WORKSPACE).await;
    let (gateway, permits) = (broker.gateway().await, broker.agent("permits", &[], &["evt.*.*"]).await);
    let paused = broker.agent("paused", &[], &["evt.*.*"]).await;
    for payload in ["1", "2", "3", "4"] {
        gateway.publish(EVENT, &[], payload).await;
    }
    handle(&permits, "agent-permits", 4).await;
    handle(&paused, "agent-paused", 1).await;
    assert_eq!(enforce(&broker, &short(), &["agent-permits", "agent-paused"]).await, Some(2));
    assert_eq!(enforce(&broker, &short(), &[]).await, None);
    // The broker forgets how far the paused one is.
    let gone = "$JS.API.CONSUMER.DELETE.EVENTS.agent-paused";
    api::call(&broker.data, gone, &serde_json::Value::Null).await.unwrap();
    assert_eq!(enforce(&broker, &short(), &["agent-permits", "agent-paused"]).await, None);
    assert_eq!(broker.messages().await, 3);
    assert_eq!(enforce(&broker, &short(), &["agent-permits"]).await, Some(5), "without the agent they may go");
}

#[tokio::test]
async fn a_stream_that_fills_up_lets_young_events_go_but_none_that_somebody_waits_for() {
    let broker = Broker::start(WORKSPACE).await;
    let (gateway, permits) = (broker.gateway().await, broker.agent("permits", &[], &["evt.*.*"]).await);
    let small = Messaging { max_bytes: "64Ki".parse().unwrap(), ..Messaging::default() };
    streams::ensure(&broker.data, &streams::build(&small)[0]).await.unwrap();
    let payload = "x".repeat(1 << 10);
    let publish = async |count| {
        for _ in 0..count {
            gateway.publish(EVENT, &[], &payload).await;
        }
    };
    publish(30).await;
    handle(&permits, "agent-permits", 30).await;
    assert_eq!(enforce(&broker, &small, &["agent-permits"]).await, None, "young, and there is room");
    publish(15).await;
    assert_eq!(enforce(&broker, &small, &["agent-permits"]).await, Some(31), "above 70%, what is handled goes");
    assert_eq!(broker.messages().await, 15);
    publish(40).await;
    assert_eq!(enforce(&broker, &small, &["agent-permits"]).await, None, "full, and all of it is waited for");
    let refused = gateway.try_publish(EVENT, &[], &"x".repeat(10 << 10)).await;
    assert_eq!(refused["error"]["err_code"], json!(10077), "{refused}");
}
