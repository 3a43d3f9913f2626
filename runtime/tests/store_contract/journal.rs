//! A journal on a real broker, as the operator makes it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rhizon_api::settings;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::store::jetstream::{JetStreamStore, JournalMetrics, Place};
use rhizon_tests::nats;
use serde_json::{Value, json};

use super::Stores;

/// The journal of an agent, on a broker of its own or on one that it shares.
pub(crate) struct JetStream {
    pub(crate) server: Option<nats::Server>,
    url: String,
    agent: String,
    dir: tempfile::TempDir,
    opened: AtomicU32,
    /// Of all that are opened.
    pub(crate) metrics: JournalMetrics,
}

impl JetStream {
    pub(crate) async fn start_with(max_bytes: u64) -> Self {
        let server = nats::start(&nats::Options::default());
        create_journal(&server.url(), 1, max_bytes).await;
        let url = server.url();
        Self { server: Some(server), ..Self::on(&url, "a").await }
    }

    /// What a person with too many rights could do.
    pub(crate) async fn purge(&self) {
        ask(&connect(&self.url).await, "$JS.API.STREAM.PURGE.JOURNAL", json!({})).await.unwrap();
    }

    /// Puts something in the place of a message of the snapshot, as a person with too many rights could; or removes it.
    pub(crate) async fn tamper(&self, name: &str, payload: Option<Vec<u8>>) {
        let (connection, subject) = (connect(&self.url).await, format!("sn.{}.0.{name}", self.agent));
        match payload {
            Some(payload) => drop(connection.request("tamper", subject, payload.into()).await.unwrap()),
            None => ask(&connection, "$JS.API.STREAM.PURGE.SNAPSHOTS", json!({"filter": subject})).await.unwrap(),
        }
    }

    /// A message of the snapshot.
    pub(crate) async fn snapshot(&self, name: &str) -> Vec<u8> {
        let get = format!("$JS.API.DIRECT.GET.SNAPSHOTS.sn.{}.0.{name}", self.agent);
        connect(&self.url).await.request("get", get, Vec::new().into()).await.unwrap().to_vec()
    }

    /// How many messages the stream of snapshots has.
    pub(crate) async fn snapshot_messages(&self) -> u64 {
        let connection = connect(&self.url).await;
        let info = connection.request("info", "$JS.API.STREAM.INFO.SNAPSHOTS".into(), Vec::new().into()).await.unwrap();
        serde_json::from_slice::<Value>(&info).unwrap()["state"]["messages"].as_u64().unwrap()
    }

    /// Gives the stream of snapshots another size; what is in it stays.
    pub(crate) async fn limit_snapshots(&self, max_bytes: u64) {
        let config = snapshots(1, max_bytes);
        ask(&connect(&self.url).await, "$JS.API.STREAM.UPDATE.SNAPSHOTS", config).await.unwrap();
    }

    /// One that finds no snapshot.
    pub(crate) async fn open_without_snapshot(&self) -> JetStreamStore {
        self.open_at("sn.none.0").await
    }

    async fn open_at(&self, snapshot_subject: &str) -> JetStreamStore {
        let name = format!("{}.sqlite", self.opened.fetch_add(1, Ordering::Relaxed));
        self.open_with(snapshot_subject, &self.dir.path().join(name)).await
    }

    /// One with its cache at a place of the caller's.
    pub(crate) async fn open_in(&self, dir: &Path) -> JetStreamStore {
        self.open_with(&format!("sn.{}.0", self.agent), &dir.join("cache.sqlite")).await
    }

    async fn open_with(&self, snapshot_subject: &str, cache: &Path) -> JetStreamStore {
        let place = Place {
            stream: "JOURNAL".into(),
            subject: format!("jr.{}.0", self.agent),
            consumer: format!("agent-{}_0", self.agent),
            snapshot_stream: "SNAPSHOTS".into(),
            snapshot_subject: snapshot_subject.into(),
        };
        JetStreamStore::open(connect(&self.url).await, place, cache, self.metrics.clone()).await.unwrap()
    }

    /// On a broker that has the stream already.
    pub(crate) async fn on(url: &str, agent: &str) -> Self {
        let name = format!("agent-{agent}_0");
        let config = json!({
            "durable_name": name, "name": name, "ack_policy": "none", "replay_policy": "instant",
            "filter_subjects": [format!("jr.{agent}.0")],
        });
        let create = json!({"stream_name": "JOURNAL", "config": config});
        ask(&connect(url).await, &format!("$JS.API.CONSUMER.CREATE.JOURNAL.{name}"), create).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let metrics = JournalMetrics::default();
        Self { server: None, url: url.into(), agent: agent.into(), dir, opened: AtomicU32::new(0), metrics }
    }
}

impl Stores for JetStream {
    type Store = JetStreamStore;

    async fn start() -> Self {
        Self::start_with(1 << 30).await
    }

    /// Each with a cache of its own, that knows nothing yet.
    async fn open(&self) -> JetStreamStore {
        self.open_at(&format!("sn.{}.0", self.agent)).await
    }
}

async fn connect(url: &str) -> Connection {
    let nats =
        settings::Nats { url: url.into(), user: "agent-a".into(), credentials: None, ca: None, message_id_key: None };
    let connection = Connection::start(&nats).await.unwrap();
    connection.connected().await.unwrap();
    connection
}

async fn ask(connection: &Connection, subject: &str, request: Value) -> Result<(), String> {
    let answer = connection.request("ask", subject.to_owned(), request.to_string().into()).await;
    let answer: Value = serde_json::from_slice(&answer.map_err(|e| e.to_string())?).unwrap();
    if answer["error"].is_null() { Ok(()) } else { Err(format!("{subject}: {answer}")) }
}

/// A cluster takes a while until it can do this.
pub(crate) async fn create_journal(url: &str, replicas: u32, max_bytes: u64) {
    let connection = connect(url).await;
    let stream = json!({
        "name": "JOURNAL", "subjects": ["jr.>"], "storage": "file", "retention": "limits", "discard": "new",
        "max_bytes": max_bytes, "num_replicas": replicas,
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    for (name, config) in [("JOURNAL", stream), ("SNAPSHOTS", snapshots(replicas, max_bytes))] {
        while let Err(error) = ask(&connection, &format!("$JS.API.STREAM.CREATE.{name}"), config.clone()).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn snapshots(replicas: u32, max_bytes: u64) -> Value {
    json!({
        "name": "SNAPSHOTS", "subjects": ["sn.>"], "storage": "file", "retention": "limits", "discard": "new",
        "max_bytes": max_bytes, "max_msgs_per_subject": 1, "allow_direct": true, "num_replicas": replicas,
    })
}
