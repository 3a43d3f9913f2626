//! The largest that is allowed is taken by every store, in one step, and what is larger is refused before.

use std::time::Duration;

use jiff::Timestamp;
use rhizon_api::agent::Ordering;
use rhizon_api::settings::Retry;
use rhizon_tests::nats;
use serde_json::json;

use crate::setup::Store;
use crate::stage::{Agent, Places, Stage, event};

/// With their second form, in which they wait, just below and above what a decision may have.
const FITTING: u32 = 6;
const TOO_MANY: u32 = 7;
const OUTPUT_BYTES: u32 = 400_000;
/// Behind an event that fails, far more than a store takes at once.
const BEHIND: u32 = 20;

async fn takes_the_largest(store: Store) {
    let agent = Agent::start().await;
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let retry = Retry { attempts: 3, initial_ms: 1_000, max_ms: 1_000 };
    let places = Places { ordering: Ordering::Entity, retry, ..Places::direct(store, &broker) };
    let mut stage = Stage::start(&agent, &broker.url(), places).await;
    let due = Timestamp::now() + Duration::from_secs(5);
    let timed = |outputs: u32| json!({"outputs": outputs, "bytes": OUTPUT_BYTES, "deliverAt": due});
    stage.publish(vec![event("failing", "held", None, &json!({"fail": true}))]).await;
    for n in 0..BEHIND {
        stage.publish(vec![event(&format!("behind-{n}"), "held", None, &json!({"much": "x".repeat(900_000)}))]).await;
    }
    let fitting = ["one", "two", "three"].map(|id| event(id, id, None, &timed(FITTING)));
    stage.publish(fitting.to_vec()).await;
    stage.publish(vec![event("too many", "greedy", None, &timed(TOO_MANY))]).await;
    let sidecar = stage.spawn("sidecar", None);
    stage.settled(&sidecar).await;
    let epochs = stage.check().await;
    assert_eq!(epochs.len(), 1, "one sidecar did it all: {epochs:?}");
    let dead = stage.status().await.expect("a status")["dead"].clone();
    assert_eq!(dead, 2, "the failing one and the one that asks for too much");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    takes_the_largest(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    takes_the_largest(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream() {
    takes_the_largest(Store::JetStream).await;
}
