//! A journal on a real broker, as the operator makes it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rhizon_api::settings;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::store::jetstream::{JetStreamStore, Place};
use rhizon_tests::nats;
use serde_json::{Value, json};

use super::Stores;

pub(crate) struct JetStream {
    pub(crate) server: nats::Server,
    dir: tempfile::TempDir,
    opened: AtomicU32,
}

impl JetStream {
    pub(crate) async fn start() -> Self {
        Self::start_with(1 << 30).await
    }

    pub(crate) async fn start_with(max_bytes: u64) -> Self {
        let server = nats::start(&nats::Options::default());
        create_journal(&server.url(), 1, max_bytes).await;
        Self { server, dir: tempfile::tempdir().unwrap(), opened: AtomicU32::new(0) }
    }

    /// The cache of the store that was opened as this one.
    pub(crate) fn cache(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("{number}.sqlite"))
    }

    pub(crate) async fn open_with(&self, number: u32) -> JetStreamStore {
        open(&self.server.url(), &self.cache(number)).await
    }
}

impl Stores for JetStream {
    type Store = JetStreamStore;

    /// Each with a cache of its own, that knows nothing yet.
    async fn open(&self) -> JetStreamStore {
        self.open_with(self.opened.fetch_add(1, Ordering::Relaxed)).await
    }
}

pub(crate) async fn open(url: &str, cache: &std::path::Path) -> JetStreamStore {
    let place = Place { stream: "JOURNAL".into(), subject: "jr.a.0".into(), consumer: "agent-a_0".into() };
    JetStreamStore::open(connect(url).await, place, cache).await.unwrap()
}

async fn connect(url: &str) -> Connection {
    let nats =
        settings::Nats { url: url.into(), user: "agent-a".into(), credentials: None, ca: None, message_id_key: None };
    let connection = Connection::start(&nats).await.unwrap();
    connection.connected().await.unwrap();
    connection
}

pub(crate) async fn create_journal(url: &str, replicas: u32, max_bytes: u64) {
    let connection = connect(url).await;
    let ask = async |subject: &str, request: Value| {
        let answer = connection.request("ask", subject.to_owned(), request.to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["error"].is_null(), "{subject}: {answer}");
    };
    let stream = json!({
        "name": "JOURNAL", "subjects": ["jr.>"], "storage": "file", "retention": "limits", "discard": "new",
        "max_bytes": max_bytes, "num_replicas": replicas,
    });
    ask("$JS.API.STREAM.CREATE.JOURNAL", stream).await;
    let config = json!({
        "durable_name": "agent-a_0", "name": "agent-a_0", "ack_policy": "none", "replay_policy": "instant",
        "filter_subjects": ["jr.a.0"],
    });
    let create = json!({"stream_name": "JOURNAL", "config": config});
    ask("$JS.API.CONSUMER.CREATE.JOURNAL.agent-a_0", create).await;
}
