//! One run: events are put on the stream, then the sidecar starts and is timed until all outputs are on the stream too.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use rhizon_api::agent::{OperatingMode, Ordering, Protocol};
use rhizon_api::settings;
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::subject::{self, Subject};
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::bus::jetstream::JetStreamPublisher;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::bus::{Outgoing, Publisher as _};
use rhizon_tests::nats;
use serde_json::{Value, json, value::RawValue};
use tokio::process::{Child, Command};

use crate::report::Figures;
use crate::stores::{Prepared, Store, create};
use crate::{Options, load};

const COMMAND: &str = "cmd.bench.do";
const DONE: &str = "evt.bench.done";
/// How many events are timed with nothing beside them.
const ALONE: usize = 500;

struct Bench {
    client: Connection,
    _broker: nats::Server,
    _store: Prepared,
    _agent: Child,
    sidecar: Child,
    _dir: tempfile::TempDir,
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
pub(crate) async fn measure(options: &Options, store: Store) -> anyhow::Result<Figures> {
    let broker = nats::start(&nats::Options::default());
    let client = Connection::start(&nats_settings("gateway", &broker.url())).await?;
    create_stream(&client).await?;
    let publisher = JetStreamPublisher::new(client.clone());
    let began = Instant::now();
    for chunk in (0..options.events).collect::<Vec<_>>().chunks(500) {
        publisher.publish(chunk.iter().map(|n| event(options, *n)).collect()).await?;
    }
    let publishing = began.elapsed();
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let agent = Command::new(std::env::current_exe()?)
        .arg("agent")
        .env("RHIZON_LISTEN", format!("127.0.0.1:{port}"))
        .kill_on_drop(true)
        .spawn()?;
    let prepared = store.prepare(&client, dir.path()).await?;
    let began = Instant::now();
    let (sidecar, health) = start_sidecar(options, &broker.url(), &prepared, dir.path(), port)?;
    let mut bench = Bench { client, _broker: broker, _store: prepared, _agent: agent, sidecar, _dir: dir };
    let ready = bench.wait_until_ready(health, began).await?;
    let pipeline = bench.wait_for(2 * options.events as u64, began).await?;
    let (resident_bytes, cpu) = bench.usage()?;
    let alone = bench.latency(options, &publisher).await?;
    let rate = options.events as f64 / pipeline.as_secs_f64();
    let loaded = load::at_rate(options, &bench.client, options.events + ALONE, rate / 2.0).await?;
    Ok(Figures { publishing, ready, pipeline, alone, loaded, resident_bytes, cpu })
}

impl Bench {
    async fn messages(&self) -> anyhow::Result<u64> {
        let info = self.client.request("look", "$JS.API.STREAM.INFO.EVENTS".into(), Bytes::new()).await?;
        let info: Value = serde_json::from_slice(&info)?;
        info["state"]["last_seq"].as_u64().context("the stream's last sequence")
    }

