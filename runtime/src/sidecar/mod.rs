//! `rhizon-runtime sidecar`: one agent's driver with its doors, from settings to a clean stop.

mod doors;
mod hold;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rhizon_api::agent::OperatingMode;
use rhizon_api::settings;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::http::HttpAgent;
use crate::bus::EventBus;
use crate::bus::jetstream::JetStreamBus;
use crate::bus::nats::Connection;
use crate::clock::SystemClock;
use crate::driver::{self, Demand, Driver, Ordering, Report, Retry, Stopped};
use crate::metrics::Metrics;
use crate::store::EventStore;
use crate::store::jetstream::{JetStreamStore, Place};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::{Tracer, Traces};

pub use hold::Hold;
pub use reading::NEXT;

/// The driver's view of the settings of one shard.
pub fn driver_settings(settings: &settings::Sidecar, shard: &settings::Shard) -> driver::Settings {
    driver::Settings {
        config: settings.kernel.clone(),
        ordering: match settings.ordering {
            rhizon_api::agent::Ordering::Stream => Ordering::Stream,
            rhizon_api::agent::Ordering::Entity => Ordering::Entity,
        },
        retry: Retry {
            attempts: settings.retry.attempts,
            initial_ms: settings.retry.initial_ms,
            max_ms: settings.retry.max_ms,
        },
        batch_events: settings.batch_events,
        concurrency: settings.concurrency,
        revision: settings.revision.clone(),
        first_position: shard.consumer.first_sequence.saturating_sub(1),
        bounds: driver::Bounds::default(),
    }
}

/// Runs until `stop`, or until the driver must not go on; `Ok` only for the first.
pub async fn run(settings: settings::Sidecar, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let shard = settings.shards.first().context("the settings name no shard")?;
    let connection = Connection::start(&settings.nats).await?;
    match &shard.store {
        settings::Store::Sqlite { path } => {
            let store = SqliteStore::open(path).await;
            let store = store.with_context(|| format!("opening the store {}", path.display()))?;
            let result = run_with(&settings, shard, connection, store.clone(), stop).await;
            store.close().await;
            result
        }
        settings::Store::Postgres { url_file, schema } => {
            let url = tokio::fs::read_to_string(url_file).await;
            let url = url.with_context(|| format!("reading the database's URL in {}", url_file.display()))?;
            let store = PostgresStore::open(url.trim(), schema).await;
            let store = store.with_context(|| format!("opening the store {schema}"))?;
            let result = run_with(&settings, shard, connection, store.clone(), stop).await;
            store.close().await;
            result
        }
        settings::Store::JetStream { stream, subject, consumer, cache } => {
            let place = Place { stream: stream.clone(), subject: subject.clone(), consumer: consumer.clone() };
            let store = JetStreamStore::open(connection.clone(), place, cache).await;
            let store = store.with_context(|| format!("opening the store's cache {}", cache.display()))?;
            let result = run_with(&settings, shard, connection, store.clone(), stop).await;
            store.close().await;
            result
        }
    }
}

/// The same for every kind of store.
async fn run_with(
    settings: &settings::Sidecar,
    shard: &settings::Shard,
    connection: Connection,
    store: impl EventStore,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let consumer = &shard.consumer;
    let bus = JetStreamBus::new(connection.clone(), consumer.stream.clone(), consumer.name.clone());
    let agent = HttpAgent::new(&settings.agent_url, settings.protocol, settings.concurrency);
    let traces = Traces::from_env(&settings.nats.user)?;
    let parts = Parts::new(settings, agent, traces.tracer());
    let mut tasks = JoinSet::new();
    tasks.spawn(doors::serve_health(settings.health_listen.clone(), parts.health()));
    tasks.spawn(doors::serve_drain(settings.drain_listen.clone(), parts.hold.clone()));
    tasks.spawn(reading::serve(
        connection.clone(),
        settings.kernel.agent.clone(),
        store.clone(),
        parts.report.subscribe(),
    ));
    let stopped = parts.drive(driver_settings(settings, shard), bus, store, stop, &mut tasks).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), connection.client.flush()).await;
    tasks.shutdown().await;
    traces.close().await;
    match stopped? {
        Stopped::Asked => Ok(()),
        stopped => Err(anyhow::Error::new(stopped)),
    }
}

/// What the driver and the doors share.
pub struct Parts {
    pub agent: HttpAgent,
    pub hold: Hold,
    pub report: watch::Sender<Report>,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
}

impl Parts {
    pub fn new(settings: &settings::Sidecar, agent: HttpAgent, tracer: Tracer) -> Self {
        let (report, reports) = watch::channel(Report { agent_reachable: true, ..Report::default() });
        let paused = !matches!(settings.operating_mode, OperatingMode::Running);
        Self { hold: Hold::new(paused, reports, agent.clone()), agent, report, metrics: Arc::default(), tracer }
    }

    fn health(&self) -> doors::Health {
        doors::Health { report: self.report.subscribe(), metrics: self.metrics.clone(), agent: self.agent.clone() }
    }

    /// Runs the driver beside the other tasks; the first of them to end ends all.
    pub async fn drive<B: EventBus, S: EventStore>(
        &self,
        settings: driver::Settings,
        bus: B,
        store: S,
        mut stop: watch::Receiver<bool>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Stopped> {
        tasks.spawn(self.hold.clone().follow());
        let driver = Driver {
            settings: Arc::new(settings),
            bus,
            store,
            agent: self.agent.clone(),
            clock: SystemClock,
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            orders: self.hold.orders(),
            report: self.report.clone(),
        };
        let mut drive = std::pin::pin!(driver.drive());
        loop {
            tokio::select! {
                stopped = &mut drive => return Ok(stopped),
                // In a block of its own: what `wait_for` gives must not be held while the driver ends.
                () = async { let _ = stop.wait_for(|stop| *stop).await; } => {
                    self.hold.ask(Demand::Stop);
                    let patience = tokio::time::timeout(STOP_TIME, &mut drive).await;
                    return Ok(patience.unwrap_or(Stopped::Asked));
                }
                Some(ended) = tasks.join_next() => ended.context("a task died")??,
            }
        }
    }
}

/// How long what the agent has in hand may take when the sidecar stops; what is cut off is done again.
const STOP_TIME: Duration = Duration::from_secs(20);
