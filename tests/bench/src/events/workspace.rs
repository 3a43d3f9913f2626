//! The permits example as processes: broker, gateway, two agents, and as many sidecars of each as there are replicas.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rhizon_api::agent::RhizonAgentSpec;
use rhizon_api::settings::Sidecar;
use rhizon_runtime::bus::nats::Connection;
use rhizon_tests::{nats, permits};
use tokio::process::Command;

use super::gateway::{Gateway, WORKSPACE};
use super::log::Workload;
use super::matrix::Run;
use crate::Options;
use crate::processes::{Process, bring_here, health_port};
use crate::stores::{Database, place};
use crate::streams::{self, create_consumers, create_streams, messages, unsettled};

/// Events of one request.
const REQUEST: usize = 500;
/// So long without a new message on the stream means that no more will come.
const STANDS_STILL: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What stays the same for all of a run's processes.
struct Place<'a> {
    runtime: &'a Path,
    dir: tempfile::TempDir,
    broker: nats::Server,
    database: Option<&'a Database>,
    /// What the run is called.
    name: String,
}

pub(super) struct Workspace<'a> {
    place: Place<'a>,
    client: Connection,
    pub agents: [Agent; 2],
    pub gateway: Gateway,
}

pub(super) struct Agent {
    pub name: &'static str,
    spec: RhizonAgentSpec,
    port: u16,
    _process: Process,
    pods: Vec<Process>,
    /// How many pods there ever were: each has a disk of its own.
    started: usize,
}

impl<'a> Workspace<'a> {
    pub(super) async fn start(
        options: &'a Options,
        run: &Run,
        name: String,
        database: Option<&'a Database>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let broker = nats::start(&nats::Options::default());
        let client = Connection::start(&streams::nats("operator", &broker.url())).await?;
        create_streams(&client, run.store).await?;
        let place = Place { runtime: &options.runtime, dir, broker, database, name };
        // The agents run in the example's folder.
        let ledger = std::path::absolute(options.runtime.with_file_name("ledger"))?;
        let mut agents = [
            Agent::start(&place, run, "permits", Command::new("python3").arg("agents/permits.py")).await?,
            Agent::start(&place, run, "ledger", &mut Command::new(&ledger)).await?,
        ];
        let settings = [agents[0].settings(&place)?, agents[1].settings(&place)?];
        for settings in &settings {
            create_consumers(&client, settings).await?;
        }
        let (dir, url) = (place.dir.path().join("gateway"), place.broker.url());
        let gateway = Gateway::start(&options.runtime, &dir, &url, &settings.each_ref()).await?;
        for agent in &mut agents {
            agent.pods = agent.start_pods(&place).await?;
        }
        Ok(Self { place, client, agents, gateway })
    }

    /// Publishes the log, in order. With replicas, shards move when a part of it has had its effect.
    pub(super) async fn feed(&mut self, workload: &Workload) -> anyhow::Result<()> {
        if self.agents[0].spec.replicas == 1 {
            return self.publish(&workload.lines).await;
        }
        let (first, rest) = workload.lines.split_at(workload.lines.len() / 2);
        self.publish(first).await?;
        let quarter = first.len() as u64 + first.len() as u64 / 2;
        self.until("a part of the outputs", async |now, _| Ok(now >= quarter)).await?;
        for agent in &mut self.agents {
            agent.move_shards(&self.place).await.with_context(|| format!("moving the shards of {}", agent.name))?;
        }
        self.publish(rest).await
    }

    async fn publish(&self, lines: &[String]) -> anyhow::Result<()> {
        for request in lines.chunks(REQUEST) {
            self.gateway.publish(request).await?;
        }
        Ok(())
    }

    /// Returns when each event has had both its effects.
    pub(super) async fn settled(&self, events: u64) -> anyhow::Result<()> {
        let ledger = self.agents[1].settings(&self.place)?;
        let is_settled =
            async |now, client: &Connection| Ok(now >= 2 * events && unsettled(client, &ledger).await? == 0);
        self.until("the last effect", is_settled).await?;
        match messages(&self.client).await? {
            all if all == 2 * events => Ok(()),
            all => bail!("{all} messages on the stream for {events} events: an output is there twice"),
        }
    }

