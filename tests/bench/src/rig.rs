//! Real processes for one run: a broker, an agent, and a sidecar that is started when its events are there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rhizon_api::agent::{OperatingMode, Ordering, Protocol};
use rhizon_api::settings;
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::subject::{self, Subject};
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::bus::nats::Connection;
use rhizon_tests::nats;
use serde_json::{Value, json, value::RawValue};
use tokio::process::{Child, Command};

use crate::Options;
use crate::cases::{Agent, Case};
use crate::stores::{Prepared, Store, create};
use crate::usage::Usage;

const COMMAND: &str = "cmd.bench.do";
pub(crate) const DONE: &str = "evt.bench.done";
const PYTHON_AGENT: &str = include_str!("agent.py");

pub(crate) struct Rig {
    pub client: Connection,
    pub dir: tempfile::TempDir,
    case: Case,
    broker: nats::Server,
    store: Prepared,
    pub agent_port: u16,
    agent: Child,
    sidecar: Option<Child>,
}

/// Of the three processes that share the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    pub sidecar: Usage,
    pub broker: Usage,
    pub agent: Usage,
}

impl Rig {
    pub(crate) async fn start(case: Case, store: Store) -> anyhow::Result<Self> {
        let broker = nats::start(&nats::Options::default());
        let client = Connection::start(&nats_settings("gateway", &broker.url())).await?;
        create_stream(&client).await?;
        let dir = tempfile::tempdir()?;
        let store = store.prepare(&client, dir.path()).await?;
        let agent_port = nats::free_port();
        let agent = start_agent(case.agent, agent_port)?;
        until_listening(agent_port, Duration::from_secs(20)).await.context("the agent")?;
        Ok(Self { client, dir, case, broker, store, agent_port, agent, sidecar: None })
    }

    /// Returns how long it took until the sidecar listens.
    pub(crate) async fn start_sidecar(&mut self, options: &Options) -> anyhow::Result<Duration> {
        let health = nats::free_port();
        let settings = self.settings(health)?;
        let path = self.dir.path().join("settings.json");
        std::fs::write(&path, serde_json::to_vec(&settings)?)?;
        let began = Instant::now();
        let mut command = Command::new(&options.runtime);
        command.args(["sidecar", "--settings"]).arg(&path).env("RUST_LOG", "error").stderr(Stdio::inherit());
        self.sidecar = Some(command.kill_on_drop(true).spawn()?);
        until_listening(health, Duration::from_secs(20)).await.context("the sidecar")?;
        Ok(began.elapsed())
    }

    /// How many messages were ever on the stream.
    pub(crate) async fn messages(&self) -> anyhow::Result<u64> {
        let info = self.client.request("look", "$JS.API.STREAM.INFO.EVENTS".into(), Bytes::new()).await?;
        let info: Value = serde_json::from_slice(&info)?;
        info["state"]["last_seq"].as_u64().context("the stream's last sequence")
    }

    pub(crate) async fn wait_for(&self, messages: u64) -> anyhow::Result<()> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = self.messages().await?;
            if now >= messages {
                return Ok(());
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > Duration::from_secs(30) {
                bail!("the pipeline stands still at {now} of {messages} messages");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn shares(&self) -> anyhow::Result<Shares> {
        let of = |child: &Child| Usage::of(child.id().context("it has ended")?);
        let sidecar = self.sidecar.as_ref().map(of).transpose().context("the sidecar")?.unwrap_or_default();
        let broker = Usage::of(self.broker.pid()).context("the broker")?;
        Ok(Shares { sidecar, broker, agent: of(&self.agent).context("the agent")? })
    }

    pub(crate) fn case(&self) -> Case {
        self.case
    }

    /// Event number `n` of the load.
    pub(crate) fn event(&self, n: usize) -> Outgoing {
        event(self.case, n)
    }

    fn settings(&self, health: u16) -> anyhow::Result<settings::Sidecar> {
        Ok(settings::Sidecar {
            kernel: config()?,
            ordering: Ordering::Stream,
            concurrency: self.case.batch,
            batch_events: self.case.batch,
            retry: settings::Retry { attempts: 5, initial_ms: 50, max_ms: 1_000 },
            protocol: Protocol::Rhizon,
            agent_url: format!("http://127.0.0.1:{}", self.agent_port),
            nats: nats_settings("agent-bench", &self.broker.url()),
            shards: vec![settings::Shard {
                index: 0,
                consumer: settings::Consumer { stream: "EVENTS".into(), name: "agent-bench".into(), first_sequence: 1 },
                store: self.store.settings.clone(),
            }],
            replicas: 1,
            health_listen: format!("127.0.0.1:{health}"),
            drain_listen: format!("127.0.0.1:{}", nats::free_port()),
            revision: "bench".into(),
            operating_mode: OperatingMode::Running,
        })
    }
}

/// The rules of the agent that is measured.
pub(crate) fn config() -> anyhow::Result<Config> {
    Ok(Config {
        workspace: "bench".into(),
        agent: "bench".into(),
        subscribes: vec![COMMAND.parse()?],
        publishes: vec![DONE.parse()?],
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: vec![],
    })
}

/// The subjects of what comes out.
pub(crate) fn outputs() -> String {
    format!("ev.{DONE}.*.agent-bench")
}

pub(crate) fn event(case: Case, n: usize) -> Outgoing {
    let event_type = COMMAND.parse().expect("it is a type");
    let mut event = Envelope::new(n.to_string(), "/bench".into(), event_type, format!("entity-{}", n % case.entities));
    event.workspace = Some("bench".into());
    event.data = RawValue::from_string(format!("\"{}\"", "x".repeat(case.bytes))).ok();
    let subject = Subject::new("gateway", &event.event_type, &event.subject, None).to_string();
    Outgoing { subject, key: dedup_key("gateway", &event.source, &event.id), payload: event.to_json().into() }
}

fn start_agent(agent: Agent, port: u16) -> anyhow::Result<Child> {
    let mut command = match agent {
        Agent::Rust => Command::new(std::env::current_exe()?),
        Agent::Python => Command::new("python3"),
    };
    match agent {
        Agent::Rust => command.arg("agent"),
        Agent::Python => command.args(["-c", PYTHON_AGENT]),
    };
    Ok(command.env("RHIZON_LISTEN", format!("127.0.0.1:{port}")).kill_on_drop(true).spawn()?)
}

async fn until_listening(port: u16, at_most: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if began.elapsed() > at_most {
            bail!("nobody listens on port {port} after {} s", at_most.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn nats_settings(user: &str, url: &str) -> settings::Nats {
    settings::Nats { url: url.into(), user: user.into(), credentials: None, ca: None, message_id_key: None }
}

async fn create_stream(client: &Connection) -> anyhow::Result<()> {
    let stream = json!({
        "name": "EVENTS", "subjects": ["ev.>", "to.>"], "storage": "file", "discard": "new", "max_bytes": 4_u64 << 30,
        "allow_atomic": true,
    });
    let filters = subject::filters("bench", &[COMMAND.parse()?]);
    let consumer = json!({
        "durable_name": "agent-bench", "ack_policy": "all", "ack_wait": 120_000_000_000_u64,
        "max_ack_pending": 20_000, "filter_subjects": filters,
    });
    create(client, "$JS.API.STREAM.CREATE.EVENTS", stream).await?;
    let consumer = json!({"stream_name": "EVENTS", "config": consumer});
    create(client, "$JS.API.CONSUMER.CREATE.EVENTS.agent-bench", consumer).await
}
