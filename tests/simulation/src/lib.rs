//! The driver, simulated: real driver, real kernel, real checks of a consumer's sequence; time, broker, stores, agents and
//! their failures come from one seed.
//!
//! ```text
//!  clients ─▶ broker (log, consumers) ─▶ intake ─▶ middle ─▶ last      three drivers in a chain, each with a store
//!                 ▲                        │                             and an agent that may be slow, wrong or gone
//!                 └────────────────────────┘
//!  director: crashes, restarts, doubles and stops drivers, fills disks and stream; then all is calm, until nothing moves
//!  oracle: journals verify, replay is the live state, decisions are those of a sequential model, outputs match journals
//! ```
//!
//! One seed is one run, byte for byte: one thread, virtual time, and every choice from one generator.

mod agent;
mod behaviour;
mod broker;
mod bus;
mod clients;
mod director;
mod executor;
mod ledger;
mod letters;
mod model;
mod oracle;
mod plan;
mod rng;
mod store;
mod timers;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use director::{Director, Stage};
use executor::{End, Executor, Sim};
use plan::Plan;
use rhizon_runtime::driver::Stopped;
use rng::Rng;
use trace::Trace;
use world::World;

/// What has not come to rest by this virtual time never will.
const LIMIT_US: u64 = 3_600_000_000;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    /// Hash over everything that happened: two runs of one seed have the same.
    pub trace: u64,
    pub violation: Option<String>,
    /// How often which fault happened.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// How to see it again.
    pub fn command(&self) -> String {
        format!("cargo xtask simulate --from {} --seeds 1 --trace", self.seed)
    }
}

/// Runs one seed. A panic is a violation like any other.
pub fn run(seed: u64, print: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng);
    if print {
        eprintln!("{plan:#?}");
    }
    let sim = Sim::new(rng.next(), Trace::new(print));
    let world = World::new(sim, plan);
    let result = catch_unwind(AssertUnwindSafe(|| perform(&world)));
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => Some(format!("a panic: {}", words(&*panic))),
    };
    Outcome { seed, trace: world.sim.trace(), violation, faults: world.counts() }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn perform(world: &World) -> Result<(), String> {
    let stage = Stage::new(world.clone());
    let mut executor = Executor::new(world.sim.clone());
    world.sim.spawn(stage.broker.clone().tick());
    let letters = world.sim.rng(|rng| clients::letters(&world.plan, rng));
    let bus = bus::SimBus::new(world.clone(), stage.broker.clone(), None);
    let sent = spawn_until_done(world, clients::send(world.clone(), bus.clone(), letters));
    let dealt = spawn_until_done(world, letters::deal(world.clone(), stage.broker.clone(), bus));
    let directed = spawn_until_done(world, Director::new(stage.clone()).direct());
    let end =
        executor.run_until(|| directed.load(Relaxed) || world.violation().is_some() || world.sim.now_us() > LIMIT_US);
    if let Some(violation) = world.violation() {
        return Err(violation);
    }
    if end == End::Spinning {
        return Err("somebody works without end and gets nowhere".into());
    }
    if ![&directed, &sent, &dealt].iter().all(|done| done.load(Relaxed)) {
        return Err("it does not come to rest".into());
    }
    oracle::check(world, &stage.broker, &stage.stores)?;
    match world.plan.roll_back {
        Some(agent) => a_store_rolled_back_is_refused(&stage, &mut executor, agent),
        None => Ok(()),
    }
}

/// Whether a task has ended.
fn spawn_until_done(world: &World, task: impl Future<Output = ()> + Send + 'static) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    world.sim.spawn(async move {
        task.await;
        told.store(true, Relaxed);
    });
    done
}

/// A store that is behind what the broker was told is refused, and nothing is done with it.
fn a_store_rolled_back_is_refused(stage: &Stage, executor: &mut Executor, agent: usize) -> Result<(), String> {
    let (store, floor) = (&stage.stores[agent], stage.broker.floor(agent));
    let batches = store.ledger.batches();
    let kept = stage.world.sim.rng(|rng| rng.index(batches.len() + 1));
    let position = kept.checked_sub(1).map_or(0, |last| batches[last].position);
    if position >= floor {
        return Ok(());
    }
    let until_us = stage.world.sim.now_us() + world::QUIET_US;
    let instance = stage.start(agent, &store.rolled_back(&batches[..kept]));
    let sim = stage.world.sim.clone();
    let (ended, looks) = (std::cell::RefCell::new(None), &instance);
    executor.run_until(|| {
        let mut ended = ended.borrow_mut();
        *ended = ended.take().or_else(|| looks.ended());
        ended.is_some() || sim.now_us() > until_us
    });
    match ended.into_inner() {
        Some(Stopped::StoreLost { .. }) => Ok(()),
        other => Err(format!("a store rolled back from {floor} to {position} is not refused: {other:?}")),
    }
}
