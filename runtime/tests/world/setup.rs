//! What all tests with real processes begin with: streams and consumers as the operator makes them, places for stores, and
//! a client that publishes and asks.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rhizon_api::settings;
use rhizon_kernel::subject;
use rhizon_runtime::bus::jetstream::JetStreamPublisher;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::bus::{BusError, Outgoing, Publisher as _};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
    JetStream,
}

pub(crate) fn nats(user: &str, url: &str) -> settings::Nats {
    settings::Nats { url: url.into(), user: user.into(), credentials: None, ca: None, message_id_key: None }
}

pub(crate) async fn create_streams(client: &Connection, store: Store) {
    let journal = (store == Store::JetStream).then_some(("JOURNAL", json!(["jr.>"])));
    for (name, subjects) in
        [("EVENTS", json!(["ev.>", "to.>"])), ("DEAD", json!(["dead.>"]))].into_iter().chain(journal)
    {
        let stream = json!({
            "name": name, "subjects": subjects, "storage": "file", "retention": "limits", "discard": "new",
            "max_bytes": 1_u64 << 30, "num_replicas": 1, "allow_atomic": true, "duplicate_window": 120_000_000_000_u64,
        });
        ask(client, &format!("$JS.API.STREAM.CREATE.{name}"), &stream).await;
    }
    if store == Store::JetStream {
        let snapshots = json!({
            "name": "SNAPSHOTS", "subjects": ["sn.>"], "storage": "file", "retention": "limits", "discard": "new",
            "max_bytes": 1_u64 << 28, "max_msgs_per_subject": 1, "allow_direct": true, "num_replicas": 1,
        });
        ask(client, "$JS.API.STREAM.CREATE.SNAPSHOTS", &snapshots).await;
    }
}

/// An agent's consumer of events and, when its store is there, of its journal.
pub(crate) async fn create_consumers(client: &Connection, store: Store, agent: &str, subscribes: &str) {
    let name = format!("agent-{agent}");
    let config = json!({
        "durable_name": name, "name": name, "ack_policy": "all", "deliver_policy": "all", "ack_wait": 120_000_000_000_u64,
        "max_deliver": -1, "max_ack_pending": 20_000, "filter_subjects": subject::filters(agent, &[subscribes.parse().unwrap()]),
    });
    let create = json!({"stream_name": "EVENTS", "config": config});
    ask(client, &format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}"), &create).await;
    if store == Store::JetStream {
        let journal = json!({
            "durable_name": format!("{name}_0"), "name": format!("{name}_0"), "ack_policy": "none",
            "replay_policy": "instant", "filter_subjects": [format!("jr.{agent}.0")],
        });
        let create = json!({"stream_name": "JOURNAL", "config": journal});
        ask(client, &format!("$JS.API.CONSUMER.CREATE.JOURNAL.{name}_0"), &create).await;
    }
}

/// A second sidecar has a cache of its own, and everything else with the first.
pub(crate) fn place(store: Store, dir: &Path, agent: &str, suffix: &str, postgres_url: &str) -> settings::Store {
    match store {
        Store::Sqlite => settings::Store::Sqlite { path: dir.join(format!("{agent}.sqlite")) },
        Store::Postgres => {
            let url_file = dir.join("postgres.url");
            std::fs::write(&url_file, postgres_url).unwrap();
            // The server is for many tests, and this folder's name for nobody else.
            let world = dir.file_name().unwrap().to_str().unwrap().replace('.', "-");
            settings::Store::Postgres { url_file, schema: format!("rhizon_{agent}_{world}"), account: "A".into() }
        }
        Store::JetStream => settings::Store::JetStream {
            stream: "JOURNAL".into(),
            subject: format!("jr.{agent}.0"),
            consumer: format!("agent-{agent}_0"),
            snapshot_stream: "SNAPSHOTS".into(),
            snapshot_subject: format!("sn.{agent}.0"),
            cache: dir.join(format!("{agent}{suffix}.cache")),
        },
    }
}

pub(crate) fn spawn_agent(command: &[String], port: u16) -> Child {
    Command::new(&command[0])
        .args(&command[1..])
        .env("RHIZON_LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

pub(crate) async fn ask(client: &Connection, subject: &str, request: &Value) -> Value {
    let answer = client.request("ask", subject.to_owned(), request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}

/// What a sidecar answers, if one does.
pub(crate) async fn read(
    client: &Connection,
    agent: &str,
    verb: &str,
    question: &Value,
) -> Option<async_nats::Message> {
    let request = client.client.request(format!("rq.{agent}.{verb}"), question.to_string().into());
    tokio::time::timeout(Duration::from_secs(5), request).await.ok()?.ok()
}

/// As the gateway does: batch after batch, each again until it is acknowledged.
pub(crate) async fn publish(client: &Connection, events: &[Outgoing]) {
    let publisher = JetStreamPublisher::new(client.clone());
    for batch in events.chunks(250) {
        while let Err(error) = publisher.publish(batch.to_vec()).await {
            assert!(!matches!(error, BusError::Refused { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
