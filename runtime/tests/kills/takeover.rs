//! A sidecar stands still until another one has taken over, and then goes on: it must find itself fenced, and write nothing.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use rhizon_runtime::failpoint::Step::{self, *};
use rhizon_tests::nats;

use crate::setup::Store;
use crate::sidecar::{Fate, Sidecar};
use crate::stage::{Agent, Places, Stage, events, timers};
use crate::wait::until;

/// Where the first one stands still.
#[derive(Debug, Clone, Copy)]
enum Place {
    At(Step),
    /// Wherever it is, after so many records.
    Behind(u64),
}

fn places(store: Store) -> Vec<Place> {
    let steps = [
        Claimed,
        Attached,
        Pulled,
        Loaded,
        Calling,
        Answered,
        Appending,
        Appended,
        Acknowledging,
        Publishing,
        Published,
    ];
    let late = [Marking, Firing, Fired];
    let mut places: Vec<Place> = steps.into_iter().chain(late).map(Place::At).collect();
    // In the middle of an append it holds the lock of its database, which PostgreSQL takes away after 15 seconds.
    if store != Store::Sqlite {
        places.push(Place::At(Written));
    }
    places.extend([20, 60, 110].map(Place::Behind));
    places
}

async fn stands_still(stage: &mut Stage, place: Place) -> Sidecar {
    match place {
        Place::At(step) => {
            let time = if matches!(step, Claimed | Attached | Marking | Firing | Fired | Written) { 1 } else { 2 };
            let first = stage.spawn("first", Some(Fate::Stopped(step, time)));
            let mut ahead = Duration::from_millis(300);
            while !reaches(&first, step, ahead + Duration::from_millis(700)).await {
                assert!(ahead < Duration::from_mins(1), "{step:?} is not reached: {}", first.log());
                stage.publish(timers(Timestamp::now() + ahead)).await;
                ahead *= 2;
            }
            first
        }
        Place::Behind(records) => {
            let first = stage.spawn("first", None);
            let works = async || stage.status().await?["records"].as_u64().filter(|there| *there > records);
            until(works, || first.log()).await;
            first.signal("STOP").await;
            first
        }
    }
}

async fn reaches(first: &Sidecar, step: Step, within: Duration) -> bool {
    let look = async {
        while !(first.has_reached(step) && first.stands_still()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(within, look).await.is_ok()
}

async fn run(agent: &Agent, store: Store, place: Place) {
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(agent, &broker.url(), Places::direct(store, &broker)).await;
    stage.publish(events(0..160)).await;
    let mut first = stands_still(&mut stage, place).await;
    let second = stage.spawn("second", None);
    // Wherever it stands, it may hold the lock of a file, which nobody takes away: then the second one waits for it.
    let is_locked_out = || store == Store::Sqlite && second.log().contains("database is locked");
    let works = async || (is_locked_out() || stage.is_settled().await).then_some(());
    until(works, || format!("{place:?} on {store:?}: {}", second.log())).await;
    first.signal("CONT").await;
    // One that waits for events meets the fence with the next.
    stage.publish(events(160..200)).await;
    let status = first.ended().await;
    assert!(!status.success(), "{place:?} on {store:?}: {}", first.log());
    assert!(first.log().contains("another process has taken over"), "{place:?} on {store:?}: {}", first.log());
    stage.settled(&second).await;
    stage.check().await;
    second.stop().await;
}

async fn all(store: Store) {
    let agent = Agent::start().await;
    let runs = places(store).into_iter().map(|place| run(&agent, store, place));
    stream::iter(runs).buffer_unordered(6).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_until_another_has_taken_over_on_sqlite() {
    all(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_until_another_has_taken_over_on_postgres() {
    all(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_until_another_has_taken_over_on_jetstream() {
    all(Store::JetStream).await;
}
