//! Real processes around a real broker, and a client that asks them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rhizon_api::agent::{OperatingMode, Ordering, Protocol};
use rhizon_api::settings;
use rhizon_kernel::replay::Replay;
use rhizon_kernel::subject;
use rhizon_runtime::bus::jetstream::JetStreamPublisher;
use rhizon_runtime::bus::nats::Connection;
use rhizon_runtime::bus::{Outgoing, Publisher as _};
use rhizon_tests::{nats, postgres};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Broker,
    Sidecar(usize),
    Agent(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
    JetStream,
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

fn settings(user: &str, url: &str) -> settings::Nats {
    settings::Nats { url: url.into(), user: user.into(), credentials: None, ca: None, message_id_key: None }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
        let client = Connection::start(&settings("gateway", &broker.url())).await.unwrap();
        let script = common_example("agents/permits.py");
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
        world.create_streams().await;
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

    /// As the operator would: the streams, and the consumers of each agent.
    async fn create_streams(&self) {
        let stream = json!({
            "name": "EVENTS", "subjects": ["ev.>", "to.>"], "storage": "file", "retention": "limits", "discard": "new",
            "max_bytes": 1_u64 << 30, "num_replicas": 1, "allow_atomic": true, "duplicate_window": 120_000_000_000_u64,
        });
        self.ask("$JS.API.STREAM.CREATE.EVENTS", &stream).await;
        if self.store == Store::JetStream {
            let journal = json!({
                "name": "JOURNAL", "subjects": ["jr.>"], "storage": "file", "retention": "limits", "discard": "new",
                "max_bytes": 1_u64 << 30, "num_replicas": 1,
            });
            self.ask("$JS.API.STREAM.CREATE.JOURNAL", &journal).await;
            let snapshots = json!({
                "name": "SNAPSHOTS", "subjects": ["sn.>"], "storage": "file", "retention": "limits", "discard": "new",
                "max_bytes": 1_u64 << 28, "max_msgs_per_subject": 1, "allow_direct": true, "num_replicas": 1,
            });
            self.ask("$JS.API.STREAM.CREATE.SNAPSHOTS", &snapshots).await;
        }
        for (agent, subscribes) in [("permits", "cmd.permit.record"), ("ledger", "evt.permit.recorded")] {
            let name = format!("agent-{agent}");
            let config = json!({
                "durable_name": name, "name": name, "ack_policy": "all", "deliver_policy": "all", "ack_wait": 120_000_000_000_u64,
                "max_deliver": -1, "max_ack_pending": 20_000, "filter_subjects": subject::filters(agent, &[subscribes.parse().unwrap()]),
            });
            self.ask(
                &format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}"),
                &json!({"stream_name": "EVENTS", "config": config}),
            )
            .await;
            if self.store == Store::JetStream {
                let journal = json!({
                    "durable_name": format!("{name}_0"), "name": format!("{name}_0"), "ack_policy": "none",
                    "replay_policy": "instant", "filter_subjects": [format!("jr.{agent}.0")],
                });
                let create = json!({"stream_name": "JOURNAL", "config": journal});
                self.ask(&format!("$JS.API.CONSUMER.CREATE.JOURNAL.{name}_0"), &create).await;
            }
        }
    }

    /// A second sidecar has a cache of its own, and everything else with the first.
    fn store_of(&self, agent: &str, suffix: &str) -> settings::Store {
        let file = |name: String| self.dir.path().join(name);
        match self.store {
            Store::Sqlite => settings::Store::Sqlite { path: file(format!("{agent}.sqlite")) },
            Store::Postgres => {
                let url_file = file("postgres.url".into());
                std::fs::write(&url_file, postgres::shared().url()).unwrap();
                // The server is for all tests of the program, and this folder's name for nobody else.
                let world = self.dir.path().file_name().unwrap().to_str().unwrap().replace('.', "-");
                settings::Store::Postgres { url_file, schema: format!("rhizon_{agent}_{world}") }
            }
            Store::JetStream => settings::Store::JetStream {
                stream: "JOURNAL".into(),
                subject: format!("jr.{agent}.0"),
                consumer: format!("agent-{agent}_0"),
                snapshot_stream: "SNAPSHOTS".into(),
                snapshot_subject: format!("sn.{agent}.0"),
                cache: file(format!("{agent}{suffix}.cache")),
            },
        }
    }

    async fn ask(&self, subject: &str, request: &Value) -> Value {
        let answer = self.client.request("ask", subject.to_owned(), request.to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["error"].is_null(), "{subject}: {answer}");
        answer
    }

    fn spawn_sidecar(&self, index: usize, suffix: &str) -> Sidecar {
        let (health, drain) = (free_port(), free_port());
        let agent = &self.agents[index];
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
            nats: settings(&format!("agent-{}", agent.name), &self.broker.url()),
            shards: vec![settings::Shard {
                index: 0,
                consumer: settings::Consumer {
                    stream: "EVENTS".into(),
                    name: format!("agent-{}", agent.name),
                    first_sequence: 1,
                },
                store: self.store_of(agent.name, suffix),
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
        let request = self.client.client.request(format!("rq.{agent}.{verb}"), question.to_string().into());
        tokio::time::timeout(Duration::from_secs(5), request).await.ok()?.ok()
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
    pub(crate) async fn check(
        &self,
        cases: &BTreeMap<String, Value>,
        officers: &BTreeMap<String, Value>,
    ) -> [String; 2] {
        assert_eq!(&self.states("permits").await, cases);
        assert_eq!(&self.states("ledger").await, officers);
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
        let status = self.read(agent, "status", &json!({})).await.expect("an answer");
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

fn common_example(file: &str) -> String {
    super::common::example(file).to_str().unwrap().to_owned()
}

fn spawn_agent(command: &[String], port: u16) -> Child {
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

/// As the gateway does: batch after batch, each again until it is acknowledged.
async fn publish(client: &Connection, events: &[Outgoing]) {
    let publisher = Arc::new(JetStreamPublisher::new(client.clone()));
    for batch in events.chunks(250) {
        while let Err(error) = publisher.publish(batch.to_vec()).await {
            assert!(!matches!(error, rhizon_runtime::bus::BusError::Refused { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
