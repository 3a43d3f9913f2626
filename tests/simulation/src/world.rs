//! What all parts share: time and chance, the seed's plan, and what was seen to be wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhizon_kernel::{Config, Limits, Rule, TypePattern};

use crate::executor::Sim;
use crate::plan::{AGENTS, Plan, Rates, SECOND_SHARD, Unit};

/// Nothing in a run takes longer than this without anything else happening.
pub(crate) const QUIET_US: u64 = 100_000_000;

#[derive(Clone)]
pub(crate) struct World {
    pub sim: Sim,
    pub plan: Arc<Plan>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calm: bool,
    progress_us: u64,
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    /// What each agent lives under, as the operator wrote it last.
    configs: Vec<Config>,
}

impl World {
    pub(crate) fn new(sim: Sim, plan: Plan) -> Self {
        let configs = (0..AGENTS).map(config).collect();
        let state = State { configs, ..State::default() };
        Self { sim, plan: Arc::new(plan), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self, agent: usize) -> Config {
        self.state().configs[agent].clone()
    }

    pub(crate) fn configure(&self, agent: usize, config: Config) {
        self.state().configs[agent] = config;
    }

    /// Whether a fault happens now. None does once the world is calm.
    pub(crate) fn strikes(&self, fault: &'static str, rate: impl Fn(&Rates) -> u32) -> bool {
        let rate = rate(&self.plan.rates);
        if rate == 0 || self.state().calm {
            return false;
        }
        let strikes = self.sim.rng(|rng| rng.permille(rate));
        if strikes {
            self.count(fault);
            self.sim.note(fault, 0, 0);
        }
        strikes
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    /// How long one way to store or broker takes.
    pub(crate) fn latency_us(&self) -> u64 {
        let most = if self.strikes("slow", |rates| rates.slow) { 3_000_000 } else { 2_000 };
        self.sim.rng(|rng| rng.between(20, most))
    }

    /// How long what nobody waits for any more may still take to arrive.
    pub(crate) fn late_us(&self) -> u64 {
        self.sim.rng(|rng| if rng.permille(500) { rng.between(20, 2_000) } else { rng.between(2_000, 1_500_000) })
    }

    pub(crate) fn calm_down(&self) {
        self.state().calm = true;
        self.progressed();
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.state().calm
    }

    /// Something happened that others may have to react to.
    pub(crate) fn progressed(&self) {
        self.state().progress_us = self.sim.now_us();
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.calm && self.sim.now_us() > state.progress_us + QUIET_US
    }

    pub(crate) fn violated(&self, what: String) {
        self.sim.note("violated", 0, 0);
        self.state().violations.push(what);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.state().violations.first().cloned()
    }
}

pub(crate) const NAMES: [&str; AGENTS] = ["intake", "middle", "last"];

/// Whose share a unit is.
pub(crate) fn agent_of(unit: Unit) -> usize {
    if unit == SECOND_SHARD { 0 } else { unit }
}

fn config(agent: usize) -> Config {
    let publishes = [vec!["evt.job.taken", "evt.job.aside"], vec!["evt.job.sorted"], vec![]];
    let (subscribes, authorization) = rules(agent, 0);
    Config {
        workspace: "sim".into(),
        agent: NAMES[agent].into(),
        subscribes,
        publishes: publishes[agent].iter().map(|text| text.parse().expect("it is a type")).collect(),
        authorization,
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    }
}

/// What an agent takes after so many changes, and from whom: types come, go and come back.
pub(crate) fn rules(agent: usize, changes: usize) -> (Vec<TypePattern>, Vec<Rule>) {
    let (types, clerks): (&[&str], &str) = match (agent, changes % 3) {
        (0, 0) => (&["cmd.job.open", "cmd.job.close"], "cmd.job.close"),
        (0, 1) => (&["cmd.job.open", "cmd.job.audit"], "cmd.job.open"),
        (0, _) => (&["cmd.job.*"], "cmd.job.audit"),
        (1, 0) => (&["evt.job.taken"], ""),
        (1, 1) => (&["evt.job.taken", "evt.job.aside"], "evt.job.taken"),
        (1, _) => (&["evt.job.aside"], ""),
        (_, 0) => (&["evt.job.sorted"], ""),
        (_, _) => (&["evt.job.sorted"], "evt.job.*"),
    };
    let pattern = |text: &str| text.parse().expect("it is a type");
    let rule = |text: &str| Rule { event_type: pattern(text), roles: vec!["clerk".into()] };
    (
        types.iter().copied().map(pattern).collect(),
        Some(clerks).filter(|text| !text.is_empty()).map(rule).into_iter().collect(),
    )
}
