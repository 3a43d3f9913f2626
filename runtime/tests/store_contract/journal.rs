//! A journal on a real broker, as the operator makes it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rhizon_api::settings;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::store::jetstream::{JetStreamStore, Place};
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
        Self { server: None, url: url.into(), agent: agent.into(), dir, opened: AtomicU32::new(0) }
    }
}

impl Stores for JetStream {
    type Store = JetStreamStore;

    async fn start() -> Self {
        Self::start_with(1 << 30).await
    }

    /// Each with a cache of its own, that knows nothing yet.
    async fn open(&self) -> JetStreamStore {
        let place = Place {
            stream: "JOURNAL".into(),
            subject: format!("jr.{}.0", self.agent),
            consumer: format!("agent-{}_0", self.agent),
        };
        let cache = self.dir.path().join(format!("{}.sqlite", self.opened.fetch_add(1, Ordering::Relaxed)));
        JetStreamStore::open(connect(&self.url).await, place, &cache).await.unwrap()
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
    while let Err(error) = ask(&connection, "$JS.API.STREAM.CREATE.JOURNAL", stream.clone()).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
