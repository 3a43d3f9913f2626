//! Real processes around a real broker, and a client that asks them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rhizon_api::agent::{OperatingMode, Ordering, Protocol};
use rhizon_api::settings;
use rhizon_kernel::replay::Replay;
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::bus::nats::Connection;
use rhizon_tests::permits::{Expected, example};
use rhizon_tests::{nats, postgres};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

mod setup;

use rhizon_tests::nats::free_port;
pub(crate) use setup::Store;
use setup::{publish, spawn_agent};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Broker,
    Sidecar(usize),
    Agent(usize),
}

pub(crate) struct World {
    store: Store,
    broker: nats::Server,
    client: Connection,
    dir: TempDir,
    agents: Vec<AgentProcess>,
    sidecars: Vec<Sidecar>,
    second: Option<Sidecar>,
    /// Set for every sidecar.
    environment: Vec<(&'static str, String)>,
}

struct Sidecar {
    process: Child,
    health: u16,
    drain: u16,
}

struct AgentProcess {
    name: &'static str,
    command: Vec<String>,
    port: u16,
    process: Child,
}

/// Built by the test command beside this package's own binary.
fn ledger() -> String {
    let sidecar = PathBuf::from(env!("CARGO_BIN_EXE_rhizon-runtime"));
    let path = sidecar.with_file_name("ledger");
    assert!(
        path.exists(),
        "{} is missing: run the tests with `cargo xtask test`, or `cargo build -p ledger` first",
        path.display()
    );
    path.to_str().unwrap().to_owned()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_on(Store::Sqlite, Vec::new()).await
    }

