//! The permits example as real processes: nats-server, two sidecars, a Python and a Rust agent; calm, and killed with
//! SIGKILL at arbitrary moments.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;
mod world;

use std::time::Duration;

use common::log;
use rhizon_runtime::bus::Outgoing;
use rhizon_tests::permits::{Expected, Log};
use world::{Role, Store, World};

fn data() -> (Vec<Outgoing>, Expected) {
    let Log { events, expected } = Log::at_hand();
    (log(&events), Expected::read(&expected).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_are_those_of_the_calm_run_whatever_is_killed() {
    let (events, expected) = data();

    let mut calm = World::start().await;
    calm.publish(&events).await;
    calm.wait_for_total(events.len() as u64).await;
    let roots = calm.check(&expected).await;
    calm.stop().await;

    for store in [Store::Sqlite, Store::Postgres, Store::JetStream] {
        let stormy = storm(store, &events).await;
        assert_eq!(stormy.check(&expected).await, roots, "{store:?}");
        stormy.stop().await;
    }
}

/// Kills everything in turn while the events come, and waits until all of them have had their effect.
async fn storm(store: Store, events: &[Outgoing]) -> World {
    let mut stormy = World::start_on(store, Vec::new()).await;
    let publisher = stormy.publish_beside(events.to_vec());
    for (round, role) in [Role::Sidecar(0), Role::Agent(0), Role::Broker, Role::Sidecar(1), Role::Agent(1)]
        .repeat(2)
        .into_iter()
        .enumerate()
    {
        // Arbitrary, and the same in every run: the steps that are hit differ all the same.
        tokio::time::sleep(Duration::from_millis(90 + 67 * (round as u64 % 4))).await;
        stormy.kill_and_start(role).await;
    }
    publisher.await.unwrap();
    stormy.wait_for_total(events.len() as u64).await;
    stormy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sidecar_of_the_same_agent_makes_the_first_one_stop() {
    for store in [Store::Sqlite, Store::Postgres, Store::JetStream] {
        overtake(store).await;
    }
}

async fn overtake(store: Store) {
    let (events, expected) = data();
    let mut world = World::start_on(store, Vec::new()).await;
    let publisher = world.publish_beside(events.clone());
    tokio::time::sleep(Duration::from_millis(150)).await;
    world.start_second(0);
    assert!(!world.exit_of_first(0).await.success(), "the older sidecar says that it was taken over");
    publisher.await.unwrap();
    world.wait_for_total(events.len() as u64).await;
    world.check(&expected).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_sidecar_takes_nothing_until_its_agent_was_replaced_and_charges_no_attempt() {
    let (events, expected) = data();
    let mut world = World::start().await;
    world.wait_until_ready(0).await;
    let publisher = world.publish_beside(events.clone());
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(world.drain(0).await, (200, "drained\n".to_owned()));
        let before = world.states("permits").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.states("permits").await, before, "nothing is taken while the agent is about to stop");
        world.kill_and_start(Role::Agent(0)).await;
    }
    publisher.await.unwrap();
    world.wait_for_total(events.len() as u64).await;
    world.check(&expected).await;
    let (_, metrics) = world.health(0, "/metrics").await;
    assert!(
        metrics.contains(&format!("rhizon_events_decided_total{{category=\"processed\"}} {}", events.len())),
        "{metrics}"
    );
    assert!(!metrics.contains("rhizon_agent_tries_failed_total{"), "{metrics}");
    assert!(!metrics.contains("category=\"lost\""), "no event was in the agent's hands when it was stopped: {metrics}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_says_what_is_missing() {
    let mut world = World::start().await;
    world.wait_until_ready(0).await;
    world.kill(Role::Agent(0)).await;
    let (status, why) = world.health(0, "/readyz").await;
    assert_eq!((status, why.starts_with("the agent is not ready: ")), (503, true), "{why}");
    assert_eq!(world.health(0, "/healthz").await.0, 200);
    world.kill_and_start(Role::Agent(0)).await;
    world.wait_until_ready(0).await;
    world.stop().await;
}
