//! A change of what an agent takes gets one place in the stream, whatever happens on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so where it stands")]

mod api_server;
mod broker;
mod world;

use async_nats::Client;
use rhizon_operator::{nats::api, workspace};
use serde_json::{Value, json};
use world::{AGENT, POD, STATEFUL_SET, World, without_events};

const SETTINGS: &str = "/api/v1/namespaces/permits/configmaps/agent-ledger";

/// An agent that runs, and the operator's way to the workspace's streams.
async fn running() -> (World, Client) {
    let world = World::running().await;
    let keys = workspace::read_keys("permits", &world.context).await.unwrap().unwrap();
    let data = world.context.pool.client(&keys.data).await.unwrap();
    (world, data)
}

fn subscribe(world: &World, types: &[&str]) {
    world.server.change(AGENT, |agent| agent["spec"]["subscribes"] = json!(types));
}

/// Stores an event and answers its sequence.
async fn publish(data: &Client, event_type: &str) -> u64 {
    let ack = data.request(format!("ev.{event_type}.1.gateway"), "{}".into()).await.unwrap();
    serde_json::from_slice::<Value>(&ack.payload).unwrap()["seq"].as_u64().unwrap()
}

/// The types that the consumer lets through to everybody.
async fn let_through(data: &Client) -> Vec<String> {
    let info = api::call(data, "$JS.API.CONSUMER.INFO.EVENTS.agent-ledger", &Value::Null).await.unwrap();
    let filters = info["config"]["filter_subjects"].as_array().unwrap().iter();
    let mut types: Vec<String> = filters
        .filter_map(|filter| filter.as_str().unwrap().strip_prefix("ev.")?.strip_suffix(".*.*").map(str::to_owned))
        .collect();
    types.sort();
    types
}

/// The rules as the sidecar's settings have them.
fn rules(world: &World) -> Value {
    let settings = world.server.get(SETTINGS).unwrap();
    let settings: Value = serde_json::from_str(settings["data"]["settings.json"].as_str().unwrap()).unwrap();
    let kernel = &settings["kernel"];
    json!([kernel["subscribes"], kernel["from"], kernel["earlier"]])
}

fn replicas(world: &World) -> u64 {
    world.server.get(STATEFUL_SET).unwrap()["spec"]["replicas"].as_u64().unwrap()
}

#[tokio::test]
async fn new_rules_have_one_place_and_filters_follow() {
    let (world, data) = running().await;
    assert_eq!(publish(&data, "evt.permit.recorded").await, 1);
    let before = rules(&world);

    // While a process could read with the old rules, there is no place.
    subscribe(&world, &["evt.permit.filed"]);
    world.agent().await;
    assert_eq!((rules(&world), replicas(&world)), (before, 0));
    assert_eq!(world.condition(AGENT, "Ready"), ("False".to_owned(), "Changing".to_owned()));
    assert_eq!(let_through(&data).await, ["evt.permit.recorded"]);
    assert_eq!(publish(&data, "evt.permit.recorded").await, 2);
    assert_eq!(publish(&data, "evt.permit.filed").await, 3);

    // Without any, it is behind what the stream holds.
    world.server.remove(POD);
    world.agent().await;
    let old = json!([{"subscribes": ["evt.permit.recorded"], "authorization": []}]);
    let placed = json!([["evt.permit.filed"], 4, old]);
    assert_eq!((rules(&world), replicas(&world)), (placed.clone(), 1));
    assert_eq!(let_through(&data).await, ["evt.permit.filed", "evt.permit.recorded"]);

    // It stays, whatever comes.
    world.make_pods_ready();
    for event_type in ["evt.permit.recorded", "evt.permit.filed"] {
        publish(&data, event_type).await;
    }
    world.agent().await;
    assert_eq!(without_events(world.agent().await), Vec::<String>::new(), "a steady state writes nothing");
    assert_eq!(rules(&world), placed);
    let sidecar = world.user().await;
    let pulled = sidecar.pull("agent-ledger", 10).await;
    assert_eq!(pulled.len(), 5, "old and new types, from before and behind the place");
    sidecar.ask(&pulled[1].1, "+ACK").await.unwrap();
    world.agent().await;
    assert_eq!(let_through(&data).await.len(), 2, "event 3 is before the place");

    // Once that is passed, the filter is narrowed, and nothing else changes.
    sidecar.ask(&pulled[2].1, "+ACK").await.unwrap();
    world.server.writes();
    let written = without_events(world.agent().await);
    assert!(written.iter().all(|write| write.ends_with("/status")), "{written:?}");
    assert_eq!((let_through(&data).await, rules(&world)), (vec!["evt.permit.filed".to_owned()], placed));
}

#[tokio::test]
async fn rules_that_come_back_before_they_had_a_place_change_nothing() {
    let (world, data) = running().await;
    let before = rules(&world);
    subscribe(&world, &["evt.permit.filed"]);
    world.agent().await;
    world.server.remove(POD);
    // The filter is wide, and the settings could not be written.
    world.server.break_after(0);
    world.try_agent().await;
    assert!(world.server.repair());
    assert_eq!((let_through(&data).await.len(), rules(&world)), (2, before.clone()));
    subscribe(&world, &["evt.permit.recorded"]);
    world.agent().await;
    assert_eq!((rules(&world), replicas(&world)), (before, 1));
    assert_eq!(let_through(&data).await, ["evt.permit.recorded"]);
}

#[tokio::test]
async fn a_crash_at_any_write_is_made_up_for_and_no_place_is_picked_twice() {
    for writes in 0.. {
        let (world, data) = running().await;
        publish(&data, "evt.permit.recorded").await;
        subscribe(&world, &["evt.permit.filed"]);
        world.server.break_after(writes);
        world.try_agent().await;
        if replicas(&world) == 0 {
            world.server.remove(POD);
        }
        world.try_agent().await;
        let was_cut_short = world.server.repair();
        let picked = rules(&world)[1].as_u64();
        publish(&data, "evt.permit.filed").await;
        // Somebody starts the operator again.
        world.agent().await;
        if replicas(&world) == 0 {
            world.server.remove(POD);
        }
        world.agent().await;
        let place = picked.unwrap_or(3);
        let old = json!([{"subscribes": ["evt.permit.recorded"], "authorization": []}]);
        assert_eq!(rules(&world), json!([["evt.permit.filed"], place, old]), "cut short after {writes} writes");
        assert_eq!(replicas(&world), 1);
        assert_eq!(let_through(&data).await, ["evt.permit.filed", "evt.permit.recorded"]);
        world.make_pods_ready();
        world.agent().await;
        assert_eq!(without_events(world.agent().await), Vec::<String>::new());
        if !was_cut_short {
            return;
        }
    }
}