    pub(crate) async fn start_on(store: Store, environment: Vec<(&'static str, String)>) -> Self {
        let broker = nats::start(&nats::Options::default());
        let client = Connection::start(&setup::nats("gateway", &broker.url())).await.unwrap();
        let script = example().join("agents/permits.py").to_str().unwrap().to_owned();
        let agents = [("permits", vec!["python3".to_owned(), script]), ("ledger", vec![ledger()])];
        let mut world = Self {
            store,
            broker,
            client,
            dir: tempfile::tempdir().unwrap(),
            agents: vec![],
            sidecars: vec![],
            second: None,
            environment,
        };
        setup::create_streams(&world.client, store).await;
        setup::create_consumers(&world.client, store, "permits", "cmd.permit.record").await;
        setup::create_consumers(&world.client, store, "ledger", "evt.permit.recorded").await;
        for (name, command) in agents {
            let port = free_port();
            let process = spawn_agent(&command, port);
            world.agents.push(AgentProcess { name, command, port, process });
        }
        for index in 0..2 {
            let sidecar = world.spawn_sidecar(index, "");
            world.sidecars.push(sidecar);
        }
        world
    }

    fn spawn_sidecar(&self, index: usize, suffix: &str) -> Sidecar {
        let (health, drain) = (free_port(), free_port());
        let agent = &self.agents[index];
        let postgres_url = if self.store == Store::Postgres { postgres::shared().url() } else { String::new() };
        let (subscribes, publishes) = match agent.name {
            "permits" => ("cmd.permit.record", vec!["evt.permit.recorded"]),
            _ => ("evt.permit.recorded", vec![]),
        };
        let settings = settings::Sidecar {
            kernel: super::common::config(agent.name, subscribes, &publishes),
            ordering: Ordering::Stream,
            concurrency: 128,
            batch_events: 500,
            retry: settings::Retry { attempts: 5, initial_ms: 50, max_ms: 1_000 },
            protocol: Protocol::Rhizon,
            agent_url: format!("http://127.0.0.1:{}", agent.port),
            nats: setup::nats(&format!("agent-{}", agent.name), &self.broker.url()),
            shards: vec![settings::Shard {
                index: 0,
                consumer: settings::Consumer {
                    stream: "EVENTS".into(),
                    name: format!("agent-{}", agent.name),
                    first_sequence: 1,
                },
                store: setup::place(self.store, self.dir.path(), agent.name, suffix, &postgres_url),
            }],
            replicas: 1,
            health_listen: format!("127.0.0.1:{health}"),
            drain_listen: format!("127.0.0.1:{drain}"),
            revision: "test".into(),
            operating_mode: OperatingMode::Running,
        };
        let path = self.dir.path().join(format!("{}{suffix}.json", agent.name));
        std::fs::write(&path, serde_json::to_vec(&settings).unwrap()).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{}.log", agent.name)));
        let process = Command::new(env!("CARGO_BIN_EXE_rhizon-runtime"))
            .envs(self.environment.iter().cloned())
            .args(["sidecar", "--settings", path.to_str().unwrap()])
            .stdin(Stdio::null())
            .stderr(log.unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Sidecar { process, health, drain }
    }

    pub(crate) async fn kill(&mut self, role: Role) {
        match role {
            Role::Broker => self.broker.kill(),
            Role::Sidecar(index) => self.sidecars[index].process.kill().await.unwrap(),
            Role::Agent(index) => self.agents[index].process.kill().await.unwrap(),
        }
    }

    pub(crate) async fn kill_and_start(&mut self, role: Role) {
        self.kill(role).await;
        match role {
            Role::Broker => tokio::task::block_in_place(|| self.broker.restart()),
            Role::Sidecar(index) => {
                self.sidecars[index] = self.spawn_sidecar(index, "");
            }
            Role::Agent(index) => {
                let agent = &mut self.agents[index];
                agent.process = spawn_agent(&agent.command, agent.port);
            }
        }
    }

    /// `GET` on a sidecar's door: status and body; status 0 while nothing listens.
    async fn get(port: u16, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
            return (0, String::new());
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    pub(crate) async fn health(&self, index: usize, path: &str) -> (u16, String) {
        Self::get(self.sidecars[index].health, path).await
    }

    pub(crate) async fn drain(&self, index: usize) -> (u16, String) {
        Self::get(self.sidecars[index].drain, "/drain").await
    }

    pub(crate) async fn wait_until_ready(&self, index: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.health(index, "/readyz").await.0 != 200 {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.health(index, "/readyz").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn start_second(&mut self, index: usize) {
        self.second = Some(self.spawn_sidecar(index, "-second"));
    }

    pub(crate) async fn exit_of_first(&mut self, index: usize) -> ExitStatus {
        let ended = tokio::time::timeout(Duration::from_mins(1), self.sidecars[index].process.wait()).await;
        ended.expect("the first sidecar stops").unwrap()
    }

    pub(crate) async fn publish(&self, events: &[Outgoing]) {
        publish(&self.client, events).await;
    }

    pub(crate) fn publish_beside(&self, events: Vec<Outgoing>) -> tokio::task::JoinHandle<()> {
        let client = self.client.clone();
        tokio::spawn(async move { publish(&client, &events).await })
    }

    /// Waits until both agents have had their effect for so many events.
    pub(crate) async fn wait_for_total(&mut self, total: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(2);
        for (agent, field) in [("permits", "steps"), ("ledger", "handled")] {
            loop {
                let sum: u64 = self.states(agent).await.values().filter_map(|state| state[field].as_u64()).sum();
                if sum >= total {
                    break;
                }
                assert!(tokio::time::Instant::now() < deadline, "{agent} is at {sum} of {total}: {}", self.log(agent));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(crate) fn log(&self, agent: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join(format!("{agent}.log"))).unwrap_or_default();
        text.lines().rev().take(8).collect::<Vec<_>>().join("\n")
    }

    pub(crate) async fn read(&self, agent: &str, verb: &str, question: &Value) -> Option<async_nats::Message> {
        setup::read(&self.client, agent, verb, question).await
    }

    pub(crate) async fn states(&self, agent: &str) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        let mut after = json!(null);
        loop {
            let question = if after.is_null() { json!({}) } else { json!({"after": after}) };
            let Some(answer) = self.read(agent, "entities", &question).await else { return all };
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            for item in answer["ok"]["items"].as_array().into_iter().flatten() {
                all.insert(item["entity"].as_str().unwrap().to_owned(), item["state"].clone());
            }
            after = answer["ok"]["next"].clone();
            if after.is_null() {
                return all;
            }
        }
    }

    /// States are those expected, both journals verify; answers the roots.
    pub(crate) async fn check(&self, expected: &Expected) -> [String; 2] {
        expected.compare_all(&self.states("permits").await, &self.states("ledger").await).unwrap();
        [self.verify("permits").await, self.verify("ledger").await]
    }

    async fn verify(&self, agent: &str) -> String {
        let mut replay = Replay::default();
        loop {
            let page = self.read(agent, "journal", &json!({"after": replay.tail().sequence})).await.expect("an answer");
            if page.payload.is_empty() {
                break;
            }
            for line in page.payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                replay.push(line).unwrap_or_else(|mismatch| panic!("{agent}: {mismatch}"));
            }
        }
        let status = self.read(agent, "status", &json!({"root": true})).await.expect("an answer");
        let status: Value = serde_json::from_slice(&status.payload).unwrap();
        assert_eq!(status["ok"]["root"], replay.root().to_string());
        replay.root().to_string()
    }

    /// A graceful end: SIGTERM, and exit code 0.
    pub(crate) async fn stop(mut self) {
        let mut sidecars: Vec<Sidecar> = self.second.take().into_iter().collect();
        sidecars.append(&mut self.sidecars);
        for Sidecar { process: mut sidecar, .. } in sidecars {
            let Some(pid) = sidecar.id() else { continue };
            let ended = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.unwrap();
            if ended.success() {
                let status =
                    tokio::time::timeout(Duration::from_secs(30), sidecar.wait()).await.expect("it stops").unwrap();
                assert!(status.success(), "{status}");
            }
        }
    }
}
