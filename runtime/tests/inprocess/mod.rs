//! The permits example's agents as functions, and a driver on a task of its own.

mod late;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rhizon_kernel::Config;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::{Draft, Reaction, StateChange};
use rhizon_runtime::agent::{Answer, Item};
use rhizon_runtime::clock::SystemClock;
use rhizon_runtime::driver::{Bounds, Demand, Driver, Order, Ordering, Report, Retry, Settings, Stopped};
use rhizon_runtime::store::EventStore;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub(crate) fn settings(config: Config) -> Settings {
    Settings {
        config,
        ordering: Ordering::Stream,
        retry: Retry { attempts: 3, initial_ms: 10, max_ms: 50 },
        batch_events: 256,
        concurrency: 64,
        revision: "test".into(),
        first_position: 0,
        bounds: Bounds::default(),
    }
}

/// Keeps `{steps, digest}` per application and tells who recorded it.
pub(crate) fn permits(item: &Item) -> Answer {
    let envelope: Value = serde_json::from_slice(&item.envelope).unwrap();
    let data = &envelope["data"];
    let state: Value = item.state.as_ref().map_or(Value::Null, |s| serde_json::from_str(s.get()).unwrap());
    let steps = state["steps"].as_u64().unwrap_or(0) + 1;
    let chained = format!("{}|{}", state["digest"].as_str().unwrap_or(""), data["activity"].as_str().unwrap());
    let digest = Hash(Sha256::digest(chained).into());
    let output = Draft {
        event_type: "evt.permit.recorded".into(),
        subject: Some(data["resource"].as_str().unwrap().into()),
        target: None,
        deliver_at: None,
        data: Some(raw(&json!({"application": envelope["subject"], "steps": steps}))),
    };
    let state = StateChange::Set(raw(&json!({"steps": steps, "digest": digest.to_string()})));
    Answer::Reaction(Reaction { outputs: vec![output], state })
}

/// Counts what each officer handled.
pub(crate) fn ledger(item: &Item) -> Answer {
    let state: Value = item.state.as_ref().map_or(Value::Null, |s| serde_json::from_str(s.get()).unwrap());
    let handled = state["handled"].as_u64().unwrap_or(0) + 1;
    Answer::Reaction(Reaction { outputs: vec![], state: StateChange::Set(raw(&json!({"handled": handled}))) })
}

pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

pub(crate) async fn states(store: &impl EventStore) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = store.entities(after.clone(), 500, usize::MAX).await.unwrap();
        let Some((last, _)) = page.last() else { return all };
        after.clone_from(last);
        all.extend(
            page.into_iter()
                .filter_map(|(entity, head)| Some((entity, serde_json::from_str(head.state?.get()).unwrap()))),
        );
    }
}

/// A driver on its own task.
pub(crate) struct Running {
    pub(crate) orders: watch::Sender<Order>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) task: tokio::task::JoinHandle<Stopped>,
}

pub(crate) fn start<B, S, A>(settings: &Settings, bus: B, store: S, agent: A) -> Running
where
    B: rhizon_runtime::bus::EventBus,
    S: EventStore,
    A: rhizon_runtime::agent::Agent,
{
    let (orders, ordered) = watch::channel(Order::default());
    let (reporter, report) = watch::channel(Report::default());
    let driver = Driver {
        settings: Arc::new(settings.clone()),
        bus,
        store,
        agent,
        clock: SystemClock,
        metrics: Arc::default(),
        tracer: rhizon_runtime::telemetry::Tracer::default(),
        orders: ordered,
        report: reporter,
    };
    Running { orders, report, task: tokio::spawn(driver.drive()) }
}

impl Running {
    /// Waits until the driver has settled a stream sequence.
    pub(crate) async fn reaches(&mut self, position: u64) {
        let reached = self.report.wait_for(|report| report.position >= position && report.in_flight == 0);
        let reached = tokio::time::timeout(Duration::from_mins(1), reached).await;
        reached.unwrap_or_else(|_| panic!("position {position} is not reached")).unwrap();
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.orders.send_replace(Order { number: 1, demand: Demand::Stop });
        self.task.await.unwrap()
    }
}
