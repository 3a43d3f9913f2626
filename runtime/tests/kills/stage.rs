//! One agent on a stream and a store of its own, and what its sidecars must have made of the events in the end.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;

use jiff::Timestamp;
use rhizon_api::agent::{OperatingMode, Ordering, Protocol};
use rhizon_api::settings;
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::agent::http::HttpAgent;
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::bus::{Outgoing, Publisher as _};
use rhizon_runtime::reads;
use rhizon_runtime::sidecar::{Parts, driver_settings};
use rhizon_runtime::store::EventStore as _;
use rhizon_runtime::store::memory::MemoryStore;
use rhizon_runtime::telemetry::Tracer;
use rhizon_tests::{nats, postgres};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::events::{WORKSPACE, admitted};
use crate::history::{self, Stored};
use crate::setup::{self, Store};
use crate::sidecar::{Fate, Sidecar};
use crate::wait::until;

pub(crate) const AGENT: &str = "counter";
const COMMAND: &str = "cmd.order.count";

/// The agent's process, which may serve any number of stages: it keeps nothing.
pub(crate) struct Agent {
    port: u16,
    _process: Child,
}

impl Agent {
    pub(crate) async fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kills/agent.py");
        let port = nats::free_port();
        let process = setup::spawn_agent(&["python3".into(), script.to_str().unwrap().into()], port);
        until(async || TcpStream::connect(("127.0.0.1", port)).ok(), || "the agent".into()).await;
        Self { port, _process: process }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Where a stage's sidecars find everything.
pub(crate) struct Places {
    pub store: Store,
    pub ordering: Ordering,
    /// Events of a pull, and with the agent at a time. By default small, so that a few hundred events are many batches.
    pub batch: usize,
    pub retry: settings::Retry,
    pub broker_url: String,
    pub postgres_url: String,
}

impl Places {
    /// The broker itself, and the database that all tests share.
    pub(crate) fn direct(store: Store, broker: &nats::Server) -> Self {
        let shared = || tokio::task::block_in_place(postgres::shared).url();
        let postgres_url = if store == Store::Postgres { shared() } else { String::new() };
        let retry = settings::Retry { attempts: 5, initial_ms: 5, max_ms: 20 };
        Self { store, ordering: Ordering::Stream, batch: 32, retry, broker_url: broker.url(), postgres_url }
    }
}

pub(crate) struct Stage {
    client: Connection,
    places: Places,
    agent_url: String,
    dir: TempDir,
    events: Vec<Outgoing>,
}

impl Stage {
    /// `broker_url` is the way of the test itself.
    pub(crate) async fn start(agent: &Agent, broker_url: &str, places: Places) -> Self {
        let client = Connection::start(&setup::nats("gateway", broker_url)).await.unwrap();
        setup::create_streams(&client, places.store).await;
        setup::create_consumers(&client, places.store, AGENT, COMMAND).await;
        Self { client, places, agent_url: agent.url(), dir: tempfile::tempdir().unwrap(), events: Vec::new() }
    }

    pub(crate) async fn publish(&mut self, events: Vec<Outgoing>) {
        setup::publish(&self.client, &events).await;
        self.events.extend(events);
    }

    /// `name` is for its files: a sidecar beside another one has a name of its own.
    pub(crate) fn spawn(&self, name: &str, fate: Option<Fate>) -> Sidecar {
        let path = self.dir.path().join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec(&self.settings(name)).unwrap()).unwrap();
        Sidecar::spawn(&path, path.with_extension("log"), fate)
    }

    fn settings(&self, name: &str) -> settings::Sidecar {
        let Places { store, ordering, batch, retry, broker_url, postgres_url } = &self.places;
        let user = format!("agent-{AGENT}");
        settings::Sidecar {
            kernel: config(),
            ordering: *ordering,
            concurrency: *batch,
            batch_events: *batch,
            retry: *retry,
            protocol: Protocol::Rhizon,
            agent_url: self.agent_url.clone(),
            nats: setup::nats(&user, broker_url),
            shards: vec![settings::Shard {
                index: 0,
                consumer: settings::Consumer { stream: "EVENTS".into(), name: user, first_sequence: 1 },
                store: setup::place(*store, self.dir.path(), AGENT, name, postgres_url),
            }],
            replicas: 1,
            health_listen: format!("127.0.0.1:{}", nats::free_port()),
            drain_listen: format!("127.0.0.1:{}", nats::free_port()),
            revision: "test".into(),
            operating_mode: OperatingMode::Running,
        }
    }