    async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn(u64, &Connection) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = messages(&self.client).await?;
            if holds(now, &self.client).await? {
                return Ok(());
            }
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STANDS_STILL {
                let pods = self.agents.iter().flat_map(|agent| &agent.pods);
                let said = pods.map(Process::last_words).filter(|words| !words.is_empty()).collect::<Vec<_>>();
                bail!("{what} does not come, with {now} messages on the stream: {}", said.join("\n"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Agent {
    async fn start(place: &Place<'_>, run: &Run, name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let port = nats::free_port();
        let log = place.dir.path().join(format!("{name}.log"));
        let process = Process::agent(command.current_dir(permits::example()), port, log).await;
        let process = process.with_context(|| format!("the agent {name}"))?;
        Ok(Self { name, spec: spec(name, run)?, port, _process: process, pods: Vec::new(), started: 0 })
    }

    /// What the operator would tell the agent's sidecars.
    fn settings(&self, place: &Place<'_>) -> anyhow::Result<Sidecar> {
        let mut settings = Sidecar::from_agent(WORKSPACE, self.name, &self.spec)?;
        bring_here(&mut settings, &place.broker.url(), self.port);
        Ok(settings)
    }

    /// Starts all pods of the spec, and returns when they are ready.
    async fn start_pods(&mut self, at: &Place<'_>) -> anyhow::Result<Vec<Process>> {
        let (mut pods, mut ports) = (Vec::new(), Vec::new());
        for ordinal in 0..self.spec.replicas {
            self.started += 1;
            let dir = at.dir.path().join(format!("{}-{}", self.name, self.started));
            let mut settings = self.settings(at)?;
            place(&mut settings, &dir, at.database, &at.name)?;
            let (pod, port) = (format!("agent-{}-{ordinal}", self.name), health_port(&settings)?);
            pods.push(Process::runtime(at.runtime, "sidecar", &settings, &pod, &dir, port).await.context(pod)?);
            ports.push(port);
        }
        for (port, pod) in ports.into_iter().zip(&pods) {
            ready(port).await.with_context(|| pod.last_words())?;
        }
        Ok(pods)
    }

    /// The last pod dies; one fewer take over the shards of all, while the rest still run.
    async fn move_shards(&mut self, place: &Place<'_>) -> anyhow::Result<()> {
        let dead = self.pods.pop().context("a pod")?;
        dead.kill().await?;
        self.spec.replicas -= 1;
        let new = self.start_pods(place).await?;
        for overtaken in std::mem::replace(&mut self.pods, new) {
            overtaken.kill().await?;
        }
        Ok(())
    }
}

/// The agent's resource of the example, run in this way.
fn spec(name: &str, run: &Run) -> anyhow::Result<RhizonAgentSpec> {
    let yaml = std::fs::read_to_string(permits::example().join("agents.yaml"))?;
    let is_it = |object: &serde_json::Value| object["metadata"]["name"] == name;
    let mut objects = serde_norway::Deserializer::from_str(&yaml).map(serde::Deserialize::deserialize);
    let object = objects.find(|object: &Result<serde_json::Value, _>| object.as_ref().is_ok_and(is_it));
    let mut spec: RhizonAgentSpec = serde_json::from_value(object.context("the agent's YAML")??["spec"].clone())?;
    spec.batch.max_events = run.batch;
    spec.concurrency = run.concurrency;
    spec.shards = run.shards.try_into()?;
    spec.replicas = run.replicas.try_into()?;
    spec.ordering = run.ordering;
    spec.store.kind = run.store.kind();
    Ok(spec)
}

/// A process with these settings is attached to its shards, and reaches its agent.
async fn ready(port: u16) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let began = Instant::now();
    loop {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if answer.starts_with("HTTP/1.1 200 ") {
            return Ok(());
        }
        if began.elapsed() > STANDS_STILL {
            bail!("it is not ready: {answer}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
