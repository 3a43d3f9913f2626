//! Who starts, crashes, doubles and stops processes, and fills disks. Once its time is up it sets everything right again.

use std::sync::{Arc, Mutex, PoisonError};

use rhizon_kernel::Config;
use rhizon_runtime::driver::{Demand, Driver, Order, Report, Settings, Stopped};
use rhizon_runtime::planted::{self, Fault};
use rhizon_runtime::store::StoreError;
use rhizon_runtime::telemetry::Tracer;
use tokio::sync::watch;

use crate::agent::SimAgent;
use crate::broker::Broker;
use crate::bus::SimBus;
use crate::executor::TaskId;
use crate::plan::{AGENTS, SECOND_SHARD, Unit};
use crate::store::SimStore;
use crate::world::{NAMES, World, agent_of, rules};

/// At most so many processes of one agent run at once.
const PROCESSES: u32 = 3;

/// A driver that runs, or did.
pub(crate) struct Instance {
    unit: Unit,
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
        let stores: Vec<SimStore> = world.plan.units().map(|unit| SimStore::new(world.clone(), unit)).collect();
        let agents = stores.iter().map(|store| SimAgent::new(world.clone(), store.ledger.clone())).collect();
        Self { world, broker, stores, agents }
    }

    /// Starts a driver on a store: a process of its own, with a connection of its own.
    pub(crate) fn start(&self, unit: Unit, store: &SimStore) -> Instance {
        let (orders, ordered) = watch::channel(Order::default());
        let (reporter, report) = watch::channel(Report::default());
        let bus = SimBus::new(self.world.clone(), self.broker.clone(), Some((unit, store.ledger.clone())));
        let driver = Driver {
            settings: Arc::new(self.settings(agent_of(unit))),
            bus,
            store: store.clone(),
            agent: self.agents[unit].clone(),
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
        self.world.sim.note("started", unit as u64, task);
        Instance { unit, task, orders, report, ended, asked: false }
    }

    fn settings(&self, agent: usize) -> Settings {
        let driving = &self.world.plan.agents[agent];
        Settings {
            config: self.world.config(agent),
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
    /// How many changes of the plan are done, and how many each agent has had.
    changed: usize,
    versions: [usize; AGENTS],
}

impl Director {
    pub(crate) fn new(stage: Stage) -> Self {
        let instances = stage.world.plan.units().map(|unit| stage.start(unit, &stage.stores[unit])).collect();
        Self { stage, instances, changed: 0, versions: [0; AGENTS] }
    }

    /// Makes trouble until the time is up, and then sees to it that each unit has one process that works.
    pub(crate) async fn direct(mut self) {
        let world = self.stage.world.clone();
        while world.sim.now_us() < world.plan.trouble_us {
            world.sim.sleep_us(world.sim.rng(|rng| rng.between(100, 150_000))).await;
            self.reap(true);
            self.change().await;
            for unit in world.plan.units() {
                self.trouble(unit);
            }
            self.narrow();
        }
        world.calm_down();
        while !world.is_quiet() {
            self.reap(true);
            self.narrow();
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

    /// Changes what an agent takes, as the operator does: its processes end, filters are widened, a place is picked and
    /// written, and processes with the new rules start. Nobody else is disturbed.
    async fn change(&mut self) {
        let world = self.stage.world.clone();
        let Some(&(_, agent)) = world.plan.changes.get(self.changed).filter(|(at_us, _)| *at_us < world.sim.now_us())
        else {
            return;
        };
        let units: Vec<Unit> = world.plan.units().filter(|unit| agent_of(*unit) == agent).collect();
        if units.iter().any(|unit| self.stage.stores[*unit].ledger.is_at_its_last(PROCESSES)) {
            return;
        }
        world.count("rules changed");
        self.changed += 1;
        self.versions[agent] += 1;
        if !planted::is(Fault::PlaceWhileReading) {
            for unit in &units {
                self.crash(*unit);
            }
        }
        let before = world.config(agent);
        let (subscribes, authorization) = rules(agent, self.versions[agent]);
        let wanted = Config { subscribes, authorization, ..before.clone() };
        let pause = || world.sim.sleep_us(world.sim.rng(|rng| rng.between(1, 300_000)));
        pause().await;
        let types = wanted.clone().following(&before, u64::MAX, 0).subscribes_behind(0);
        for unit in &units {
            self.stage.broker.filter(*unit, types.clone());
        }
        pause().await;
        let place = self.stage.broker.last() + 1;
        let handled = units.iter().map(|unit| self.stage.broker.handled(*unit)).min().unwrap_or(0);
        world.configure(agent, wanted.following(&before, place, handled));
        world.sim.note("place", agent as u64, place);
        pause().await;
        if planted::is(Fault::PlaceWhileReading) {
            for unit in &units {
                self.crash(*unit);
            }
        }
        self.reap(true);
    }

    /// Closes filters to what counts no more.
    fn narrow(&self) {
        let (world, broker) = (&self.stage.world, &self.stage.broker);
        for unit in world.plan.units() {
            let handled = if planted::is(Fault::NarrowedEarly) { u64::MAX } else { broker.handled(unit) };
            broker.filter(unit, world.config(agent_of(unit)).subscribes_behind(handled));
        }
    }

    fn trouble(&mut self, unit: Unit) {
        let world = self.stage.world.clone();
        let store = self.stage.stores[unit].clone();
        let until_us = world.sim.now_us() + world.sim.rng(|rng| rng.between(1_000, 2_000_000));
        if world.strikes("disk full", |rates| rates.disk_full) {
            store.fill(until_us);
        }
        if unit == 0 && world.strikes("stream full", |rates| rates.stream_full) {
            self.stage.broker.fill(until_us);
        }
        let processes = self.instances.iter().filter(|instance| instance.unit == unit).count();
        if store.ledger.is_at_its_last(u32::try_from(processes).unwrap_or(u32::MAX)) {
            return;
        }
        if world.strikes("crash", |rates| rates.crash) {
            self.crash(unit);
        }
        if world.strikes("fuse", |rates| rates.fuse) {
            let polls = world.sim.rng(|rng| u32::try_from(rng.between(1, 300)).unwrap_or(1));
            if let Some(instance) = self.instances.iter().rfind(|instance| instance.unit == unit) {
                store.ledger.disturb();
                let ledger = store.ledger.clone();
                world.sim.light_fuse(instance.task, polls, Box::new(move || !ledger.is_at_its_last(PROCESSES)));
            }
        }
        if processes < PROCESSES as usize && world.strikes("second instance", |rates| rates.second_instance) {
            store.ledger.disturb();
            self.instances.push(self.stage.start(unit, &store));
        }
        // Another pod gets the shard: it takes over while the one before still has it.
        if unit == SECOND_SHARD && processes == 1 && world.strikes("shard moved", |rates| rates.shard_moved) {
            store.ledger.disturb();
            self.instances.push(self.stage.start(unit, &store));
        }
        if world.strikes("stop", |rates| rates.stop)
            && let Some(instance) = self.instances.iter_mut().find(|instance| instance.unit == unit)
        {
            store.ledger.disturb();
            instance.stop();
        }
    }

    fn crash(&mut self, unit: Unit) {
        self.stage.stores[unit].ledger.disturb();
        let mut index = 0;
        while index < self.instances.len() {
            if self.instances[index].unit == unit {
                let instance = self.instances.remove(index);
                self.stage.world.sim.kill(instance.task);
            } else {
                index += 1;
            }
        }
    }

    /// Buries what has ended, and starts a unit's process again when it has none left.
    fn reap(&mut self, start_again: bool) {
        let (world, stores) = (self.stage.world.clone(), &self.stage.stores);
        self.instances.retain_mut(|instance| {
            // The report's other end goes with the process, also when it was killed.
            if instance.report.has_changed().is_ok() {
                return true;
            }
            world.sim.note("ended", instance.unit as u64, instance.task);
            if start_again {
                world.progressed(); // Others now get what it would have got.
            }
            match instance.ended() {
                None => world.count("killed"),
                Some(Stopped::Asked) if instance.asked => {}
                Some(Stopped::Store(StoreError::Fenced { .. })) => {
                    // Also by a claim of its own that was thought lost, and came late.
                    stores[instance.unit].ledger.disturb();
                    world.count("fenced");
                }
                Some(stopped) => world.violated(format!("{} stopped: {stopped}", NAMES[agent_of(instance.unit)])),
            }
            false
        });
        for unit in world.plan.units().filter(|_| start_again) {
            if !self.instances.iter().any(|instance| instance.unit == unit) {
                self.instances.push(self.stage.start(unit, &self.stage.stores[unit]));
            }
        }
    }
}
