//! The stores that are measured, each with a server of its own where it needs one.

use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;
use rhizon_api::settings;
use rhizon_runtime::bus::nats::Connection;
use rhizon_tests::postgres;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
    Jetstream,
}

/// A store that is ready to be used, for as long as the value lives.
pub(crate) struct Prepared {
    pub settings: settings::Store,
    _server: Option<postgres::Server>,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres",
            Self::Jetstream => "JetStream",
        }
    }

    pub(crate) async fn prepare(self, client: &Connection, dir: &Path) -> anyhow::Result<Prepared> {
        let mut server = None;
        let settings = match self {
            Self::Sqlite => settings::Store::Sqlite { path: dir.join("store.sqlite") },
            Self::Postgres => {
                let started = tokio::task::spawn_blocking(postgres::start).await?;
                let url_file = dir.join("url");
                std::fs::write(&url_file, started.url())?;
                server = Some(started);
                settings::Store::Postgres { url_file, schema: "bench".into(), account: "bench".into() }
            }
            Self::Jetstream => {
                create_journal(client).await?;
                settings::Store::JetStream {
                    stream: "JOURNAL".into(),
                    subject: "jr.bench.0".into(),
                    consumer: "agent-bench_0".into(),
                    snapshot_stream: "SNAPSHOTS".into(),
                    snapshot_subject: "sn.bench.0".into(),
                    cache: dir.join("cache.sqlite"),
                }
            }
        };
        Ok(Prepared { settings, _server: server })
    }
}

async fn create_journal(client: &Connection) -> anyhow::Result<()> {
    let stream = json!({
        "name": "JOURNAL", "subjects": ["jr.>"], "storage": "file", "discard": "new", "max_bytes": 2_u64 << 30,
    });
    let consumer = json!({ "durable_name": "agent-bench_0", "ack_policy": "none", "filter_subject": "jr.bench.0" });
    create(client, "$JS.API.STREAM.CREATE.JOURNAL", stream).await?;
    let snapshots = json!({
        "name": "SNAPSHOTS", "subjects": ["sn.>"], "storage": "file", "discard": "new", "max_bytes": 1_u64 << 30,
        "max_msgs_per_subject": 1, "allow_direct": true,
    });
    create(client, "$JS.API.STREAM.CREATE.SNAPSHOTS", snapshots).await?;
    let consumer = json!({"stream_name": "JOURNAL", "config": consumer});
    create(client, "$JS.API.CONSUMER.CREATE.JOURNAL.agent-bench_0.jr.bench.0", consumer).await
}

pub(crate) async fn create(client: &Connection, subject: &str, request: Value) -> anyhow::Result<()> {
    let answer = client.request("create", subject.into(), request.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if !answer["error"].is_null() {
        bail!("{subject}: {answer}");
    }
    Ok(())
}
