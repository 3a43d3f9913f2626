//! Real processes for one run: a broker, an agent, and a sidecar that is started when its events are there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rhizon_api::settings::Sidecar;
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::subject::Subject;
use rhizon_kernel::{Config, Envelope};
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::bus::nats::Connection;
use rhizon_tests::nats;
use serde_json::{json, value::RawValue};
use tokio::process::Command;

use crate::Options;
use crate::cases::{Agent, Case, PLAIN};
use crate::processes::{Process, bring_here, health_port};
use crate::stores::{Database, Store, place};
use crate::streams::{self, create_consumers, create_streams};
use crate::usage::Usage;

const COMMAND: &str = "cmd.bench.do";
pub(crate) const DONE: &str = "evt.bench.done";
/// How often a long run says how far it is.
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);
const PYTHON_AGENT: &str = include_str!("agent.py");

pub(crate) struct Rig {
    pub client: Connection,
    pub dir: tempfile::TempDir,
    case: Case,
    broker: nats::Server,
    _database: Option<Database>,
    settings: Sidecar,
    pub agent_port: u16,
    agent: Process,
    sidecar: Option<Process>,
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
        // A backlog may be as large as the disk.
        let broker = nats::start(&nats::Options { disk: Some("1TB"), ..nats::Options::default() });
        let client = Connection::start(&streams::nats("gateway", &broker.url())).await?;
        create_streams(&client, store).await?;
        let dir = tempfile::tempdir()?;
        let database = store.server().await?;
        let agent_port = nats::free_port();
        let mut settings = settings(case, store)?;
        place(&mut settings, dir.path(), database.as_ref(), "bench")?;
        bring_here(&mut settings, &broker.url(), agent_port);
        create_consumers(&client, &settings).await?;
        let log = dir.path().join("agent.log");
        let agent = Process::agent(&mut command(case.agent)?, agent_port, log).await.context("the agent")?;
        Ok(Self { client, dir, case, broker, _database: database, settings, agent_port, agent, sidecar: None })
    }

    /// Returns how long it took until the sidecar listens.
    pub(crate) async fn start_sidecar(&mut self, options: &Options) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let (dir, port) = (self.dir.path().join("sidecar"), health_port(&self.settings)?);
        let sidecar = Process::runtime(&options.runtime, "sidecar", &self.settings, "bench-0", &dir, port).await;
        self.sidecar = Some(sidecar.context("the sidecar")?);
        Ok(began.elapsed())
    }

    pub(crate) async fn wait_for(&self, messages: u64) -> anyhow::Result<()> {
        let (mut last, mut moved, mut said) = (0, Instant::now(), Instant::now());
        loop {
            let now = streams::messages(&self.client).await?;
            if now >= messages {
                return Ok(());
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if said.elapsed() > PROGRESS {
                said = Instant::now();
                eprintln!("  {now} of {messages} messages");
            }
            if moved.elapsed() > Duration::from_secs(30) {
                let words = self.sidecar.as_ref().map(Process::last_words).unwrap_or_default();
                bail!("the pipeline stands still at {now} of {messages} messages: {words}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn shares(&self) -> anyhow::Result<Shares> {
        let of = |process: &Process| Usage::of(process.id()?);
        let sidecar = self.sidecar.as_ref().map(of).transpose().context("the sidecar")?.unwrap_or_default();
        let broker = Usage::of(self.broker.pid()).context("the broker")?;
        Ok(Shares { sidecar, broker, agent: of(&self.agent).context("the agent")? })
    }

    /// Of the agent's events: the stream, and the consumer's name.
    pub(crate) fn consumer(&self) -> anyhow::Result<(String, String)> {
        let consumer = &self.settings.shards.first().context("a shard")?.consumer;
        Ok((consumer.stream.clone(), consumer.name.clone()))
    }

    pub(crate) fn case(&self) -> Case {
        self.case
    }

    /// Event number `n` of the load.
    pub(crate) fn event(&self, n: usize) -> Outgoing {
        event(self.case, n)
    }
}

/// What the operator would tell the sidecar of the agent that is measured.
fn settings(case: Case, store: Store) -> anyhow::Result<Sidecar> {
    let spec = json!({
        "subscribes": [COMMAND], "publishes": [DONE], "container": {"image": "bench"},
        "concurrency": case.batch, "batch": {"maxEvents": case.batch}, "store": {"kind": store.kind()},
    });
    Ok(Sidecar::from_agent("bench", "bench", &serde_json::from_value(spec)?)?)
}

/// The rules of the agent that is measured.
pub(crate) fn config() -> anyhow::Result<Config> {
    Ok(settings(PLAIN, Store::Sqlite)?.kernel)
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

fn command(agent: Agent) -> anyhow::Result<Command> {
    Ok(match agent {
        Agent::Rust => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("agent");
            command
        }
        Agent::Python => {
            let mut command = Command::new("python3");
            command.args(["-c", PYTHON_AGENT]);
            command
        }
    })
}
