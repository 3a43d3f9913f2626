//! Who starts, crashes, doubles and stops processes, and fills disks. Once its time is up it sets everything right again.

use std::sync::{Arc, Mutex, PoisonError};

use rhizon_runtime::driver::{Demand, Driver, Order, Report, Settings, Stopped};
use rhizon_runtime::store::StoreError;
use rhizon_runtime::telemetry::Tracer;
use tokio::sync::watch;

use crate::agent::SimAgent;
use crate::broker::Broker;
use crate::bus::SimBus;
use crate::executor::TaskId;
use crate::plan::AGENTS;
use crate::store::SimStore;
use crate::world::{NAMES, World};

/// At most so many processes of one agent run at once.
const PROCESSES: u32 = 3;

/// A driver that runs, or did.
pub(crate) struct Instance {
    agent: usize,
    task: TaskId,
    orders: watch::Sender<Order>,
    report: watch::Receiver<Report>,
    ended: Arc<Mutex<Option<Stopped>>>,
    asked: bool,
}

impl Instance {
    /// Why it ended, if it did.
    pub(crate) fn ended(&self) -> Option<Stopped> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn stop(&mut self) {
        self.asked = true;
        self.orders.send_modify(|order| *order = Order { number: order.number + 1, demand: Demand::Stop });
    }
}

#[derive(Clone)]
pub(crate) struct Stage {
    pub world: World,
    pub broker: Broker,
    pub stores: Vec<SimStore>,
    pub agents: Vec<SimAgent>,
}

impl Stage {
    pub(crate) fn new(world: World) -> Self {
        let broker = Broker::new(world.clone());
        let stores: Vec<SimStore> = (0..AGENTS).map(|agent| SimStore::new(world.clone(), agent)).collect();
        let agents = stores.iter().map(|store| SimAgent::new(world.clone(), store.ledger.clone())).collect();
        Self { world, broker, stores, agents }
    }

    /// Starts a driver on a store: a process of its own, with a connection of its own.
    pub(crate) fn start(&self, agent: usize, store: &SimStore) -> Instance {
        let (orders, ordered) = watch::channel(Order::default());
        let (reporter, report) = watch::channel(Report::default());
        let bus = SimBus::new(self.world.clone(), self.broker.clone(), Some((agent, store.ledger.clone())));
        let driver = Driver {
            settings: Arc::new(self.settings(agent)),
            bus,
            store: store.clone(),
            agent: self.agents[agent].clone(),
            clock: self.world.sim.clone(),
            metrics: Arc::default(),
            tracer: Tracer::default(),
            orders: ordered,
            report: reporter,
        };
        let ended = Arc::new(Mutex::new(None));
        let told = ended.clone();
        let task = self.world.sim.spawn(async move {
            let stopped = driver.drive().await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopped);
        });
        self.world.sim.note("started", agent as u64, task);
        Instance { agent, task, orders, report, ended, asked: false }
    }

    fn settings(&self, agent: usize) -> Settings {
        let driving = &self.world.plan.agents[agent];
        Settings {
            config: self.world.configs[agent].clone(),
            ordering: driving.ordering,
            retry: driving.retry,
            batch_events: driving.batch_events,
            concurrency: driving.concurrency,
            revision: "simulated".into(),
            first_position: 0,
            bounds: driving.bounds,
        }
    }
}

pub(crate) struct Director {
    stage: Stage,
    instances: Vec<Instance>,
}

impl Director {
    pub(crate) fn new(stage: Stage) -> Self {
        let instances = (0..AGENTS).map(|agent| stage.start(agent, &stage.stores[agent])).collect();
        Self { stage, instances }
    }

    /// Makes trouble until the time is up, and then sees to it that each agent has one process that works.
    pub(crate) async fn direct(mut self) {
        let world = self.stage.world.clone();
        while world.sim.now_us() < world.plan.trouble_us {
            world.sim.sleep_us(world.sim.rng(|rng| rng.between(100, 150_000))).await;
            self.reap(true);
            for agent in 0..AGENTS {
                self.trouble(agent);
            }
        }
        world.calm_down();
        while !world.is_quiet() {
            self.reap(true);
            world.sim.sleep_us(1_000_000).await;
        }
        for instance in &mut self.instances {
            instance.stop();
        }
        while !self.instances.is_empty() {
            world.sim.sleep_us(100_000).await;
            self.reap(false);
        }
    }

    fn trouble(&mut self, agent: usize) {
        let world = self.stage.world.clone();
        let store = self.stage.stores[agent].clone();
        let until_us = world.sim.now_us() + world.sim.rng(|rng| rng.between(1_000, 2_000_000));
        if world.strikes("disk full", |rates| rates.disk_full) {
            store.fill(until_us);
        }
        if agent == 0 && world.strikes("stream full", |rates| rates.stream_full) {
            self.stage.broker.fill(until_us);
        }
        let processes = self.instances.iter().filter(|instance| instance.agent == agent).count();
        if store.ledger.is_at_its_last(u32::try_from(processes).unwrap_or(u32::MAX)) {
            return;
        }
        if world.strikes("crash", |rates| rates.crash) {
            self.crash(agent);
        }
        if world.strikes("fuse", |rates| rates.fuse) {
            let polls = world.sim.rng(|rng| u32::try_from(rng.between(1, 300)).unwrap_or(1));
            if let Some(instance) = self.instances.iter().rfind(|instance| instance.agent == agent) {
                let ledger = store.ledger.clone();
                world.sim.light_fuse(instance.task, polls, Box::new(move || !ledger.is_at_its_last(PROCESSES)));
            }
        }
        if processes < PROCESSES as usize && world.strikes("second instance", |rates| rates.second_instance) {
            self.instances.push(self.stage.start(agent, &store));
        }
        if world.strikes("stop", |rates| rates.stop)
            && let Some(instance) = self.instances.iter_mut().find(|instance| instance.agent == agent)
        {
            instance.stop();
        }
    }

    fn crash(&mut self, agent: usize) {
        let mut index = 0;
        while index < self.instances.len() {
            if self.instances[index].agent == agent {
                let instance = self.instances.remove(index);
                self.stage.world.sim.kill(instance.task);
            } else {
                index += 1;
            }
        }
    }

    /// Buries what has ended, and starts an agent's process again when it has none left.
    fn reap(&mut self, start_again: bool) {
        let world = self.stage.world.clone();
        self.instances.retain_mut(|instance| {
            // The report's other end goes with the process, also when it was killed.
            if instance.report.has_changed().is_ok() {
                return true;
            }
            world.sim.note("ended", instance.agent as u64, instance.task);
            if start_again {
                world.progressed(); // Others now get what it would have got.
            }
            match instance.ended() {
                None => world.count("killed"),
                Some(Stopped::Asked) if instance.asked => {}
                Some(Stopped::Store(StoreError::Fenced { .. })) => world.count("fenced"),
                Some(stopped) => world.violated(format!("{} stopped: {stopped}", NAMES[instance.agent])),
            }
            false
        });
        for agent in (0..AGENTS).filter(|_| start_again) {
            if !self.instances.iter().any(|instance| instance.agent == agent) {
                self.instances.push(self.stage.start(agent, &self.stage.stores[agent]));
            }
        }
    }
}