    /// What the sidecar says of itself, if one answers.
    pub(crate) async fn status(&self) -> Option<Value> {
        let answer = setup::read(&self.client, AGENT, "status", &json!({"root": true})).await?;
        serde_json::from_slice::<Value>(&answer.payload).unwrap().get_mut("ok").map(Value::take)
    }

    /// Whether everything that was published has had its effect, and nothing waits.
    pub(crate) async fn is_settled(&self) -> bool {
        let Some(status) = self.status().await else { return false };
        let nothing = ["parked", "deferred", "inFlight"].iter().all(|field| status[field] == 0);
        nothing && status["idle"] == true && status["records"].as_u64() >= Some(self.events.len() as u64 + 1)
    }

    pub(crate) async fn settled(&self, sidecar: &Sidecar) {
        until(async || self.is_settled().await.then_some(()), || sidecar.log()).await;
    }

    /// The whole history is as it must be, and the root that of a calm run.
    pub(crate) async fn check(&self) -> BTreeMap<u64, u64> {
        let lines = self.journal().await;
        let checked = history::check(&self.events, &lines, &self.stored("EVENTS").await, &self.stored("DEAD").await);
        assert_eq!(checked.root.to_string(), self.status().await.expect("a status")["root"], "the live state's root");
        assert_eq!(checked.root.to_string(), self.calm_root().await, "the calm run's root");
        checked.records_by_epoch
    }

    async fn journal(&self) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        loop {
            let question = json!({"after": lines.len()});
            let page = setup::read(&self.client, AGENT, "journal", &question).await.expect("a page of the journal");
            if page.payload.is_empty() {
                return lines;
            }
            lines.extend(page.payload.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
    }

    async fn stored(&self, stream: &str) -> Vec<Stored> {
        history::stored(&self.client, stream).await
    }

    /// The root of the same events in one process that nothing happens to, with the same agent.
    async fn calm_root(&self) -> String {
        let settings = self.settings("calm");
        let (stream, store) = (LocalStream::in_memory(), MemoryStore::default());
        stream.publish(self.events.clone()).await.unwrap();
        let agent = HttpAgent::new(&settings.agent_url, settings.protocol, settings.concurrency);
        let parts = Parts::new(settings.operating_mode, agent, Tracer::default(), 1);
        let driving = driver_settings(&settings, &settings.shards[0]);
        let bus = stream.consumer(AGENT, &driving.config.subscribes);
        let records = self.events.len() as u64 + 1;
        let settled = async || (store.counts().await.unwrap().records >= records).then_some(());
        tokio::select! {
            stopped = parts.drive(driving, bus, store.clone(), 0) => panic!("the calm run stops: {stopped}"),
            () = until(settled, || "the calm run's records".into()) => {}
        }
        reads::root(&store).await.unwrap().to_string()
    }
}

fn config() -> Config {
    Config {
        workspace: WORKSPACE.into(),
        agent: AGENT.into(),
        subscribes: vec![COMMAND.parse().unwrap()],
        publishes: vec!["evt.order.counted".parse().unwrap()],
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: vec![],
    }
}

/// One command. `data` says what the agent does beside counting.
pub(crate) fn event(id: &str, entity: &str, deliver_at: Option<Timestamp>, data: &Value) -> Outgoing {
    let mut event = json!({
        "specversion": "1.0", "id": id, "source": "/test", "type": COMMAND, "subject": entity, "data": data,
    });
    if let Some(deliver_at) = deliver_at {
        event["deliverat"] = json!(deliver_at);
    }
    admitted(Envelope::parse(event.to_string().as_bytes(), &Limits::default()).unwrap())
}

/// One that expects a version which its entity never has.
pub(crate) fn conflicting(id: &str, entity: &str) -> Outgoing {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/test", "type": COMMAND, "subject": entity, "expectedversion": 1_000_000,
    });
    admitted(Envelope::parse(event.to_string().as_bytes(), &Limits::default()).unwrap())
}

/// Plain ones, on a few entities.
pub(crate) fn events(ids: std::ops::Range<u32>) -> Vec<Outgoing> {
    ids.map(|n| event(&format!("event-{n:06}"), &format!("entity-{}", n % 17), None, &json!({}))).collect()
}

/// An event that waits, and one whose output waits.
pub(crate) fn timers(due: Timestamp) -> Vec<Outgoing> {
    let id = format!("{}", due.as_nanosecond());
    let (waits, delays) = (format!("waits-{id}"), format!("delays-{id}"));
    vec![event(&waits, &waits, Some(due), &json!({})), event(&delays, &delays, None, &json!({"deliverAt": due}))]
}
