//! What one agent's store has made durable, as seen from outside: what may be published, acknowledged and charged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhizon_kernel::chain::{Hash, prefixed};
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::record::{Decided, Line, Part};
use rhizon_kernel::{Envelope, Limits};
use rhizon_runtime::bus::Outgoing;
use rhizon_runtime::store::Batch;

use crate::plan::Unit;
use crate::world::{NAMES, World, agent_of};

#[derive(Clone)]
pub(crate) struct Ledger {
    world: World,
    unit: Unit,
    pub agent: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    batches: Vec<Batch>,
    /// Keys of everything that the journal says must be published.
    owed: BTreeSet<Hash>,
    position: u64,
    tried: BTreeMap<Hash, u32>,
    settled: BTreeSet<Hash>,
    /// Whether a process of it was ended, or had another one beside it.
    disturbed: bool,
}

impl Ledger {
    pub(crate) fn new(world: World, unit: Unit) -> Self {
        Self { world, unit, agent: agent_of(unit), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch is durable, and the store stands at `position`.
    pub(crate) fn appended(&self, batch: &Batch, position: u64) {
        let mut state = self.state();
        for entry in &batch.entries {
            let keys = owed(self.agent, &entry.line).unwrap_or_default();
            state.owed.extend(keys);
            if let Some((key, _)) = entry.decision.as_ref().and_then(|decision| decision.identity) {
                state.tried.remove(&key);
                state.settled.insert(key);
            }
        }
        let before = std::mem::replace(&mut state.position, position);
        state.batches.push(batch.clone());
        drop(state);
        if position < before {
            self.world.violated(format!("the store of {} went back from {before} to {position}", NAMES[self.agent]));
        }
        self.world.sim.note("appended", self.unit as u64, batch.tail.sequence);
        self.world.sim.note("position", self.unit as u64, position);
        self.world.progressed();
    }

    /// Messages reach the broker: each must be owed by a durable record.
    pub(crate) fn lands(&self, messages: &[Outgoing]) {
        let state = self.state();
        if let Some(message) = messages.iter().find(|message| !state.owed.contains(&message.key)) {
            let name = NAMES[self.agent];
            self.world.violated(format!("{name} published what no durable record says: {}", message.subject));
        }
    }

    pub(crate) fn acknowledges(&self, position: u64) {
        let durable = self.state().position;
        if position > durable {
            let name = NAMES[self.agent];
            self.world.violated(format!("{name} acknowledged {position}, and its store stands at {durable}"));
        }
    }

    pub(crate) fn tried(&self, key: Hash, attempts: u32) {
        self.state().tried.insert(key, attempts);
        self.world.sim.note("tried", self.unit as u64, u64::from(attempts));
        self.world.progressed();
    }

    /// Whether an event has so many lone tries behind it that the next crash or takeover, which counts as one, could be its
    /// end, with those that are on their way. The driver is right to give up such an event, but the model could not know.
    pub(crate) fn is_at_its_last(&self, takeovers: u32) -> bool {
        let state = self.state();
        let most = self.world.plan.agents[self.agent].retry.attempts;
        state.tried.iter().any(|(key, attempts)| attempts + 3 + takeovers > most && !state.settled.contains(key))
    }

    pub(crate) fn is_tried(&self, key: &str) -> bool {
        Hash::from_hex(key.as_bytes()).is_some_and(|key| self.state().tried.contains_key(&key))
    }

    pub(crate) fn disturb(&self) {
        self.state().disturbed = true;
    }

    pub(crate) fn is_disturbed(&self) -> bool {
        self.state().disturbed
    }

    /// Whether the journal says that it must be published.
    pub(crate) fn owes(&self, key: &Hash) -> bool {
        self.state().owed.contains(key)
    }

    /// Everything that was made durable, in order.
    pub(crate) fn batches(&self) -> Vec<Batch> {
        self.state().batches.clone()
    }
}

/// The keys of what a journal line says must be published.
pub(crate) fn owed(agent: usize, line: &[u8]) -> Option<Vec<Hash>> {
    let Part::Decided(bytes) = Line::parse(line).ok()?.part else { return Some(Vec::new()) };
    let decided = Decided::parse(bytes).ok()?;
    let publisher = format!("agent-{}", NAMES[agent]);
    let mut keys = Vec::new();
    for raw in &decided.outputs {
        let output = Envelope::parse(raw.get().as_bytes(), &Limits::default()).ok()?;
        keys.push(dedup_key(&publisher, &output.source, &output.id));
    }
    if decided.outcome == "dead-lettered" {
        keys.push(prefixed(&[b"dead", NAMES[agent].as_bytes(), bytes]));
    }
    Some(keys)
}
