//! Streams and consumers at the broker, as the operator makes them, but for bounds.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rhizon_api::settings::{self, Sidecar};
use rhizon_runtime::bus::nats::Connection;
use serde_json::{Value, json};

use crate::stores::Store;

pub(crate) fn nats(user: &str, url: &str) -> settings::Nats {
    settings::Nats { url: url.into(), user: user.into(), credentials: None, ca: None, message_id_key: None }
}

pub(crate) async fn create_streams(client: &Connection, store: Store) -> anyhow::Result<()> {
    let stream = |name: &str, subjects: &[&str], bytes: i64| {
        json!({
            "name": name, "subjects": subjects, "storage": "file", "discard": "new", "max_bytes": bytes,
            "allow_atomic": true,
        })
    };
    // A backlog may be as large as the disk allows.
    let mut streams = vec![stream("EVENTS", &["ev.>", "to.>"], -1), stream("DEAD", &["dead.>"], 64 << 20)];
    if store == Store::JetStream {
        let mut snapshots = stream("SNAPSHOTS", &["sn.>"], 1 << 30);
        snapshots["max_msgs_per_subject"] = json!(1);
        snapshots["allow_direct"] = json!(true);
        streams.extend([stream("JOURNAL", &["jr.>"], -1), snapshots]);
    }
    for stream in streams {
        let name = stream["name"].as_str().unwrap_or_default();
        ask(client, &format!("$JS.API.STREAM.CREATE.{name}"), &stream).await?;
    }
    Ok(())
}

/// For each of the agent's shards one of events and, when its store is there, one of its journal.
pub(crate) async fn create_consumers(client: &Connection, settings: &Sidecar) -> anyhow::Result<()> {
    for shard in &settings.shards {
        let settings::Consumer { stream, name, .. } = &shard.consumer;
        let config = json!({
            "durable_name": name, "ack_policy": "all", "ack_wait": 120_000_000_000_u64, "max_ack_pending": 20_000,
            "filter_subjects": settings.filters(shard, 0),
        });
        create_consumer(client, stream, name, &config).await?;
        if let settings::Store::JetStream { stream, subject, consumer, .. } = &shard.store {
            let config = json!({ "durable_name": consumer, "ack_policy": "none", "filter_subjects": [subject] });
            create_consumer(client, stream, consumer, &config).await?;
        }
    }
    Ok(())
}

async fn create_consumer(client: &Connection, stream: &str, name: &str, config: &Value) -> anyhow::Result<()> {
    let request = json!({"stream_name": stream, "config": config});
    ask(client, &format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request).await.map(drop)
}

/// How many messages were ever on the stream of events.
pub(crate) async fn messages(client: &Connection) -> anyhow::Result<u64> {
    let info = ask(client, "$JS.API.STREAM.INFO.EVENTS", &Value::Null).await?;
    info["state"]["last_seq"].as_u64().context("the stream's last sequence")
}

/// How many messages an agent has not settled yet.
pub(crate) async fn unsettled(client: &Connection, settings: &Sidecar) -> anyhow::Result<u64> {
    let mut count = 0;
    for shard in &settings.shards {
        let settings::Consumer { stream, name, .. } = &shard.consumer;
        let info = ask(client, &format!("$JS.API.CONSUMER.INFO.{stream}.{name}"), &Value::Null).await?;
        let waiting = ["num_pending", "num_ack_pending"].map(|field| info[field].as_u64());
        count += waiting.into_iter().sum::<Option<u64>>().context("what waits at the consumer")?;
    }
    Ok(count)
}

async fn ask(client: &Connection, subject: &str, request: &Value) -> anyhow::Result<Value> {
    let payload = if request.is_null() { Bytes::new() } else { request.to_string().into() };
    let answer = client.request("ask", subject.into(), payload).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if !answer["error"].is_null() {
        bail!("{subject}: {answer}");
    }
    Ok(answer)
}
