//! One agent of `rhizon dev`: its store, its driver, and the child process that answers.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use rhizon_api::agent::StartFrom;
use rhizon_api::settings::{Consumer, Shard, Sidecar, Store};
use rhizon_runtime::agent::http::HttpAgent;
use rhizon_runtime::bus::local::{LocalBus, LocalStream};
use rhizon_runtime::driver::{self, Report, Stopped};
use rhizon_runtime::sidecar::{Parts, driver_settings};
use rhizon_runtime::store::EventStore as _;
use rhizon_runtime::store::sqlite::SqliteStore;
use rhizon_runtime::telemetry::Traces;
use tokio::sync::watch;

use super::child::Child;
use super::manifest::Described;
use crate::failure::Failure;

pub(super) struct Agent {
    described: Described,
    settings: driver::Settings,
    bus: LocalBus,
    store: SqliteStore,
    traces: Traces,
    parts: Parts,
    /// Where the child listens.
    listen: String,
}

impl Agent {
    pub(super) async fn open(
        described: &Described,
        workspace: &str,
        state: &Path,
        stream: &LocalStream,
    ) -> Result<Self, Failure> {
        let name = &described.name;
        let cannot = |error: &dyn std::fmt::Display| Failure::Usage(format!("agent {name}: {error}"));
        let path = state.join(format!("agent-{name}.sqlite"));
        let listen = free_address().map_err(|error| cannot(&error))?;
        let mut settings = Sidecar::from_agent(workspace, name, &described.spec).map_err(|error| cannot(&error))?;
        settings.agent_url = format!("http://{listen}");
        // It counts for a store that is new: others go on where they are.
        let first_sequence = match described.spec.start_from {
            StartFrom::Beginning => 1,
            StartFrom::New => stream.last_sequence() + 1,
        };
        let consumer = Consumer { stream: "EVENTS".to_owned(), name: format!("agent-{name}"), first_sequence };
        // One process has all partitions, and a file of its own, whatever the cluster has.
        let shard = Shard { index: 0, consumer, store: Store::Sqlite { path: path.clone() } };
        let store = SqliteStore::open(&path).await.map_err(|error| cannot(&error))?;
        let http = HttpAgent::new(&settings.agent_url, settings.protocol, settings.concurrency);
        let traces = Traces::from_env(&format!("agent-{name}")).map_err(|error| cannot(&error))?;
        Ok(Self {
            bus: stream.consumer(name, &settings.kernel.subscribes),
            parts: Parts::new(settings.operating_mode, http, traces.tracer(), 1),
            described: described.clone(),
            settings: driver_settings(&settings, &shard),
            store,
            traces,
            listen,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.described.name
    }

    /// As the gateway knows it.
    pub(super) fn known(&self) -> rhizon_api::settings::Agent {
        let subscribes = self.settings.config.subscribes.clone();
        rhizon_api::settings::Agent { name: self.described.name.clone(), subscribes, shards: 1 }
    }

    pub(super) fn store(&self) -> SqliteStore {
        self.store.clone()
    }

    pub(super) fn report(&self) -> watch::Receiver<Report> {
        self.parts.reports[0].subscribe()
    }

    pub(super) fn http(&self) -> HttpAgent {
        self.parts.agent.clone()
    }

    /// Drives until `stop`; the child ends after its driver, as in a pod.
    pub(super) async fn run(self, folder: PathBuf, stop: watch::Receiver<bool>) -> Result<(), Failure> {
        let Self { described, settings, bus, store, traces, parts, listen } = self;
        let name = described.name.clone();
        let mut child = Child::start(described, folder, listen)?;
        let stopped = tokio::select! {
            stopped = parts.drive_until(settings, bus, store.clone(), stop) => stopped,
            failure = child.supervise() => return Err(failure),
        };
        child.stop().await;
        traces.close().await;
        store.close().await;
        match stopped {
            Stopped::Asked => Ok(()),
            stopped => Err(Failure::Unreachable(format!("agent {name} stopped: {stopped}"))),
        }
    }
}

/// A port that nobody has now.
fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.to_string())
}