    async fn wait_for(&mut self, messages: u64, began: Instant) -> anyhow::Result<Duration> {
        let mut last = 0;
        let mut moved = Instant::now();
        loop {
            let now = self.messages().await?;
            if now >= messages {
                return Ok(began.elapsed());
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > Duration::from_secs(30) {
                bail!("the pipeline stands still at {now} of {messages} messages");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn wait_until_ready(&mut self, port: u16, began: Instant) -> anyhow::Result<Duration> {
        loop {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(began.elapsed());
            }
            if let Some(status) = self.sidecar.try_wait()? {
                bail!("the sidecar ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Resident memory and CPU time of the sidecar, as the kernel counts them.
    fn usage(&self) -> anyhow::Result<(u64, Duration)> {
        let pid = self.sidecar.id().context("the sidecar has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 =
            fields.get(11..13).context("CPU times")?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok((resident.unwrap_or(0_u64) * 1024, Duration::from_millis(ticks * 10)))
    }

    /// One event at a time, from before its publish until its output is on the stream.
    async fn latency(&mut self, options: &Options, publisher: &JetStreamPublisher) -> anyhow::Result<Vec<Duration>> {
        let mut outputs = self.client.client.subscribe(outputs()).await?;
        self.client.client.flush().await?;
        let mut times = Vec::new();
        for n in options.events..options.events + ALONE {
            let event = event(options, n);
            let began = Instant::now();
            publisher.publish(vec![event]).await?;
            outputs.next().await.context("an output")?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times)
    }
}

/// The subjects of what comes out.
pub(crate) fn outputs() -> String {
    format!("ev.agent-bench.*.{DONE}")
}

pub(crate) fn event(options: &Options, n: usize) -> Outgoing {
    let event_type = COMMAND.parse().expect("it is a type");
    let mut event =
        Envelope::new(n.to_string(), "/bench".into(), event_type, format!("entity-{}", n % options.entities));
    event.workspace = Some("bench".into());
    event.data = RawValue::from_string(format!("\"{}\"", "x".repeat(options.bytes))).ok();
    let subject = Subject::new("gateway", &event.event_type, &event.subject, None).to_string();
    Outgoing { subject, key: dedup_key("gateway", &event.source, &event.id), payload: event.to_json().into() }
}

fn nats_settings(user: &str, url: &str) -> settings::Nats {
    settings::Nats { url: url.into(), user: user.into(), credentials: None, ca: None, message_id_key: None }
}

async fn create_stream(client: &Connection) -> anyhow::Result<()> {
    let stream = json!({
        "name": "EVENTS", "subjects": ["ev.>", "to.>"], "storage": "file", "discard": "new", "max_bytes": 4_u64 << 30, "allow_atomic": true,
    });
    let filters = subject::filters("bench", &[COMMAND.parse()?]);
    let consumer = json!({
        "durable_name": "agent-bench", "ack_policy": "all", "ack_wait": 120_000_000_000_u64, "max_ack_pending": 20_000, "filter_subjects": filters,
    });
    create(client, "$JS.API.STREAM.CREATE.EVENTS", stream).await?;
    let consumer = json!({"stream_name": "EVENTS", "config": consumer});
    create(client, "$JS.API.CONSUMER.CREATE.EVENTS.agent-bench", consumer).await
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start_sidecar(
    options: &Options,
    url: &str,
    store: &Prepared,
    dir: &Path,
    agent_port: u16,
) -> anyhow::Result<(Child, u16)> {
    let health = free_port()?;
    let settings = settings::Sidecar {
        kernel: Config {
            workspace: "bench".into(),
            agent: "bench".into(),
            subscribes: vec![COMMAND.parse()?],
            publishes: vec![DONE.parse()?],
            authorization: vec![],
            limits: Limits::default(),
            from: 0,
            earlier: Vec::new(),
        },
        ordering: Ordering::Stream,
        concurrency: options.concurrency,
        batch_events: options.batch,
        retry: settings::Retry { attempts: 5, initial_ms: 50, max_ms: 1_000 },
        protocol: Protocol::Rhizon,
        agent_url: format!("http://127.0.0.1:{agent_port}"),
        nats: nats_settings("agent-bench", url),
        shards: vec![settings::Shard {
            index: 0,
            consumer: settings::Consumer { stream: "EVENTS".into(), name: "agent-bench".into(), first_sequence: 1 },
            store: store.settings.clone(),
        }],
        replicas: 1,
        health_listen: format!("127.0.0.1:{health}"),
        drain_listen: format!("127.0.0.1:{}", free_port()?),
        revision: "bench".into(),
        operating_mode: OperatingMode::Running,
    };
    let path = dir.join("settings.json");
    std::fs::write(&path, serde_json::to_vec(&settings)?)?;
    let sidecar = Command::new(&options.runtime)
        .args(["sidecar", "--settings"])
        .arg(&path)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    Ok((sidecar, health))
}
