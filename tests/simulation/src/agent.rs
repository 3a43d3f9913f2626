//! The agent port: a process that answers as `behaviour` says, if it is there, if it lives, and when it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhizon_kernel::{Envelope, Limits};
use rhizon_runtime::agent::{Agent, Answer, CallError, Item};

use crate::behaviour::{self, Asked, Mood};
use crate::ledger::Ledger;
use crate::world::World;

/// The adapter gives up on an answer after this.
const DEADLINE_US: u64 = 4_000_000;

#[derive(Clone)]
pub(crate) struct SimAgent {
    world: World,
    ledger: Ledger,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Another one for each process that this agent ran in.
    generation: u64,
    down_until_us: u64,
    stumbled: BTreeMap<String, u32>,
}

impl SimAgent {
    pub(crate) fn new(world: World, ledger: Ledger) -> Self {
        Self { world, ledger, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ends, with all it has in hand, and is back after a while.
    fn die(&self) {
        let rest_us = self.world.sim.rng(|rng| rng.between(0, 1_500_000));
        let mut state = self.state();
        state.generation += 1;
        state.down_until_us = self.world.sim.now_us() + rest_us;
    }

    fn is_down(&self) -> bool {
        self.world.sim.now_us() < self.state().down_until_us
    }

    fn mood(&self, item: &Item) -> Mood {
        behaviour::mood(&self.world.plan, self.ledger.agent, &item.context.idempotency_key)
    }

    /// True the first time.
    fn stumbles(&self, item: &Item) -> bool {
        let mut state = self.state();
        let times = state.stumbled.entry(item.context.idempotency_key.clone()).or_default();
        *times += 1;
        *times == 1
    }

    /// A death that no event is at fault for. Not while one is tried alone: it would be charged, and rightly so.
    fn is_killed(&self, items: &[Item]) -> bool {
        let alone = items.iter().any(|item| self.ledger.is_tried(&item.context.idempotency_key));
        !alone && self.world.strikes("agent killed", |rates| rates.agent_killed)
    }

    fn answer(&self, item: &Item) -> Answer {
        match self.mood(item) {
            Mood::Fails => return Answer::Failed(behaviour::failure()),
            Mood::FailsOnce if self.stumbles(item) => return Answer::Failed(behaviour::failure()),
            Mood::Refused => return Answer::Refused(behaviour::refusal()),
            _ => {}
        }
        let subject = Envelope::parse(&item.envelope, &Limits::default()).map(|e| e.subject).unwrap_or_default();
        let asked = Asked {
            agent: self.ledger.agent,
            key: &item.context.idempotency_key,
            seed: &item.context.seed,
            subject: &subject,
            logical_time: format!("{:?}", item.context.logical_time),
            version: item.version,
            state: item.state.as_deref(),
        };
        Answer::Reaction(behaviour::react(&self.world.plan, &asked))
    }
}

impl Agent for SimAgent {
    fn batch(&self) -> usize {
        self.world.plan.agents[self.ledger.agent].agent_batch
    }

    async fn call(&self, items: Vec<Item>) -> Result<Vec<Answer>, CallError> {
        let sim = &self.world.sim;
        sim.note("call", self.ledger.agent as u64, items.len() as u64);
        if self.is_down() || self.world.strikes("agent unreachable", |rates| rates.agent_unreachable) {
            return Err(CallError::Unreachable("connection refused".into()));
        }
        self.world.progressed();
        let generation = self.state().generation;
        let lost = |why: &str| Err(CallError::Lost(why.to_owned()));
        let slow = self.world.strikes("agent slow", |rates| rates.agent_slow);
        sim.sleep_us(sim.rng(|rng| rng.between(10, if slow { DEADLINE_US / 2 } else { 1_000 }))).await;
        let hangs = items.iter().any(|item| match self.mood(item) {
            Mood::Hangs => true,
            Mood::HangsOnce => self.stumbles(item),
            _ => false,
        });
        if hangs {
            sim.sleep_us(DEADLINE_US).await;
            return lost("no answer in time");
        }
        if self.is_killed(&items) || items.iter().any(|item| self.mood(item) == Mood::Kills) {
            self.die();
            return lost("connection reset");
        }
        if self.state().generation != generation {
            return lost("connection reset");
        }
        Ok(items.iter().map(|item| self.answer(item)).collect())
    }
}
