//! The sidecar is killed with SIGKILL at each numbered step of the driver, on each store, and started again.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::failpoint::Step;
use rhizon_tests::nats;
use serde_json::json;
use tokio::time::Instant;

use crate::setup::Store;
use crate::sidecar::{Fate, Sidecar};
use crate::stage::{Agent, Places, Stage, event, events, timers};

/// The lives of a sidecar before the one that it survives: at which step each ends, and which time that is reached.
type Lives = [(Step, u32); 2];

fn cases(store: Store) -> Vec<Lives> {
    use Step::*;
    // Of those of the start there is one in each life; a recovery needs a life before it that left something.
    let mut cases = vec![
        [(Claimed, 1), (Claimed, 1)],
        [(Publishing, 2), (Recovering, 1)],
        [(Publishing, 2), (Recovered, 1)],
        [(Attached, 1), (Attached, 1)],
        [(Marking, 1), (Marking, 1)],
        [(Firing, 1), (Firing, 1)],
        [(Fired, 1), (Fired, 1)],
    ];
    let often = [Pulled, Loaded, Counted, Calling, Answered, Appending, Appended, Acknowledging, Publishing, Published];
    cases.extend(often.map(|step| [(step, 1), (step, 2)]));
    cases.push(match store {
        // Only an append with something that waits is a transaction of several statements.
        Store::Postgres => [(Written, 1), (Written, 1)],
        // The first ones are the claim and the config.
        Store::Sqlite | Store::JetStream => [(Written, 3), (Written, 3)],
    });
    cases
}

/// Plain ones, and one of each kind that is not: refused, one whose batch is lost, and one that its agent never answers.
fn log() -> Vec<Outgoing> {
    let mut log = events(0..240);
    for (at, data) in
        [(50, json!({"refuse": true})), (90, json!({"leave": "batch"})), (130, json!({"leave": "always"}))]
    {
        log.insert(at, event(&format!("odd-{at}"), &format!("odd-{at}"), None, &data));
    }
    log
}

/// Waits until the sidecar has died at the step. What has to do with time is begun again when the machine was too slow for it.
async fn dies(stage: &mut Stage, mut sidecar: Sidecar, step: Step) {
    let mut ahead = Duration::from_millis(300);
    loop {
        let due = Timestamp::now() + ahead;
        stage.publish(timers(due)).await;
        let deadline = Instant::now() + ahead + Duration::from_millis(500);
        while Instant::now() < deadline {
            if sidecar.is_killed_at(step) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ahead *= 2;
        assert!(ahead < Duration::from_mins(1), "{step:?} is not reached: {}", sidecar.log());
    }
}

async fn run(agent: &Agent, store: Store, lives: Lives) {
    let broker = tokio::task::block_in_place(|| nats::start(&nats::Options::default()));
    let mut stage = Stage::start(agent, &broker.url(), Places::direct(store, &broker)).await;
    stage.publish(log()).await;
    for (step, time) in lives {
        let sidecar = stage.spawn("sidecar", Some(Fate::Killed(step, time)));
        dies(&mut stage, sidecar, step).await;
    }
    let last = stage.spawn("sidecar", None);
    stage.settled(&last).await;
    stage.check().await;
    last.stop().await;
}

async fn matrix(store: Store) {
    let agent = Agent::start().await;
    let runs = cases(store).into_iter().map(|lives| run(&agent, store, lives));
    stream::iter(runs).buffer_unordered(3).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_on_sqlite() {
    matrix(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_on_postgres() {
    matrix(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_on_jetstream() {
    matrix(Store::JetStream).await;
}
