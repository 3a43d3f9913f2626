//! `rhizon-runtime sidecar`: one agent's drivers, one for each shard of this pod, with their doors, from settings to a clean
//! stop.

mod doors;
mod hold;
mod reading;
mod shard;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rhizon_api::agent::OperatingMode;
use rhizon_api::settings;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::http::HttpAgent;
use crate::bus::EventBus;
use crate::bus::nats::Connection;
use crate::clock::SystemClock;
use crate::driver::{self, Demand, Driver, Ordering, Report, Retry, Stopped};
use crate::metrics::Metrics;
use crate::store::EventStore;
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

/// Runs until `stop`, or until a driver must not go on; `Ok` only for the first.
pub async fn run(settings: settings::Sidecar, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let connection = Connection::start(&settings.nats).await?;
    let traces = Traces::from_env(&settings.nats.user)?;
    let agent = HttpAgent::new(&settings.agent_url, settings.protocol, settings.concurrency);
    let own: Vec<settings::Shard> = settings.shards_of(ordinal()).cloned().collect();
    if own.is_empty() {
        bail!("of {} shards and {} replicas none is for this pod", settings.shards.len(), settings.replicas);
    }
    let parts = Arc::new(Parts::new(settings.operating_mode, agent, traces.tracer(), own.len()));
    let mut tasks = JoinSet::new();
    tasks.spawn(doors::serve_health(settings.health_listen.clone(), parts.clone()));
    tasks.spawn(doors::serve_drain(settings.drain_listen.clone(), parts.hold.clone()));
    tasks.spawn(parts.hold.clone().follow());
    let mut shards = JoinSet::new();
    let mut desks = Vec::with_capacity(own.len());
    for (place, shard) in own.into_iter().enumerate() {
        desks.push(Box::pin(shard::start(&settings, shard, &connection, &parts, place, &mut shards)).await?);
    }
    tasks.spawn(reading::serve(connection.clone(), settings.kernel.agent.clone(), settings.shards.len(), desks));
    let stopped = tokio::select! {
        stopped = first(&mut shards) => stopped,
        Some(ended) = tasks.join_next() => ended.context("a task died")?.map(|()| Stopped::Asked),
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => {
            parts.hold.ask(Demand::Stop);
            let patience = tokio::time::timeout(STOP_TIME, all(&mut shards)).await;
            patience.unwrap_or(Ok(Stopped::Asked))
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), connection.client.flush()).await;
    tasks.shutdown().await;
    shards.shutdown().await;
    traces.close().await;
    match stopped? {
        Stopped::Asked => Ok(()),
        stopped => Err(anyhow::Error::new(stopped)),
    }
}

/// How long what the agent has in hand may take when the sidecar stops; what is cut off is done again.
const STOP_TIME: Duration = Duration::from_secs(20);

/// Which of the agent's pods this is.
fn ordinal() -> u32 {
    std::env::var("POD_NAME").ok().and_then(|pod| settings::ordinal(&pod)).unwrap_or(0)
}

type Shards = JoinSet<anyhow::Result<Stopped>>;

async fn first(shards: &mut Shards) -> anyhow::Result<Stopped> {
    shards.join_next().await.context("no shard runs")?.context("a shard died")?
}

async fn all(shards: &mut Shards) -> anyhow::Result<Stopped> {
    while let Some(ended) = shards.join_next().await {
        match ended.context("a shard died")?? {
            Stopped::Asked => {}
            stopped => return Ok(stopped),
        }
    }
    Ok(Stopped::Asked)
}

/// What an agent's drivers and the doors share.
pub struct Parts {
    pub agent: HttpAgent,
    pub hold: Hold,
    /// One for each driver.
    pub reports: Vec<watch::Sender<Report>>,
    pub mode: OperatingMode,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
}

impl Parts {
    pub fn new(mode: OperatingMode, agent: HttpAgent, tracer: Tracer, drivers: usize) -> Self {
        let new = |_| watch::Sender::new(Report { agent_reachable: true, ..Report::default() });
        let reports: Vec<watch::Sender<Report>> = (0..drivers).map(new).collect();
        let hold = Hold::new(demand(mode), reports.iter().map(watch::Sender::subscribe).collect(), agent.clone());
        Self { hold, agent, reports, mode, metrics: Arc::default(), tracer }
    }

    /// Drives until it ends by itself or is asked to stop.
    pub async fn drive(
        &self,
        settings: driver::Settings,
        bus: impl EventBus,
        store: impl EventStore,
        place: usize,
    ) -> Stopped {
        let driver = Driver {
            settings: Arc::new(settings),
            bus,
            store,
            agent: self.agent.clone(),
            clock: SystemClock,
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            orders: self.hold.orders(),
            report: self.reports[place].clone(),
        };
        driver.drive().await
    }
}

impl Parts {
    /// The same in a process that has nothing else to do.
    pub async fn drive_until(
        &self,
        settings: driver::Settings,
        bus: impl EventBus,
        store: impl EventStore,
        mut stop: watch::Receiver<bool>,
    ) -> Stopped {
        let mut drive = std::pin::pin!(self.drive(settings, bus, store, 0));
        tokio::select! {
            stopped = &mut drive => return stopped,
            // In a block of its own: what `wait_for` gives must not be held while the driver ends.
            () = async { let _ = stop.wait_for(|stop| *stop).await; } => {}
        }
        self.hold.ask(Demand::Stop);
        tokio::time::timeout(STOP_TIME, drive).await.unwrap_or(Stopped::Asked)
    }
}

fn demand(mode: OperatingMode) -> Demand {
    match mode {
        OperatingMode::Running => Demand::Run,
        OperatingMode::Draining => Demand::Drain,
        OperatingMode::Paused | OperatingMode::Suspended => Demand::Hold,
    }
}
