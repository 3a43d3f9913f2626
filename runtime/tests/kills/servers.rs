//! Broker and database are killed while a sidecar is in the middle of telling them something. A proxy sees what passes, and
//! stops it at the very place.

use std::time::Duration;

use jiff::Timestamp;
use rhizon_tests::nats;
use rhizon_tests::postgres;
use rhizon_tests::proxy::Direction::{ToClient, ToServer};
use rhizon_tests::proxy::{Proxy, Trap};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::setup::Store;
use crate::sidecar::Sidecar;
use crate::stage::{Agent, Places, Stage, events, timers};
use crate::wait::until;

/// How many events come at a time, until the trap is sprung.
const EACH: u32 = 64;

/// Publishes until something has come to the place where the trap is; the server has read all before it then.
async fn spring(stage: &mut Stage, proxy: &Proxy, next: &mut u32) {
    let mut rounds = 0;
    while !proxy.is_sprung() {
        assert!(rounds < 60, "no such bytes pass");
        rounds += 1;
        stage.publish(events(*next..*next + EACH)).await;
        stage.publish(timers(Timestamp::now() + Duration::from_millis(200))).await;
        *next += EACH;
        for _ in 0..100 {
            if proxy.is_sprung() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn has_lived_through(stage: &mut Stage, sidecar: Sidecar) {
    stage.settled(&sidecar).await;
    let epochs = stage.check().await;
    assert_eq!(epochs.len(), 1, "the sidecar lived through it all: {epochs:?}");
    sidecar.stop().await;
}

async fn broker_is_killed(store: Store, traps: Vec<Trap>) {
    let agent = Agent::start().await;
    let mut broker = block_in_place(|| nats::start(&nats::Options::default()));
    let proxy = Proxy::start(broker.port());
    let broker_url = format!("nats://127.0.0.1:{}", proxy.port());
    let places = Places { broker_url, ..Places::direct(store, &broker) };
    let mut stage = Stage::start(&agent, &broker.url(), places).await;
    let sidecar = stage.spawn("sidecar", None);
    let mut next = 0;
    for trap in traps {
        proxy.set(trap);
        spring(&mut stage, &proxy, &mut next).await;
        block_in_place(|| broker.restart());
        proxy.open();
    }
    has_lived_through(&mut stage, sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_killed_in_a_batch_and_in_an_ack() {
    let in_batch = |number: u32| Trap::Before(ToServer, format!("Nats-Batch-Sequence: {number}\r\n").into());
    let traps = vec![
        in_batch(2),
        in_batch(9),
        in_batch(20),
        Trap::Before(ToServer, b"Nats-Batch-Commit".to_vec()),
        // Stored, and the answer is lost.
        Trap::Before(ToClient, b"\"batch\":".to_vec()),
        Trap::Before(ToServer, b"JS.ACK".to_vec()),
        Trap::Answer(b"JS.ACK".to_vec()),
    ];
    broker_is_killed(Store::Sqlite, traps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_killed_in_an_append_to_its_journal() {
    let appends = [
        Trap::Before(ToServer, b"Nats-Expected-Last-Subject-Sequence".to_vec()),
        Trap::Before(ToClient, b"\"stream\":\"JOURNAL\"".to_vec()),
    ];
    broker_is_killed(Store::JetStream, [appends.clone(), appends].concat()).await;
}

/// Before the commit is asked for, and between the commit and its answer; with appends that are one statement, and with
/// those that are a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_killed_in_a_commit() {
    let agent = Agent::start().await;
    let broker = block_in_place(|| nats::start(&nats::Options::default()));
    let mut database = block_in_place(postgres::start);
    let proxy = Proxy::start(database.port());
    let postgres_url = database.url().replace(&format!(":{}/", database.port()), &format!(":{}/", proxy.port()));
    let places = Places { postgres_url, ..Places::direct(Store::Postgres, &broker) };
    let mut stage = Stage::start(&agent, &broker.url(), places).await;
    let sidecar = stage.spawn("sidecar", None);
    until(async || stage.status().await.filter(|status| status["ready"] == true), || sidecar.log()).await;
    let mut next = 0;
    for round in 0..8 {
        // The id is in the records that are appended, and nowhere else.
        let id = format!("event-{:06}", next + 5).into_bytes();
        proxy.set(match round % 4 {
            0 => Trap::Before(ToServer, id),
            1 => Trap::Answer(id),
            2 => Trap::Before(ToServer, b"COMMIT".to_vec()),
            _ => Trap::Answer(b"COMMIT".to_vec()),
        });
        spring(&mut stage, &proxy, &mut next).await;
        block_in_place(|| database.crash());
        proxy.open();
    }
    has_lived_through(&mut stage, sidecar).await;
}
