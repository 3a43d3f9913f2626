//! What all parts share: time and chance, the seed's plan, and what was seen to be wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhizon_kernel::Config;

use crate::executor::Sim;
use crate::plan::{AGENTS, Plan, Rates};

/// Nothing in a run takes longer than this without anything else happening.
pub(crate) const QUIET_US: u64 = 100_000_000;

#[derive(Clone)]
pub(crate) struct World {
    pub sim: Sim,
    pub plan: Arc<Plan>,
    pub configs: Arc<Vec<Config>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calm: bool,
    progress_us: u64,
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(sim: Sim, plan: Plan) -> Self {
        let configs = (0..AGENTS).map(config).collect();
        Self { sim, plan: Arc::new(plan), configs: Arc::new(configs), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

fn config(agent: usize) -> Config {
    let subscribes = ["cmd.job.*", "evt.job.taken", "evt.job.sorted"][agent];
    let publishes = [Some("evt.job.taken"), Some("evt.job.sorted"), None][agent];
    let rules = serde_json::json!([{ "type": "cmd.job.close", "roles": ["clerk"] }]);
    let config = serde_json::json!({
        "workspace": "sim",
        "agent": NAMES[agent],
        "subscribes": [subscribes],
        "publishes": publishes.into_iter().collect::<Vec<_>>(),
        "authorization": if agent == 0 { rules } else { serde_json::json!([]) },
    });
    serde_json::from_value(config).expect("the config is as config.rs describes it")
}
