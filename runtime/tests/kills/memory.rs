//! A sidecar's memory does not grow with what waits for it.

use std::time::Duration;

use rhizon_api::agent::Ordering;
use rhizon_api::settings::Retry;
use rhizon_tests::nats;
use serde_json::json;

use crate::setup::Store;
use crate::sidecar::Sidecar;
use crate::stage::{Agent, Places, Stage, conflicting, event};

/// What a backlog of any size may take; the pod gives 256 MiB.
const LIMIT_KIB: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_mins(5);
/// With it each backlog is above the limit.
const DATA_BYTES: usize = 2_000;
const BACKLOG: u64 = 120_000;
/// Those of the entity whose first event fails, and those of others behind them.
const HELD: u64 = 100_000;
const OTHERS: u64 = 10_000;

/// States of nearly the limit, and half of what the pod gives.
const STATE_BYTES: usize = 1_000_000;
const SMALL: u64 = 2_000;
const LARGE: u64 = 100;
const LARGE_LIMIT_KIB: u64 = 128 << 10;

fn places(broker: &nats::Server, ordering: Ordering) -> Places {
    let retry = Retry { attempts: 1_000, initial_ms: 500, max_ms: 500 };
    Places { ordering, batch: 500, retry, ..Places::direct(Store::Sqlite, broker) }
}

/// Publishes events with much data, a few thousand at a time.
async fn fill(stage: &mut Stage, ids: std::ops::Range<u64>, entity: impl Fn(u64) -> String) {
    let data = json!({"much": "x".repeat(DATA_BYTES)});
    let ids: Vec<u64> = ids.collect();
    for part in ids.chunks(2_000) {
        stage.publish(part.iter().map(|n| event(&format!("event-{n}"), &entity(*n), None, &data)).collect()).await;
    }
}

/// Resident memory, but for the program's own pages: a test build has ten times those of a release.
fn memory_kib(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a number");
    anonymous.trim_end_matches("kB").trim().parse().unwrap()
}

/// Looks at the memory all the time until the work is done, and at the work, which costs the sidecar much, now and then.
async fn peak_kib(sidecar: &Sidecar, is_done: impl AsyncFn() -> bool) -> u64 {
    let mut peak = 0;
    let watch = async {
        loop {
            peak = peak.max(memory_kib(sidecar));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = async {
        while !is_done().await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = watch => {}
        done = tokio::time::timeout(PATIENCE, done) => done.unwrap_or_else(|_| panic!("it is not done: {}", sidecar.log())),
    }
    println!("{peak} KiB at most");
    peak
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_memory_is_drained_within_bounds() {
    let agent = Agent::start().await;
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(&agent, &broker.url(), places(&broker, Ordering::Stream)).await;
    fill(&mut stage, 0..BACKLOG, |n| format!("entity-{}", n % 5_000)).await;
    let sidecar = stage.spawn("sidecar", None);
    let peak = peak_kib(&sidecar, async || stage.is_settled().await).await;
    assert!(peak < LIMIT_KIB, "{peak} KiB for {BACKLOG} events of {DATA_BYTES} bytes");
    sidecar.stop().await;
}

/// They come to be while far more events wait than may have such states at a time.
async fn large_states_stay_within_bounds(ordering: Ordering) {
    let agent = Agent::start().await;
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(&agent, &broker.url(), places(&broker, ordering)).await;
    // Many that are small come first: nothing says how large the next ones will be.
    let small = (0..SMALL).map(|n| event(&format!("small-{n}"), &format!("small-{}", n % 300), None, &json!({})));
    stage.publish(small.collect()).await;
    let data = json!({"pad": STATE_BYTES});
    for round in 0..3 {
        let all = (0..LARGE).map(|n| event(&format!("event-{round}-{n}"), &format!("entity-{n}"), None, &data));
        stage.publish(all.collect()).await;
    }
    let sidecar = stage.spawn("sidecar", None);
    let peak = peak_kib(&sidecar, async || stage.is_settled().await).await;
    assert!(peak < LARGE_LIMIT_KIB, "{peak} KiB for {LARGE} states of {STATE_BYTES} bytes");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_states_stay_within_bounds_in_the_order_of_the_stream() {
    large_states_stay_within_bounds(Ordering::Stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_states_stay_within_bounds_in_the_order_of_entities() {
    large_states_stay_within_bounds(Ordering::Entity).await;
}

/// Each decision knows the state that it leaves as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_holds_no_state_of_its_own() {
    let agent = Agent::start().await;
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(&agent, &broker.url(), places(&broker, Ordering::Stream)).await;
    stage.publish(vec![event("first", "large", None, &json!({"pad": STATE_BYTES}))]).await;
    // The first life makes the state, and the second comes upon the others all at once.
    let sidecar = stage.spawn("sidecar", None);
    stage.settled(&sidecar).await;
    sidecar.stop().await;
    fill(&mut stage, 0..SMALL, |n| format!("small-{}", n % 300)).await;
    stage.publish((0..SMALL).map(|n| conflicting(&format!("late-{n}"), "large")).collect()).await;
    let sidecar = stage.spawn("sidecar", None);
    let peak = peak_kib(&sidecar, async || stage.is_settled().await).await;
    assert!(peak < LARGE_LIMIT_KIB, "{peak} KiB for {SMALL} conflicts about a state of {STATE_BYTES} bytes");
    sidecar.stop().await;
}

/// Its events wait in the store, and all others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_fails_holds_no_memory() {
    let agent = Agent::start().await;
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(&agent, &broker.url(), places(&broker, Ordering::Entity)).await;
    stage.publish(vec![event("first", "held", None, &json!({"fail": true}))]).await;
    fill(&mut stage, 0..HELD, |_| "held".into()).await;
    fill(&mut stage, HELD..HELD + OTHERS, |n| format!("entity-{}", n % 5_000)).await;
    let sidecar = stage.spawn("sidecar", None);
    let others_are_done = async || {
        let Some(status) = stage.status().await else { return false };
        status["records"].as_u64() > Some(OTHERS) && status["parked"].as_u64() >= Some(HELD)
    };
    let peak = peak_kib(&sidecar, others_are_done).await;
    assert!(peak < LIMIT_KIB, "{peak} KiB with {HELD} events of {DATA_BYTES} bytes behind one that fails");
    tokio::time::timeout(Duration::from_mins(1), sidecar.stop()).await.expect("it stops");
}
